"""The top of report.html: the verdict in one sentence with its number and interval, and the key figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report.markup import element
from rcnas_edge.report.verdict import main_verdict
from rcnas_edge.report.words import (
    JOINED,
    PREDICTED,
    amount,
    ball,
    beside,
    decision,
    interval,
    percent,
    points,
    share,
    timed_on,
)

Content = Mapping[str, Any]


def header(content: Content) -> Element:
    """What was found, in the order in which a reader asks."""
    top = element("header", element("p", *_origin(content), class_="kicker"))
    verdict = main_verdict(content)
    if content["failed"]:
        top.append(decision("did not finish"))
        top.append(element("h1", "This run did not finish."))
        top.append(_failure(content))
    elif verdict is None:
        top.append(decision("not checked"))
        top.append(element("h1", "Not checked: no file was attacked, so nothing is claimed about robustness."))
    if verdict is not None:
        top.append(decision(verdict["decision"]))
        top.append(element("h2" if content["failed"] else "h1", sentence(verdict)))
        if verdict["reasons"]:
            top.append(element("p", _capital("; ".join(verdict["reasons"])), ".", class_="lede"))
    tiles = _tiles(content, verdict)
    if len(tiles):
        top.append(tiles)
    return top


def sentence(verdict: Mapping[str, Any]) -> str:
    """A verdict in one sentence."""
    within = f"under every attack tried ({ball(verdict['threat'])})"
    if not verdict["robust"]:
        return f"{_capital(verdict['decision'])}: nothing is claimed about robustness {within}."
    rate = verdict["robust"]
    low, high = (f"{100 * rate[end]:.1f}" for end in ("low", "high"))
    said = f"{percent(rate['value'])} [{low}, {high}] of {rate['total']}{JOINED}test images stay right {within}"
    tail = {
        "robust": "",
        "not robust": ", which is not what was asked",
        "inconclusive": ", and something speaks against relying on it",
        "not checked": "",
    }[verdict["decision"]]
    return f"{_capital(verdict['decision'])}: {said}{tail}."


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _origin(content: Content) -> list[Element | str]:
    """Which network this is about, made from which."""
    network, teacher = content["architecture"], (content["teacher"] or {}).get("name")
    parts: list[Element | str] = ["rcnas-edge report"]
    if network:
        parts += [" · student ", element("strong", network["name"])]
    if teacher:
        parts += [" · made from the teacher ", element("strong", teacher)]
    data = content["task"].get("dataset") if isinstance(content["task"], Mapping) else None
    if isinstance(data, Mapping):
        data = data.get("name")
    return [*parts, f" · {data}"] if isinstance(data, str) else parts


def _failure(content: Content) -> Element:
    box = element("div", element("p", element("strong", "What ended it: "), content["failed"]), class_="failed")
    advice = content["advice"] or ["Give the same command again: stages that are done are not done again."]
    box.append(element("p", element("strong", "What to try:")))
    box.append(element("ul", *(element("li", one) for one in advice)))
    return box


def _tiles(content: Content, verdict: Mapping[str, Any] | None) -> Element:
    tiles = element("dl", class_="tiles")

    def tile(label: str, value: str, *small: str) -> None:
        parts = [element("small", line) for line in small if line]
        tiles.append(element("div", element("dt", label), element("dd", value, *parts)))

    teacher = content["teacher"] or {}
    for name in ("robust", "clean"):
        if verdict and verdict[name]:
            tile(f"{_capital(name)} accuracy", percent(verdict[name]["value"]), interval(verdict[name]),
                 _beside(verdict, teacher, name))  # fmt: skip
    costs = content["cost"] or {}
    for target, cost in costs.items():
        whole = ((teacher.get("cost") or {}).get(target)) or {}
        timed = timed_on(content, target)
        predicted = cost["latency"] if cost else None
        measured = timed["p50_ms"] if timed else None
        if measured is not None or predicted is not None:
            told = "" if measured is None or predicted is None else f"predicted {amount(predicted, 'ms')}"
            label = "Latency, measured" if measured is not None else "Latency, predicted"
            where = target if len(costs) > 1 else ""
            value = predicted if measured is None else measured
            asked = _asked(content, "latency", target, relative=bool(timed and timed.get("share")))
            tile(label, amount(value, "ms"), where, asked, told, share(value, beside(timed, whole.get("latency"))))
    target, cost = next(iter(costs.items()), (None, None))
    whole = ((teacher.get("cost") or {}).get(target)) or {}
    if cost and cost["macs"] is not None:
        known = f"{amount(cost['macs'], 'MACs')} = {amount(cost['flops'], 'FLOPs')}"
        if whole.get("macs"):
            tile("MACs, of the teacher's", percent(cost["macs"] / whole["macs"]), _asked(content, "macs"), known)
        else:
            tile("MACs", amount(cost["macs"], "").strip(), _asked(content, "macs"), known)
    shipped = next(iter(content["artefacts"] or []), None)
    if shipped:
        counted = "" if not cost or cost["params"] is None else amount(cost["params"], "parameters")
        tile("File that ships", amount(shipped["bytes"], "bytes"), _asked(content, "size"), counted)
    if any(row["met"] is not None for row in content["budgets"] or []):
        met = [row["met"] for row in content["budgets"]]
        missed = ", ".join(row["name"] for row in content["budgets"] if row["met"] is False)
        sign = "✗" if missed else "" if None in met else "✓"
        guessed = sum(row["basis"] == PREDICTED for row in content["budgets"])
        all_met = f"{guessed} of them {PREDICTED}" if guessed else "all at once"
        small = f"over: {missed}" if missed else f"{met.count(None)} not known" if None in met else all_met
        tile("Budgets met", f"{sign} {met.count(True)} of {len(met)}".strip(), small)
    return tiles


def _beside(verdict: Mapping[str, Any], teacher: Mapping[str, Any], name: str) -> str:
    """The teacher's rate beside the artefact's, on the same images where there is a comparison."""
    rate = (verdict["reference"] or {}).get(name) or teacher.get(name)
    if not rate:
        return ""
    return f"teacher {percent(rate['value'])}, {points(verdict[name]['value'] - rate['value'])}"


def _asked(content: Content, quantity: str, target: str | None = None, *, relative: bool = False) -> str:
    """The limit on a quantity, on a target if one is given, and whether it is kept; `relative`: as the share it is."""
    rows = (row for row in content["budgets"] or [] if row["name"] == quantity)
    row = next((row for row in rows if target in (None, row["target"])), None)
    if row is None:
        return ""
    sign = {True: "✓ ", False: "✗ ", None: ""}[row["met"]]
    if relative:
        return f"{sign}asked ≤{JOINED}{row['asked']} of the teacher"
    unit = row["unit"] if row["unit"] in ("ms", "bytes") else ""
    asked = f" ({row['asked']})" if row["asked"] and row["asked"].endswith("%") else ""
    return f"{sign}asked ≤{JOINED}{amount(row['limit'], unit)}{asked}"
