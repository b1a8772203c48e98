"""Amounts, rates and times in words for people, and the tables they stand in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report.markup import element

FLOPS_NOTE = "1 MAC (multiply-accumulate) = 2 FLOPs."
UNITS = {"latency": "ms", "macs": "MACs", "flops": "FLOPs", "params": "parameters", "size": "bytes", "memory": "bytes"}
PREDICTED = "predicted, not measured"
"""The basis of a budget that nothing could be measured for."""
COUNTED = ("macs", "flops", "params")
"""Quantities that their own name is the unit of."""
JOINED = "\N{NO-BREAK SPACE}"
PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
NORMS = {"linf": "L∞"}
SIGNS = {
    "robust": ("✓", "good"),
    "not robust": ("✗", "bad"),
    "inconclusive": ("?", "unsure"),
    "not checked": ("–", "unsure"),
    "did not finish": ("✗", "bad"),
}
"""What stands before a decision, and its colour."""
WORDS = {
    "latency": "latency, one image",
    "macs": "MACs",
    "flops": "FLOPs",
    "params": "parameters",
    "size": "size of the file",
    "memory": "peak memory",
}


def name_of(target: Mapping[str, Any]) -> str:
    """What costs and budgets call a target: host/fp32/1."""
    return f"{target['profile']}/{target['precision']}/{target['threads']}"


def timed_on(content: Mapping[str, Any], target: str) -> Mapping[str, Any] | None:
    """The latency of the first file as measured on a target; None where it is only predicted.

    A report that does not say which targets are the machine of the run has its first file timed on the first one.
    """
    told = {name_of(entry): entry for entry in content["targets"] or []}
    entry = told.get(target, {})
    if entry.get("here") is not None:
        return entry["latency"]
    if target != next(iter(told or content["cost"] or {}), None):
        return None
    return next((artefact["latency"] for artefact in content["artefacts"] or [] if artefact["latency"]), None)


def beside(timed: Mapping[str, Any] | None, teacher: float | None) -> float | None:
    """ms of the teacher that a measured latency is held against: in turns with it, else its own timing."""
    share = (timed or {}).get("share")
    return timed["p50_ms"] / share if timed and share else teacher


def amount(value: float | None, unit: str) -> str:
    """An amount with its unit for people, e.g. 2.41 M MACs or 48 µs, which no line break divides; 1 kB = 1000 bytes."""
    if value is None:
        return "not known"
    if unit == "ms":
        return f"{_three_digits(1000 * value)}{JOINED}µs" if 0 < value < 0.1 else f"{_three_digits(value)}{JOINED}ms"
    # the next prefix from 999.5 on, because three digits round to 1000 there
    size, prefix = next(((size, name) for size, name in PREFIXES if value >= 0.9995 * size), (1.0, ""))
    words = f"{prefix}B" if unit == "bytes" else f"{prefix}{JOINED}{unit}"
    return f"{_three_digits(value / size)}{JOINED}{words.strip()}".strip()


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 999.5 else f"{value:.3g}"


def percent(value: float | None) -> str:
    """A fraction as per cent with one decimal."""
    return "not known" if value is None else f"{100 * value:.1f}{JOINED}%"


def interval(rate: Mapping[str, Any] | None) -> str:
    """The 95 % interval and n of a rate."""
    if rate is None:
        return ""
    ends = f"[{100 * rate['low']:.1f},{JOINED}{100 * rate['high']:.1f}]"
    return f"{ends} of{JOINED}n{JOINED}={JOINED}{rate['total']}"


def duration(seconds: float | None) -> str:
    """A time for people, e.g. 3 min 12 s."""
    if seconds is None:
        return "not known"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def ball(threat: str) -> str:
    """What an attacker may do, for people: linf:8/255:10 is "L∞, ε = 8/255"; anything else as it is."""
    norm, _, rest = threat.partition(":")
    epsilon = rest.partition(":")[0]
    return f"{NORMS[norm]}, ε{JOINED}={JOINED}{epsilon}" if norm in NORMS and epsilon else threat


def epsilon_of(threat: str) -> float | None:
    """The radius of a threat's ball, in units of [0, 1] pixels, if its text has one: linf:8/255:10 is 0.0314."""
    top, _, bottom = threat.partition(":")[2].partition(":")[0].partition("/")
    try:
        epsilon = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return epsilon if math.isfinite(epsilon) else None


def decision(words: str) -> Element:
    """A verdict's decision as a sign, a word and a colour."""
    sign, colour = SIGNS.get(words, ("?", "unsure"))
    return element("span", f"{sign}{JOINED}{words}", class_=f"badge {colour}")


def share(value: float | None, whole: float | None) -> str:
    """The value in per cent of the teacher's, or nothing."""
    return f"{100 * value / whole:.1f} % of the teacher" if value is not None and whole else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, label: str) -> Element:
    """A table that scrolls sideways where it is too wide; a cell is text, an element or (text, small text)."""
    top = element("thead", element("tr", *(element("th", name, scope="col") for name in head)))
    body = element("tbody")
    for first, *rest in rows:
        line = element("tr", element("th", *_cell(first), scope="row"))
        for cell in rest:
            long = isinstance(cell, str) and len(cell) > 40
            line.append(element("td", *_cell(cell), **({"class_": "wrap"} if long else {})))
        body.append(line)
    return element("div", element("table", top, body), class_="scroll", role="region", aria_label=label, tabindex=0)


def _cell(cell: Any) -> list[Element]:
    text, small = cell if isinstance(cell, tuple) else (cell, "")
    parts = [text if isinstance(text, Element) else element("span", text)] if text != "" else []
    return [*parts, element("small", small)] if small else parts


def facts(rows: Iterable[tuple[str, str]]) -> Element:
    """Names and what they stand for, in as many columns as there is room for."""
    return element(
        "dl", *(element("div", element("dt", name), element("dd", words)) for name, words in rows), class_="facts"
    )


def yes_or_no(good: bool | None) -> Element:
    """Yes or no in words and colour."""
    if good is None:
        return element("span", "not known", class_="unsure")
    return element(
        "span", "✓\N{NO-BREAK SPACE}yes" if good else "✗\N{NO-BREAK SPACE}no", class_="good" if good else "bad"
    )


def flat(value: Mapping[str, Any], at: str = "") -> Iterable[tuple[str, str]]:
    """The leaves of nested objects as (dotted key, words)."""
    for key, entry in value.items():
        place = f"{at}.{key}" if at else key
        if isinstance(entry, Mapping) and entry:
            yield from flat(entry, place)
        else:
            yield place, plain(entry)


def plain(value: Any) -> str:
    """Any JSON value in words, on one line."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(plain(entry) for entry in value) or "none"
    return str(value)


def points(difference: float) -> str:
    """A difference of two fractions in points, with its sign."""
    value = f"{100 * difference:+.1f}".replace("-", "−")
    return f"{'±0.0' if value[1:] == '0.0' else value}{JOINED}points"
