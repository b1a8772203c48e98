"""A comparison of runs as one page, drawn as a run's own report is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from rcnas_edge.checkpoint import write_whole
from rcnas_edge.compare import SIGNIFICANT, Pair, Told, asked_differently, pairs, side_by_side
from rcnas_edge.report.bars import Meter, Range, meters, ranges
from rcnas_edge.report.drawing import Series, chart
from rcnas_edge.report.html import document
from rcnas_edge.report.markup import element
from rcnas_edge.report.words import amount, decision, percent, table

COLOURS = ("one", "two", "three", "quiet")
"""Of the runs, in turn; each is named where it is drawn."""


def write_comparison(path: Path, runs: Sequence[Told]) -> None:
    """Write the page whole."""
    html = page(runs).encode("utf-8")
    write_whole(path, lambda aside: aside.write_bytes(html))


def page(runs: Sequence[Told]) -> str:
    """The page for these runs, two or more, as HTML text; the first is what the others are held against."""
    found = pairs(runs)
    head = element(
        "header",
        element("p", f"rcnas-edge comparison · {', '.join(run.name for run in runs)}", class_="kicker"),
        element("h1", headline(runs, found)),
    )
    sections = (
        ("What came of them", _results(runs)),
        ("Is that a difference?", _paired(found)),
        ("What was asked differently", _asked(runs)),
    )
    main = element("main", *(element("section", element("h2", title), *parts) for title, parts in sections))
    return document(f"{' and '.join(run.name for run in runs)}: rcnas-edge comparison", head, main)


def headline(runs: Sequence[Told], found: Sequence[Pair]) -> str:
    """What the comparison says in one sentence."""
    if len(runs) > 2:
        alike = sum(pair.robust is not None for pair in found)
        return f"{len(runs)} runs; {alike} of {len(found)} can be held against {runs[0].name} image by image."
    (pair,) = found
    if pair.robust is None:
        said = "cannot be compared image by image"
    elif pair.robust.p_value >= SIGNIFICANT:
        said = f"no difference in robust accuracy is shown ({pair.robust})"
    else:
        more = "more" if pair.robust.value > 0 else "less"
        said = f"{pair.second.name} is {more} robust ({pair.robust})"
    return f"{pair.second.name} against {pair.first.name}: {said}{_speed(*runs)}."


def _speed(first: Told, second: Told) -> str:
    """How the measured times compare, where both were measured on the same runtime with the same threads."""
    if first.timed is None or second.timed is None or not first.timed[0]:
        return ""
    if first.timed[1] != second.timed[1]:
        return "; their times were not measured alike"
    return f"; it takes {percent(second.timed[0] / first.timed[0])} of the time"


def _results(runs: Sequence[Told]) -> list[Element]:
    colours = {run.name: COLOURS[index % len(COLOURS)] for index, run in enumerate(runs)}
    rates = []
    for kind in ("robust", "clean"):
        for run in runs:
            if rate := run.rate(kind):
                value, low, high = (100 * rate[key] for key in ("value", "low", "high"))
                rates.append(Range(f"{kind}, {run.name}", value, low, high, percent(rate["value"]), colours[run.name]))
    drawn = [ranges(rates, title="Accuracy on test images", unit="%", note="Whiskers are 95 % intervals.")]
    placed = [
        (run, run.latency_ms, 100 * rate["value"])
        for run in runs
        if run.latency_ms is not None and (rate := run.rate("robust"))
    ]
    if placed:
        scale, unit = (1000.0, "µs") if max(ms for _, ms, _ in placed) < 0.1 else (1.0, "ms")
        series = [
            Series(_predicted(run), [(scale * ms, robust)], "star", colours[run.name]) for run, ms, robust in placed
        ]
        told = "; ".join(
            f"{entry.label}: {entry.points[0][1]:.1f} % at {entry.points[0][0]:.3g} {unit}" for entry in series
        )
        drawn.append(
            chart(
                series,
                title="Robust accuracy over latency",
                told=told,
                x_label=f"latency for one image, {unit}",
                y_label="robust accuracy, %",
            )
        )
    bars = {"Latency for one image": ("ms", [run.latency_ms for run in runs]), "MACs": ("MACs", [run.cost.get("macs") for run in runs])}  # noqa: E501  # fmt: skip
    for title, (unit, values) in bars.items():
        largest = max((value for value in values if value is not None), default=0) or 1
        rows = [
            Meter(
                _predicted(run) if unit == "ms" else run.name, value / largest, amount(value, unit), colours[run.name]
            )
            for run, value in zip(runs, values, strict=True)
            if value is not None
        ]
        if rows:
            drawn.append(meters(rows, title=title, whole=""))
    rows_of_table = [
        (label, *(decision(word) for word in words))
        if label == "verdict"
        else (label, *(_words(word) for word in words))
        for label, words in side_by_side(runs)
    ]
    head = ("", *(run.name for run in runs))
    ended = [
        element("p", element("strong", f"{run.name} did not finish: "), run.content["failed"], class_="failed")
        for run in runs
        if run.content["failed"]
    ]
    return [*ended, element("div", *drawn, class_="pair"), table(head, rows_of_table, label="The runs side by side")]


def _predicted(run: Told) -> str:
    """The name of a run beside its latency, which is a prediction where nothing was timed."""
    return run.name if run.timed else f"{run.name}, predicted"


def _words(text: str) -> str | tuple[str, str]:
    """The number, and what stands in brackets after it in small letters."""
    for bracket in (" [", " ("):
        value, found, rest = text.partition(bracket)
        if found and value:
            return value, rest.rstrip(")") if bracket == " (" else f"[{rest}"
    return text


def _paired(found: Sequence[Pair]) -> list[Element]:
    rows = []
    for pair in found:
        for kind, difference, colour in (("robust", pair.robust, "one"), ("clean", pair.clean, "two")):
            if difference is not None:
                value, low, high = (100 * number for number in (difference.value, difference.low, difference.high))
                label = f"{kind}: {pair.second.name} − {pair.first.name}"
                rows.append(Range(label, value, low, high, f"{value:+.1f}", colour))
    parts: list[Element] = []
    if rows:
        note = "The same images under both networks; right of 0 the later run is right more often. 95 % intervals."
        parts.append(ranges(rows, title="Paired differences", unit="points", zero="0: no difference", note=note))
    parts.append(element("ul", *(element("li", f"{pair}.") for pair in found)))
    if len(found) > 1 and rows:
        parts.append(element("p", "Each p-value is of its own pair; they are not corrected for their number.", class_="note"))  # noqa: E501  # fmt: skip
    return parts


def _asked(runs: Sequence[Told]) -> list[Element]:
    rows = asked_differently(runs)
    if not rows:
        return [element("p", "Nothing: the tasks are the same.")]
    return [table(("", *(run.name for run in runs)), [(key, *words) for key, words in rows], label="Task differences")]
