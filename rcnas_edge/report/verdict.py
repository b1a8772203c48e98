"""The section of report.html about the files that ship: digest, measured latency, verdict, attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report.bars import Range, ranges
from rcnas_edge.report.markup import element
from rcnas_edge.report.sweeps import curves
from rcnas_edge.report.words import amount, decision, duration, facts, flat, interval, percent, table

Content = Mapping[str, Any]
EXPLAINED = {
    "robust": "what was asked is met, and nothing speaks against the numbers",
    "not robust": "what was asked is not met",
    "inconclusive": "the numbers are there, and something speaks against relying on them",
    "not checked": "nothing is claimed about robustness",
}
SOURCES = ("checkpoint", "re-import", "re-import, naive", "reference", "artefact")
"""What points are made on, where it is not another file."""


def main_verdict(content: Content) -> Mapping[str, Any] | None:
    """Of the first file that was attacked; else of the first about which anything is said."""
    said = [artefact["verdict"] for artefact in content["artefacts"] or [] if artefact["verdict"]]
    return next((verdict for verdict in said if verdict["robust"]), next(iter(said), None))


def artefacts(content: Content) -> list[Element]:
    """Each file that ships; with several, an overview first."""
    made = content["artefacts"]
    if not made:
        return [element("p", "No artefact was made.")]
    found: list[Element] = []
    if len(made) > 1:
        found += _overview(made)
    for artefact in made:
        told = artefact["verdict"] is not None and artefact["verdict"] is main_verdict(content)
        found += _artefact(artefact, content["teacher"] or {}, titled=len(made) > 1, told=told)
    return found


def _overview(made: Sequence[Mapping[str, Any]]) -> list[Element]:
    """The files on one scale, then in one table; differential evasion where any file was searched for it."""
    searched = any((artefact["verdict"] or {}).get("evasion") for artefact in made)
    rows, drawn = [], []
    for artefact in made:
        verdict, latency = artefact["verdict"] or {}, artefact["latency"] or {}
        evasion = (verdict.get("evasion") or {}).get("rate")
        name = f"{artefact['format']}, {artefact['precision']}"
        rows.append(
            (
                (artefact["path"], name),
                decision(verdict.get("decision") or "not checked"),
                _told(verdict.get("robust")),
                _told(verdict.get("clean")),
                *([_rate(evasion) if evasion else "not searched"] if searched else []),
                amount(latency.get("p50_ms"), "ms"),
                amount(artefact["bytes"], "bytes"),
            )
        )
        for kind, colour, rate in (("robust", "one", verdict.get("robust")), ("evaded", "three", evasion)):
            if rate:
                drawn.append(_range(f"{kind}, {name}", rate, colour))
    head = ("File", "Verdict", "Robust accuracy", "Clean accuracy", *(["Evaded"] if searched else []))
    found = [table((*head, "Latency, median", "Size"), rows, label="The files that ship")]
    if len([row for row in drawn if row.label.startswith("robust")]) > 1:
        note = "Whiskers are 95 % intervals. Of what is robust more is better, of what is evaded less."
        found.insert(0, ranges(drawn, title="The files that ship, on the same test images", unit="%", note=note))
    return found


def _artefact(artefact: Mapping[str, Any], teacher: Mapping[str, Any], *, titled: bool, told: bool) -> list[Element]:
    """One file; `told` says that the top of the page gives the reasons of its verdict."""
    found = [element("h3", artefact["path"])] if titled else []
    verdict = artefact["verdict"]
    if verdict is None:
        found.append(element("p", "This file was not attacked: nothing is claimed about it.", class_="missing"))
    else:
        found += _verdict(verdict, teacher, reasons=not told)
    found += [
        element("h3", "The file" if not titled else f"About {artefact['path']}"),
        element(
            "p",
            element("code", artefact["path"]),
            f": {artefact['format']}, {artefact['precision']}, {amount(artefact['bytes'], 'bytes')} "
            f"({artefact['bytes']:,} bytes), sha256 ",
            element("code", artefact["sha256"]),
            ".",
        ),
        element("p", _timed(artefact["latency"])),
    ]
    if artefact["built"]:
        found.append(facts(flat(artefact["built"])))
    return found


def _timed(latency: Mapping[str, Any] | None) -> str:
    if latency is None:
        return "Its latency was not measured."
    steady = {True: "timing was stable", False: "timing was NOT stable", None: "stability not known"}
    runs = f", {latency['runs']:,} runs" if latency["runs"] else ""
    where = ", ".join(part for part in (latency["runtime"], latency["provider"]) if part) or "an unnamed runtime"
    threads = "not known" if latency["threads"] is None else latency["threads"]
    share = latency["at_pace"]
    pace = ""
    if share is not None:
        pace = f", {percent(share)} of it at the machine's pace, which the median is of"
    if share == 0:
        pace = ", the machine did not come to its pace, and the median is of its last moments"
    return (
        f"One image takes {amount(latency['p50_ms'], 'ms')} (median; 95th percentile "
        f"{amount(latency['p95_ms'], 'ms')}{runs}) on {where}, threads: {threads}; {steady[latency['stable']]}{pace}."
    )


def _verdict(verdict: Mapping[str, Any], teacher: Mapping[str, Any], *, reasons: bool) -> list[Element]:
    said = element("p", decision(verdict["decision"]), f" {EXPLAINED[verdict['decision']]}. {_terms(verdict)}.")
    found = [said]
    if reasons and verdict["reasons"]:
        found.append(element("ul", *(element("li", reason) for reason in verdict["reasons"])))
    if verdict["parity_fault"]:
        found.append(element("p", f"Parity failed: {verdict['parity_fault']}.", class_="failed"))
    if verdict["flags"]:
        box = element("div", element("p", element("strong", "Flags raised"), ", signs that an attack was misled:"))
        box.set("class", "failed")
        box.append(element("ul", *(element("li", flag) for flag in verdict["flags"])))
        found.append(box)
    repairs = [repair for repair in verdict["repairs"] or [] if repair not in verdict["reasons"]]
    found += [element("p", f"{repair[:1].upper()}{repair[1:]}.") for repair in repairs]
    drawn = [_rates_drawn(verdict, teacher)] if verdict["robust"] or verdict["clean"] else []
    drawn += curves(verdict)
    if drawn:
        found.append(element("div", *drawn, class_="pair"))
        found.append(table(("Rate", "Value", "95 % interval"), _rates(verdict, teacher), label="Rates"))
    found += _attacks(verdict)
    if not verdict["flags"] and verdict["attacks"]:
        found.append(element("p", "No flag of masked gradients was raised."))
    return found


def _terms(verdict: Mapping[str, Any]) -> str:
    """On which terms the attacks ran, as far as the verdict says."""
    terms = [f"Threat {verdict['threat']}"]
    drawn = f" ({verdict['drawn']})" if verdict["drawn"] else ""
    terms += [f"n = {verdict['n']} test images{drawn}"] if verdict["n"] else []
    terms += [f"{name} {verdict[name]}" for name in ("level", "seed") if verdict[name] is not None]
    terms += [f"gradients of the {verdict['twin']}"] if verdict["twin"] else []
    return ", ".join(terms)


def _known(verdict: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The networks that the artefact is held against, by name, those that have rates."""
    reference = verdict["reference"] or {**teacher, "loss": None}
    against = {"trained network": verdict["checkpoint"], "teacher": reference}
    return {name: other for name, other in against.items() if other and other.get("robust")}


def _rates_drawn(verdict: Mapping[str, Any], teacher: Mapping[str, Any]) -> Element:
    """Clean and robust accuracy with their intervals, the artefact's first."""
    networks = {"this file": verdict, **_known(verdict, teacher)}
    rows = []
    for kind, own in (("robust", "one"), ("clean", "two")):
        for name, network in networks.items():
            rate = network.get(kind)
            if rate:
                rows.append(_range(f"{kind}, {name}", rate, own if name == "this file" else "quiet"))
    return ranges(rows, title="Accuracy on test images", unit="%", note="Whiskers are 95 % intervals.")


def _range(label: str, rate: Mapping[str, Any], colour: str) -> Range:
    value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
    return Range(label, value, low, high, percent(rate["value"]), colour)


def _rates(verdict: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Rows: the artefact's rates, those of the networks it is held against, and what it loses against each."""
    rows: list[tuple[Any, ...]] = [
        ("clean", *_rate(verdict["clean"])),
        (("robust", "worst case over every attack and source"), *_rate(verdict["robust"])),
        (("parity", "file and the network that is attacked for it agree"), *_rate(verdict["parity"])),
    ]
    if verdict["evasion"]:
        label = ("evaded", "the trained network is right and this file wrong; of images that both get right clean")
        rows.append((label, *_rate(verdict["evasion"]["rate"])))
    if verdict["naive_gap"]:
        label = ("robust to naive PGD", "which rounding stops: what a tool without straight-through gradients reports")
        rows.append((label, *_rate(verdict["naive_gap"]["naive"])))
        rows.append((("robust to PGD", "straight through rounding"), *_rate(verdict["naive_gap"]["straight_through"])))
    for name, other in _known(verdict, teacher).items():
        rows += [(f"{name}, {kind}", *_rate(other[kind])) for kind in ("clean", "robust")]
        if other["loss"]:
            label = (f"lost against the {name}", "robust accuracy, same images; above 0 this file is worse")
            rows.append((label, f"{100 * other['loss']['value']:.1f} points", _ends(other["loss"])))
        if other.get("same"):
            rows.append((f"same class as the {name}", *_rate(other["same"])))
    return rows


def _ends(loss: Mapping[str, Any]) -> tuple[str, str]:
    """The interval of a loss, then by bootstrap and McNemar's p-value."""

    def ends(found: Mapping[str, Any]) -> str:
        return f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]"

    more = [f"bootstrap {ends(loss['bootstrap'])}"] if loss["bootstrap"] else []
    p_value = loss["p_value"]
    if p_value is not None:
        more.append("McNemar's p < 0.001" if p_value < 0.001 else f"McNemar's p = {p_value:.3f}")
    return ends(loss), ", ".join(more)


def _rate(rate: Mapping[str, Any] | None) -> tuple[str, str]:
    return percent(rate["value"] if rate else None), interval(rate)


def _told(rate: Mapping[str, Any] | None) -> str | tuple[str, str]:
    return _rate(rate) if rate else "not known"


def _attacks(verdict: Mapping[str, Any]) -> list[Element]:
    """The file's own attacks, then, folded, what was replayed from other files."""
    if not verdict["attacks"]:
        return [element("p", "No attack was run.", class_="missing")]
    own = [attack for attack in verdict["attacks"] if attack["source"] in SOURCES]
    others = [attack for attack in verdict["attacks"] if attack["source"] not in SOURCES]
    note = (
        "Every attack's images are shown to the file, whatever they were made on; still right is after that attack and "
        "all above it. Forwards and backwards count images pushed through the network."
    )
    found = [_attack_table(own, "Attacks"), element("p", note, class_="note")]
    if others:
        files = ", ".join(dict.fromkeys(attack["source"] for attack in others))
        summary = element("summary", f"{len(others)} attacks replayed from {files}")
        found.append(element("details", summary, _attack_table(others, "Attacks replayed from other files")))
    return found


def _attack_table(attacks: Sequence[Mapping[str, Any]], label: str) -> Element:
    rows = [
        (
            attack["name"],
            attack["source"],
            _rate(attack["robust"]),
            *(f"{attack[key]:,}" if attack[key] is not None else "not known" for key in ("forwards", "backwards")),
            duration(attack["seconds"]),
        )
        for attack in attacks
    ]
    return table(("Attack", "Made on", "Still right", "Forwards", "Backwards", "Time"), rows, label=label)
