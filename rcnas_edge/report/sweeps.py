"""The curves of a verdict: robust accuracy against epsilon, and against the steps of one attack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report.drawing import Series, chart
from rcnas_edge.report.words import epsilon_of, interval, percent

SWEPT = (
    "The diamond is the verdict: every attack, all {n} images. Elsewhere it is one weaker attack ({attack}, on {m} "
    "images), so the curve is there for its shape and is no headline. Whiskers are 95 % intervals."
)
STEPPED = (
    "One weaker attack ({attack}, on {m} images), started anew for every number of steps: the curve must fall and come "
    "to rest. Whiskers are 95 % intervals."
)

Point = Mapping[str, Any]


def curves(verdict: Mapping[str, Any]) -> list[Element]:
    """Those that the verdict has."""
    found = [_over_epsilon(verdict)] if verdict["eps_sweep"] else []
    return [*found, _over_steps(verdict)] if verdict["step_sweep"] else found


def _over_epsilon(verdict: Mapping[str, Any]) -> Element:
    """The verdict's own number stands out."""
    written = verdict["threat"].split(":")[1:2]
    scale, unit = (255, "ε, in 1/255") if written and written[0].endswith("/255") else (1, "ε, pixels in [0, 1]")
    curve = verdict["eps_sweep"]
    asked = epsilon_of(verdict["threat"])
    own = [point for point in curve if asked and math.isclose(point["epsilon"], asked, rel_tol=1e-6)]
    others = [point for point in curve if point not in own]
    attacks = [point for point in others if point["epsilon"]]

    def told(point: Point) -> str:
        place = f"ε = {scale * point['epsilon']:.4g}"
        return f"{place}: {percent(point['robust']['value'])} {interval(point['robust'])}, {point['attack']}"

    def series(label: str, found: list[Point], look: str, colour: str) -> Series:
        places = [scale * point["epsilon"] for point in found]
        return _series(label, places, found, look, colour, [told(point) for point in found])

    note = SWEPT.format(
        n=verdict["n"],
        attack=attacks[0]["attack"] if attacks else "none was run",
        m=attacks[0]["robust"]["total"] if attacks else 0,
    )
    return _chart(
        verdict,
        [
            series("", curve, "line", "one"),
            series("", others, "whiskers", "one"),
            series("verdict", own, "star", "two"),
        ],
        "Robust accuracy against epsilon",
        "; ".join(told(point) for point in curve),
        unit,
        note,
    )


def _over_steps(verdict: Mapping[str, Any]) -> Element:
    curve = verdict["step_sweep"]
    places = [point["steps"] for point in curve]
    told = [
        f"{point['steps']} steps: {percent(point['robust']['value'])} {interval(point['robust'])}" for point in curve
    ]
    note = STEPPED.format(attack=curve[0]["attack"], m=curve[0]["robust"]["total"])
    return _chart(
        verdict,
        [_series("", places, curve, "line", "one", told), _series("", places, curve, "whiskers", "one", told)],
        "Robust accuracy against steps",
        "; ".join(told),
        "steps of the attack",
        note,
    )


def _series(
    label: str, places: Sequence[float], found: Sequence[Point], look: str, colour: str, notes: Sequence[str]
) -> Series:
    points = [(place, 100 * point["robust"]["value"]) for place, point in zip(places, found, strict=True)]
    spread = [(100 * point["robust"]["low"], 100 * point["robust"]["high"]) for point in found]
    return Series(label, points, look, colour, notes, spread)


def _chart(
    verdict: Mapping[str, Any], series: Sequence[Series], title: str, told: str, x_label: str, note: str
) -> Element:
    classes = verdict["classes"]
    return chart(
        series,
        title=title,
        told=told,
        x_label=x_label,
        y_label="still right, %",
        y_range=(0, 100),
        level=(100 / classes, "guessing") if classes else None,
        note=note,
    )
