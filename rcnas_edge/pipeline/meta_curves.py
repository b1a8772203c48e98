"""The curves of a meta-training as a page: how soon tasks have a robust network, early and late, and the losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rcnas_edge.report.drawing import Series, chart
from rcnas_edge.report.html import document
from rcnas_edge.report.markup import element
from rcnas_edge.report.words import percent

COLOURS = ("quiet", "two", "one")
PARTS = ("first tasks", "middle tasks", "last tasks")


def shares(record: Mapping[str, Any]) -> list[float]:
    """The best robust accuracy within the budgets after each evaluation, as a share of the teacher's."""
    return [robust / max(record["teacher_robust"], 1e-9) for robust in record["curve"]]


def mean_curve(records: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(evaluation, mean share in %) over tasks, as far as every task went."""
    curves = [shares(record) for record in records if record["curve"]]
    length = min((len(curve) for curve in curves), default=0)
    return [(place + 1.0, 100 * sum(curve[place] for curve in curves) / len(curves)) for place in range(length)]


def thirds(records: Sequence[Mapping[str, Any]]) -> list[Sequence[Mapping[str, Any]]]:
    """The records in three parts of about equal length; one part alone where there are fewer than three."""
    if len(records) < len(PARTS):
        return [records]
    cuts = [round(len(records) * part / len(PARTS)) for part in range(len(PARTS) + 1)]
    return [records[begin:end] for begin, end in pairwise(cuts)]


def curves_page(
    records: Sequence[Mapping[str, Any]], names: Sequence[str], losses: Sequence[Mapping[str, float]]
) -> str:
    """The page as HTML text: curves of early and late tasks, the losses, and every task."""
    parts = thirds(records)
    labels = PARTS if len(parts) == len(PARTS) else ("all tasks",)
    curves = [
        Series(label, mean_curve(part), "steps", colour)
        for label, part, colour in zip(labels, parts, COLOURS[-len(parts) :], strict=True)
    ]
    told = "; ".join(
        f"{entry.label} from {entry.points[0][1]:.1f} % to {entry.points[-1][1]:.1f} %"
        for entry in curves
        if entry.points
    )
    learnt = [
        Series(name, [(float(place), loss[name]) for place, loss in enumerate(losses) if name in loss], "line", colour)
        for name, colour in (("values", "one"), ("hold", "quiet"))
    ]
    drawn = element(
        "div",
        chart(
            curves,
            title="Best robust accuracy so far",
            told=told,
            x_label="evaluations of a task",
            y_label="share of the teacher's, by the judge, %",
            whole_x=True,
            note="Means over tasks. Tasks differ in difficulty: the parts hold different ones.",
        ),
        chart(
            learnt,
            title="What encoder and value head learnt",
            told="Mean losses after each round.",
            x_label="rounds",
            y_label="loss",
            whole_x=True,
        ),
        class_="pair",
    )
    rows = [
        element("li", f"{name}: {percent(record['curve'][-1])} of the teacher's {percent(record['teacher_robust'])}")
        for name, record in zip(names, records, strict=False)
        if record["curve"]
    ]
    body = element(
        "main",
        element("h1", "Meta-training"),
        element("section", element("h2", "Curves"), drawn),
        element("section", element("h2", "Tasks: best robust accuracy on held-out images"), element("ol", *rows)),
    )
    return document("Meta-training: rcnas-edge", body)
