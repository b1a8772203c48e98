"""Bars as inline SVG: the student's stages inside the teacher's, shares of the teacher, kernels, rates on one scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report.drawing import LINE, WIDTH, cut, figure, picture, ticks, width_of
from rcnas_edge.report.markup import element

GUTTER = 58
"""What the names of the rows below the stages take."""
STAGE_GAP = 10
STAGE_HEIGHT = 96
LARGEST_BLOCK = 22
STAGES_NAMED = 4
"""Stages that have room for words below them; more are numbered."""


def stages(teacher: Sequence[Mapping[str, Any]], student: Sequence[Mapping[str, Any]]) -> Element:
    """The student's blocks inside the teacher's, stage by stage: one bar per block, as high as it has channels.

    Stages {"name", "depth", "width", "block"} of one name stand in one column.
    """
    by_name = [{stage["name"]: stage for stage in network} for network in (teacher, student)]
    names = list(dict.fromkeys(stage["name"] for stage in [*teacher, *student]))
    depths = {name: max(1, *((found.get(name) or {}).get("depth") or 0 for found in by_name)) for name in names}
    widest = max((stage["width"] or 0 for stage in [*teacher, *student]), default=0) or 1
    kinds = list(dict.fromkeys(stage["block"] or "?" for stage in [*student, *teacher]))
    room = WIDTH - GUTTER - STAGE_GAP * (len(names) - 1)
    column = room / len(names)
    bar = min(LARGEST_BLOCK, *(column / depth for depth in depths.values()))
    base, drawn = STAGE_HEIGHT + 8.0, []
    words = [_words([(found.get(name) or {}) for found in by_name]) for name in names]
    legible = len(names) <= STAGES_NAMED
    for row, label in enumerate(("blocks", "channels", "kind") if legible else ()):
        drawn.append(element("text", label, x=0, y=base + 30 + LINE * row, class_="axis"))
    for index, name in enumerate(names):
        x = GUTTER + index * (column + STAGE_GAP)
        for found, look in zip(by_name, ("within", "block"), strict=True):
            if name in found:
                drawn.extend(_blocks(found[name], round(x, 1), base, bar, widest, look, kinds))
        title = cut(name, column + STAGE_GAP - 4) if legible else str(index + 1)
        drawn.append(element("text", title, x=round(x, 1), y=base + 15, class_="axis strong"))
        for row, text in enumerate(words[index] if legible else ()):
            text = cut(text, column + STAGE_GAP - 4)
            drawn.append(element("text", text, x=round(x, 1), y=base + 30 + LINE * row, class_="axis"))
    drawn.append(element("path", d=f"M{GUTTER} {base}H{WIDTH}", class_="baseline"))
    told = "; ".join(
        f"{name}: {rows[0]} blocks, {rows[1]} channels, {rows[2]}" for name, rows in zip(names, words, strict=True)
    )
    keys = [("within", "the teacher")] if teacher else []
    keys += [(f"block block-{kinds.index(kind) % 4}", f"student, {kind}") for kind in _kinds(student)]
    legend = element("p", *(_swatch(look, label) for look, label in keys), class_="legend")
    height = base + (32 + 2 * LINE if legible else 20)
    note = "One bar per block, as high as the stage has channels. Teacher → student where they differ."
    return figure("Stages", picture(f"Stages of teacher and student. {told}", height, drawn), legend, note=note)


def _kinds(network: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(stage["block"] or "?" for stage in network))


def _words(pair: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Blocks, channels and kind of one stage: teacher → student where they differ."""
    first, second, third = (changed(*(stage.get(key) for stage in pair)) for key in ("depth", "width", "block"))
    return first, second, third


def changed(before: Any, after: Any) -> str:
    """One value, or both where they differ."""
    words = ["none" if value is None else str(value) for value in (before, after)]
    return words[0] if words[0] == words[1] else " → ".join(words)


def _blocks(
    stage: Mapping[str, Any], x: float, base: float, bar: float, widest: int, look: str, kinds: Sequence[str]
) -> Iterable[Element]:
    height = max(3.0, (stage["width"] or 0) / widest * STAGE_HEIGHT)
    gap = min(2.0, bar / 4)
    if look == "block":
        look = f"block block-{kinds.index(stage['block'] or '?') % 4}"
    for index in range(stage["depth"] or 0):
        left = round(x + index * bar, 2)
        yield element("path", d=f"M{left} {base}v{-height:.1f}h{bar - gap:.2f}v{height:.1f}z", class_=look)


def _swatch(look: str, label: str) -> Element:
    drawn = element("path", d="M1 1h12v12h-12z", class_=look)
    return element("span", element("svg", drawn, viewBox="0 0 14 14", width=14, height=14, aria_hidden="true"), label)


@dataclass(frozen=True)
class Meter:
    """A share of the teacher's, in words and as a bar; `limit` and `predicted` are marks on the same scale."""

    label: str
    share: float
    words: str
    colour: str = "one"
    limit: float | None = None
    predicted: float | None = None


def meters(rows: Sequence[Meter], *, title: str, whole: str = "the teacher", note: str = "") -> Element:
    """Shares below each other; the track of each ends at 1, which is what `whole` names."""
    if not rows:
        return figure(title, element("p", "There is no number to draw.", class_="missing"))
    most = max([1.0, *(value for row in rows for value in (row.share, row.limit, row.predicted) if value is not None)])
    scale, drawn, pitch = WIDTH / most, [], 44
    for index, row in enumerate(rows):
        top = index * pitch
        drawn.append(element("text", row.label, x=0, y=top + 12, class_="axis strong"))
        drawn.append(element("text", row.words, x=WIDTH, y=top + 12, class_="axis end"))
        drawn.append(element("path", d=f"M0 {top + 19}h{scale:.1f}v11h{-scale:.1f}z", class_="track"))
        length = max(1.0, row.share * scale)
        drawn.append(element("path", d=f"M0 {top + 19}h{length:.1f}v11h{-length:.1f}z", class_=f"bar {row.colour}"))
        if row.predicted is not None:
            place = round(row.predicted * scale, 1)
            drawn.append(element("path", d=f"M{place} {top + 20.5}l4 4l-4 4l-4 -4z", class_="predicted"))
        if row.limit is not None:
            place = round(min(WIDTH - 1.0, row.limit * scale), 1)
            drawn.append(element("path", d=f"M{place} {top + 16}v17", class_="limit"))
    keys = []
    if any(row.limit is not None for row in rows):
        keys.append(_mark("M7 1v12", "limit", "the limit"))
    if any(row.predicted is not None for row in rows):
        keys.append(_mark("M7 3l4 4l-4 4l-4 -4z", "predicted", "predicted"))
    if whole:
        keys.append(_swatch("track", whole))
    legend = [element("p", *keys, class_="legend")] if keys else []
    told = "; ".join(f"{row.label}: {row.words}" for row in rows)
    return figure(title, picture(f"{title}. {told}", pitch * len(rows) - 10, drawn), *legend, note=note)


def _mark(path: str, look: str, label: str) -> Element:
    drawn = element("path", d=path, class_=look)
    return element("span", element("svg", drawn, viewBox="0 0 14 14", width=14, height=14, aria_hidden="true"), label)


def columns(
    rows: Sequence[tuple[str, float | None, float | None]], heads: tuple[str, str], *, title: str, note: str = ""
) -> Element:
    """Two shares of each row, (label, share, share), side by side on one scale; what is None is said to be unknown."""
    gutter, pitch, number = 104, 17, 42
    most = max([value for row in rows for value in row[1:] if value is not None], default=0.0) or 1.0
    room = (WIDTH - gutter) / 2 - number - 4
    drawn: list[Element] = []
    for place, (head, colour) in enumerate(zip(heads, ("one", "two"), strict=True)):
        left = gutter + place * (WIDTH - gutter) / 2
        drawn.append(element("text", head, x=left, y=11, class_=f"name {colour}"))
        for index, (label, *shares) in enumerate(rows):
            top, share = 20 + index * pitch, shares[place]
            words = "?" if share is None else f"{100 * share:.1f} %" if share else "0"
            length = (share or 0.0) / most * room
            if length:
                bar = element("path", d=f"M{left} {top}h{length:.1f}v11h{-length:.1f}z", class_=f"bar {colour}")
                bar.append(element("title", f"{label}: {words} of the {head}"))
                drawn.append(bar)
            drawn.append(element("text", words, x=round(left + length + 4, 1), y=top + 9.5, class_="axis"))
    for index, row in enumerate(rows):
        drawn.append(element("text", cut(row[0], gutter - 8, tail=True), x=0, y=29.5 + index * pitch, class_="axis"))
    told = "; ".join(
        f"{name}: " + ", ".join(f"{head} {'not known' if share is None else f'{100 * share:.1f} %'}"
                                for head, share in zip(heads, shares, strict=True))
        for name, *shares in rows
    )  # fmt: skip
    return figure(title, picture(f"{title}. {told}", 22 + pitch * len(rows), drawn), note=note)


@dataclass(frozen=True)
class Range:
    """A value with its interval and its words, all in the unit of the scale; `colour` a style class."""

    label: str
    value: float
    low: float
    high: float
    words: str
    colour: str = "one"


def ranges(
    rows: Sequence[Range],
    *,
    title: str,
    unit: str,
    note: str = "",
    zero: str = "",
    span: tuple[float, float] | None = None,
) -> Element:
    """Values with their intervals on one scale; `zero` names a line at 0, `span` is the least that the scale covers."""
    if not rows:
        return figure(title, element("p", "There is no number to draw.", class_="missing"))
    ends = [end for row in rows for end in (row.low, row.high)] + ([0.0] if zero else []) + list(span or ())
    scale, pitch, left, right = ticks(min(ends), max(ends)), 34, 8, WIDTH - 10

    def across(value: float) -> float:
        return round(left + (value - scale[0]) / (scale[-1] - scale[0]) * (right - left), 1)

    bottom, drawn = pitch * len(rows) + 2, []
    for value in scale:
        drawn.append(element("path", d=f"M{across(value)} 0V{bottom}", class_="grid"))
        drawn.append(element("text", f"{value:g}", x=across(value), y=bottom + 14, class_="axis middle"))
    if zero:
        drawn.append(element("path", d=f"M{across(0)} 0V{bottom}", class_="marker"))
    for index, row in enumerate(rows):
        y = index * pitch + 25
        room = WIDTH - width_of(row.words) - 12
        drawn.append(element("text", cut(row.label, room), x=0, y=y - 12, class_="axis strong halo"))
        drawn.append(element("text", row.words, x=WIDTH, y=y - 12, class_="axis end halo"))
        low, high = across(row.low), across(row.high)
        drawn.append(element("path", d=f"M{low} {y}H{high}M{low} {y - 4}v8M{high} {y - 4}v8", class_=f"whisker {row.colour}"))  # noqa: E501  # fmt: skip
        drawn.append(element("circle", cx=across(row.value), cy=y, r=3.6, class_=f"dot {row.colour}"))
    drawn.append(element("text", "; ".join(filter(None, (unit, zero))), x=WIDTH / 2, y=bottom + 29, class_="axis middle"))  # noqa: E501  # fmt: skip
    told = "; ".join(f"{row.label}: {row.words}" for row in rows)
    return figure(title, picture(f"{title}. {told}", bottom + 34, drawn), note=note)
