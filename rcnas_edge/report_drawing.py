"""Drawings as inline SVG, and the one function that makes every element of a page, escaped by construction.

A drawing is 420 units wide: its letters stay readable on a phone of 360 pixels and are not huge on a desktop. Colours
come from the page's style, so that light and dark follow the reader; shapes differ too, for those who see no colours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

WIDTH = 420
PLOT = (52, 412, 24, 168)
"""Left, right, top and bottom of a chart's plotting area; the axis numbers stand outside."""
CHART_HEIGHT = 200
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    """An element with its children; `class_` is class, an underscore in an attribute is a hyphen.

    Text and attributes are escaped when the tree is written, never by hand.
    """
    made = Element(
        tag, {key.rstrip("_").replace("_", "-"): _printable(str(value)) for key, value in attributes.items()}
    )
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + _printable(child)
        else:
            made.text = (made.text or "") + _printable(child)
    return made


def _printable(text: str) -> str:
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


@dataclass(frozen=True)
class Series:
    """Points (x, y) of a chart under one label; `look` is line, steps, dots, rings or star, `colour` a style class."""

    label: str
    points: Sequence[tuple[float, float]]
    look: str
    colour: str


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


def chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    whole_x: bool = False,
    marker: tuple[float, str] | None = None,
) -> Element:
    """A chart of series on common axes, with a legend beside it; `marker` is a vertical line at x with its label."""
    shown = [entry for entry in series if entry.points]
    xs = [x for entry in shown for x, _ in entry.points] + ([marker[0]] if marker else [])
    ys = [y for entry in shown for _, y in entry.points]
    if not ys:
        return element("p", f"{title}: there is no number to draw.", class_="missing")
    x_ticks, y_ticks = ticks(min(xs), max(xs), whole=whole_x), ticks(min(ys), max(ys))
    left, right, top, bottom = PLOT

    def across(x: float) -> float:
        return round(left + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - left), 1)

    def up(y: float) -> float:
        return round(bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top), 1)

    drawn = [element("text", y_label, x=2, y=12, class_="axis")]
    for y in y_ticks:
        drawn.append(element("path", d=f"M{left} {up(y)}H{right}", class_="grid"))
        drawn.append(element("text", f"{y:g}", x=left - 5, y=up(y) + 4, class_="axis end"))
    for x in x_ticks:
        drawn.append(element("text", f"{x:g}", x=across(x), y=bottom + 15, class_="axis middle"))
    drawn.append(element("text", x_label, x=right, y=CHART_HEIGHT - 2, class_="axis end"))
    if marker:
        drawn.append(element("path", d=f"M{across(marker[0])} {top}V{bottom}", class_="marker"))
    for entry in shown:
        drawn.extend(_marks([(across(x), up(y)) for x, y in entry.points], entry))
    picture = _svg(title, CHART_HEIGHT, drawn)
    keys = [_key(entry) for entry in shown]
    if marker:
        keys.append(element("span", _key_picture([element("path", d="M9 1V13", class_="marker")]), marker[1]))
    return element("figure", element("figcaption", title), picture, element("p", *keys, class_="legend"))


def _marks(points: Sequence[tuple[float, float]], entry: Series) -> Iterable[Element]:
    if entry.look in ("line", "steps") and len(points) > 1:
        path = f"M{points[0][0]} {points[0][1]}"
        for x, y in points[1:]:
            path += f"H{x}V{y}" if entry.look == "steps" else f"L{x} {y}"
        yield element("path", d=path, class_=f"curve {entry.colour}")
    elif entry.look == "star":
        for x, y in points:
            yield element("path", d=f"M{x} {y - 7}l7 7l-7 7l-7 -7z", class_=f"star {entry.colour}")
    else:
        look = "ring" if entry.look == "rings" else "dot"
        for x, y in points:
            yield element("circle", cx=x, cy=y, r=3, class_=f"{look} {entry.colour}")


def _key(entry: Series) -> Element:
    span = [(1.0, 7.0), (17.0, 7.0)] if entry.look in ("line", "steps") else [(9.0, 7.0)]
    return element("span", _key_picture(_marks(span, entry)), entry.label)


def _key_picture(drawn: Iterable[Element]) -> Element:
    return element("svg", *drawn, viewBox="0 0 18 14", width=18, height=14, aria_hidden="true")


def _svg(title: str, height: float, drawn: Iterable[Element]) -> Element:
    return element("svg", *drawn, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=title)


STAGE_GAP = 12
BLOCK_HEIGHT = 72
LARGEST_BLOCK = 24


def stages(networks: Mapping[str, Sequence[Mapping[str, Any]]]) -> Element:
    """Networks one below the other, stage by stage: one bar per block, as high as the stage has channels.

    `networks` maps a label to stages {"name", "depth", "width", "block"}; stages of one name stand in one column.
    """
    names = list(dict.fromkeys(stage["name"] for network in networks.values() for stage in network))
    depths = dict.fromkeys(names, 1)
    for network in networks.values():
        for stage in network:
            depths[stage["name"]] = max(depths[stage["name"]], stage["depth"] or 0)
    widest = max((stage["width"] or 0 for network in networks.values() for stage in network), default=0) or 1
    kinds = list(dict.fromkeys(stage["block"] or "?" for network in networks.values() for stage in network))
    room = WIDTH - STAGE_GAP * (len(names) - 1)
    # every column can hold its label; what is left goes to the deep ones
    label_room = min(52.0, room / len(names))
    spare = room - label_room * len(names)
    columns = {name: label_room + spare * depth / sum(depths.values()) for name, depth in depths.items()}
    bar = min(LARGEST_BLOCK, *(columns[name] / depths[name] for name in names))
    drawn: list[Element] = []
    row = BLOCK_HEIGHT + 46
    for index, (label, network) in enumerate(networks.items()):
        base, x = index * row + 18 + BLOCK_HEIGHT, 0.0
        drawn.append(element("text", label, x=0, y=index * row + 12, class_="axis strong"))
        by_name = {stage["name"]: stage for stage in network}
        for name in names:
            if name in by_name:
                drawn.extend(_blocks(by_name[name], x, base, bar, widest, kinds))
                if label_room >= 40:
                    text = f"{_known(by_name[name]['depth'])} × {_known(by_name[name]['width'])}"
                    drawn.append(element("text", text, x=round(x, 1), y=base + 14, class_="axis"))
            x += columns[name] + STAGE_GAP
        drawn.append(element("path", d=f"M0 {base}H{WIDTH}", class_="grid"))
    title = "Blocks × channels of each stage"
    keys = [
        element("span", _key_picture([element("path", d="M2 1h14v12h-14z", class_=f"block block-{index % 4}")]), kind)
        for index, kind in enumerate(kinds)
    ]
    picture = _svg(title, row * len(networks) - 8, drawn)
    return element("figure", element("figcaption", title), picture, element("p", *keys, class_="legend"))


def _blocks(
    stage: Mapping[str, Any], x: float, base: float, bar: float, widest: int, kinds: Sequence[str]
) -> Iterable[Element]:
    height = max(3.0, (stage["width"] or 0) / widest * BLOCK_HEIGHT)
    look = f"block block-{kinds.index(stage['block'] or '?') % 4}"
    gap = min(2.0, bar / 4)
    for index in range(stage["depth"] or 0):
        left = round(x + index * bar, 1)
        yield element("path", d=f"M{left} {base}v{-height:.1f}h{bar - gap:.1f}v{height:.1f}z", class_=look)


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)
