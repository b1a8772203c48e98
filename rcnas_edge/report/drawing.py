"""Charts on two axes as inline SVG: curves that are named where they end, dots with their read-out, whiskers.

A drawing is 360 units wide, so that its letters are as large as drawn on a phone and not huge on a desktop. Colours
come from the page's style, so that light and dark follow the reader; shapes differ too, for those who see no colours.
Every drawing is one image with its content in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from rcnas_edge.report.markup import element

WIDTH = 360
HEIGHT = 224
LETTER = 6.0
"""Average width of a letter at the size of the drawings' text."""
LINE = 13
"""Height of a line of text."""


@dataclass(frozen=True)
class Series:
    """Points (x, y) of a chart under one label; `look` is line, steps, dots, rings, star or whiskers.

    `notes` are read out where a reader points at the point of the same place; `spread` is (low, high) of each y.
    """

    label: str
    points: Sequence[tuple[float, float]]
    look: str
    colour: str
    notes: Sequence[str] = ()
    spread: Sequence[tuple[float, float]] = ()


def width_of(text: str) -> float:
    """About how wide a text is drawn."""
    return LETTER * len(text)


def cut(text: str, room: float, *, tail: bool = False) -> str:
    """The text, shortened in its middle to what fits into the room; with `tail` only its end is kept."""
    most = max(3, int(room / LETTER))
    if len(text) <= most:
        return text
    if tail:
        return f"…{text[1 - most :].lstrip('.')}"
    front = (most - 1) // 2
    return f"{text[:front]}…{text[len(text) - (most - 1 - front) :]}"


def picture(told: str, height: float, drawn: Iterable[Element]) -> Element:
    """One drawing with its content in words."""
    return element("svg", *drawn, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=told)


def figure(title: str, *parts: Element, note: str = "") -> Element:
    """A drawing with its title above and its note below."""
    below = [element("p", note, class_="note")] if note else []
    return element("figure", element("figcaption", title), *parts, *below)


def ticks(low: float, high: float, about: int = 4, *, whole: bool = False) -> list[float]:
    """Round numbers that span [low, high], at steps of 1, 2 or 5 times a power of ten."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # one value: a range around it
        low, high = low - (0.05 * abs(low) or 0.5), high + (0.05 * abs(high) or 0.5)
    rough = (high - low) / about
    digits = math.floor(math.log10(rough))
    power = 10.0**digits
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, max(0, 1 - digits)) for index in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class Axes:
    """Where a chart's numbers lie: the ticks of both axes, and the plotting area in units of the drawing."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    left: float
    right: float
    top: float = 26
    bottom: float = HEIGHT - 36

    def across(self, x: float) -> float:
        """Where an x stands."""
        first, last = self.x_ticks[0], self.x_ticks[-1]
        return round(self.left + (x - first) / (last - first) * (self.right - self.left), 1)

    def up(self, y: float) -> float:
        """Where a y stands; 0 is the top of the drawing."""
        first, last = self.y_ticks[0], self.y_ticks[-1]
        return round(self.bottom - (y - first) / (last - first) * (self.bottom - self.top), 1)

    def at(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        """Where points stand."""
        return [(self.across(x), self.up(y)) for x, y in points]

    def drawn(self, x_label: str, y_label: str) -> Iterable[Element]:
        """Grid, numbers and names of both axes; numbers that would touch are left out."""
        yield element("text", y_label, x=0, y=11, class_="axis")
        for y in self.y_ticks:
            yield element("path", d=f"M{self.left} {self.up(y)}H{self.right}", class_="grid")
            yield element("text", f"{y:g}", x=self.left - 6, y=self.up(y) + 3.5, class_="axis end")
        free = -math.inf
        for x in self.x_ticks:
            half = width_of(f"{x:g}") / 2
            if self.across(x) - half >= free:
                yield element("text", f"{x:g}", x=self.across(x), y=self.bottom + 16, class_="axis middle")
                free = self.across(x) + half + 6
        yield element("text", x_label, x=(self.left + self.right) / 2, y=HEIGHT - 4, class_="axis middle")


def chart(
    series: Sequence[Series],
    *,
    title: str,
    told: str,
    x_label: str,
    y_label: str,
    whole_x: bool = False,
    y_range: tuple[float, float] | None = None,
    marker: tuple[float, str] | None = None,
    level: tuple[float, str] | None = None,
    note: str = "",
) -> Element:
    """A chart of series on common axes; `told` is what it shows, in words.

    Curves and stars are named beside them, dots and rings in a key below. `marker` is a vertical line at x, `level` a
    horizontal one at y, each with its name; `y_range` the least that the y axis spans.
    """
    shown = [entry for entry in series if entry.points]
    if not shown:
        return figure(title, element("p", "There is no number to draw.", class_="missing"))
    xs = [x for entry in shown for x, _ in entry.points] + ([marker[0]] if marker else [])
    ys = [y for entry in shown for _, y in entry.points] + ([level[0]] if level else [])
    ys += [y for entry in shown for pair in entry.spread for y in pair] + list(y_range or ())
    y_ticks = ticks(min(ys), max(ys))
    curves = [entry for entry in shown if entry.look in ("line", "steps")]
    left = 10 + max(width_of(f"{y:g}") for y in y_ticks)
    right = WIDTH - (10 + max(width_of(entry.label) for entry in curves) if curves else 8)
    axes = Axes(ticks(min(xs), max(xs), whole=whole_x), y_ticks, left, right)
    drawn = list(axes.drawn(x_label, y_label))
    if level:
        drawn.append(element("path", d=f"M{left} {axes.up(level[0])}H{right}", class_="marker"))
        drawn.append(element("text", level[1], x=left + 4, y=axes.up(level[0]) - 4, class_="axis"))
    if marker:
        drawn.extend(_marked(axes, *marker))
    for entry in shown:
        drawn.extend(_marks(axes.at(entry.points), entry, spread=[(axes.up(a), axes.up(b)) for a, b in entry.spread]))
    drawn.extend(_named(axes, curves))
    for entry in shown:
        if entry.look == "star":
            drawn.extend(_named_stars(axes, entry))
    keys = [_key(entry) for entry in shown if entry.look in ("dots", "rings")]
    return figure(title, picture(f"{title}. {told}", HEIGHT, drawn), *_legend(keys), note=note)


def _marked(axes: Axes, x: float, label: str) -> Iterable[Element]:
    place = axes.across(x)
    yield element("path", d=f"M{place} {axes.top - 8}V{axes.bottom}", class_="marker")
    fits = place + 4 + width_of(label) <= WIDTH
    position = {"x": place + 4, "class_": "axis"} if fits else {"x": place - 4, "class_": "axis end"}
    yield element("text", label, y=axes.top - 2, **position)


def _named(axes: Axes, curves: Sequence[Series]) -> Iterable[Element]:
    """The names of curves where they end, moved apart where they would overlap."""
    ends = sorted(((axes.at(entry.points[-1:])[0], entry) for entry in curves), key=lambda end: end[0][1])
    places = [y for (_, y), _ in ends]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + LINE)
    over = max([0.0, *(place - axes.bottom for place in places[-1:])])
    for ((x, _), entry), place in zip(ends, places, strict=True):
        yield element("text", entry.label, x=x + 6, y=place - over + 3.5, class_=f"name {entry.colour}")


def _named_stars(axes: Axes, entry: Series) -> Iterable[Element]:
    """Each above its star, or below it at the top of the drawing, inside the drawing's sides."""
    half = width_of(entry.label) / 2
    for x, y in axes.at(entry.points):
        place = round(min(max(x, axes.left + half), WIDTH - half), 1)
        height = y - 12 if y - 12 > axes.top - 4 else y + 20
        yield element("text", entry.label, x=place, y=round(height, 1), class_=f"name halo middle {entry.colour}")


def _marks(
    points: Sequence[tuple[float, float]], entry: Series, spread: Sequence[tuple[float, float]] = ()
) -> Iterable[Element]:
    """One series at places of the drawing."""
    if entry.look in ("line", "steps") and len(points) > 1:
        path = f"M{points[0][0]} {points[0][1]}"
        for x, y in points[1:]:
            path += f"H{x}V{y}" if entry.look == "steps" else f"L{x} {y}"
        yield element("path", d=path, class_=f"curve {entry.colour}")
        return
    for (x, _), (low, high) in zip(points, spread, strict=False):
        yield element("path", d=f"M{x} {low}V{high}M{x - 4} {low}h8M{x - 4} {high}h8", class_=f"whisker {entry.colour}")
    make = _SHAPES[entry.look]
    for index, (x, y) in enumerate(points):
        mark = make(x, y, entry.colour)
        if index < len(entry.notes):
            mark.append(element("title", entry.notes[index]))
        yield mark


def _dot(x: float, y: float, colour: str) -> Element:
    return element("circle", cx=x, cy=y, r=3.2, class_=f"dot {colour}")


def _ring(x: float, y: float, colour: str) -> Element:
    return element("circle", cx=x, cy=y, r=3, class_=f"ring {colour}")


def _star(x: float, y: float, colour: str) -> Element:
    return element("path", d=f"M{x} {round(y - 7, 1)}l7 7l-7 7l-7 -7z", class_=f"star {colour}")


_SHAPES: dict[str, Callable[[float, float, str], Element]] = {
    "line": _dot,  # a curve of one point
    "steps": _dot,
    "dots": _dot,
    "whiskers": _dot,
    "rings": _ring,
    "star": _star,
}


def _key(entry: Series) -> Element:
    drawn = _marks([(7.0, 7.0)], Series(entry.label, entry.points, entry.look, entry.colour))
    return element(
        "span", element("svg", *drawn, viewBox="0 0 14 14", width=14, height=14, aria_hidden="true"), entry.label
    )


def _legend(keys: Sequence[Element]) -> list[Element]:
    return [element("p", *keys, class_="legend")] if keys else []
