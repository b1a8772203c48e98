"""The sections of report.html that are curves: the search and the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report.drawing import Series, chart
from rcnas_edge.report.markup import element
from rcnas_edge.report.words import amount, duration, facts, flat, name_of, percent, plain

Content = Mapping[str, Any]
WITH_AGENT = "rc-nas"
"""The strategy that can start from a meta-trained agent."""
Placed = tuple[tuple[float, float], Mapping[str, Any], str]
"""A point, its candidate and its read-out."""


def search(content: Content) -> list[Element]:
    """What was judged: best so far against evaluations, and accuracy against latency (or MACs without one)."""
    searched = content["search"]
    tried = list(enumerate(searched["candidates"], start=1))
    within = sum(entry["feasible"] for _, entry in tried)
    words = (
        f"Strategy {searched['strategy']}, judge {searched['judge']}: {plain(searched['evaluations'])} architectures "
        f"judged in {duration(searched['seconds'])}; {within} of the {len(tried)} candidates are within the budgets."
    )
    words += _started(searched["strategy"], searched.get("agent"))
    scored = [(number, 100 * score, entry) for number, entry in tried if (score := _score(entry)) is not None]
    best: list[tuple[float, float]] = []
    for number, score, entry in scored:
        if entry["feasible"]:
            best.append((number, max(score, best[-1][1] if best else score)))
    told = "No candidate within the budgets has a score."
    if best:
        told = f"The best within the budgets rises from {best[0][1]:.1f} % to {best[-1][1]:.1f} %."
        best.append((len(tried), best[-1][1]))
    y_label = "robust accuracy by the judge, held-out images, %"
    by_number = [((float(number), score), entry, _read_out(number, entry)) for number, score, entry in scored]
    curve = Series("best so far", best, "steps", "one")
    charts = [
        chart(
            [curve, *_candidates(by_number)],
            title="Search curve",
            told=told,
            x_label="evaluations",
            y_label=y_label,
            whole_x=True,
        ),
        *_scatters(content, scored, y_label),
    ]
    note = "The judge ranks candidates before the final training; its numbers are not the verdict."
    return [element("p", words), element("div", *charts, class_="pair"), element("p", note, class_="note")]


def _started(strategy: str, agent: Mapping[str, Any] | None) -> str:
    """Where the search started, in one sentence; nothing of a strategy that has no agent."""
    if agent is None:
        return " It started from scratch." if strategy == WITH_AGENT else ""
    saw = "one of them with" if agent["saw_data_and_attack"] else "none with"
    return (
        f" It started from the agent {agent['name']}, which was meta-trained on {plain(agent['tasks'])} tasks, {saw} "
        "this data set and attack."
    )


def _scatters(
    content: Content, scored: Sequence[tuple[int, float, Mapping[str, Any]]], y_label: str
) -> Iterator[Element]:
    """Candidates by what they cost: latency on each target where it is known, else MACs."""
    targets = [name_of(target) for target in content["targets"] or []]
    if len(targets) < 2:
        yield _scatter(content, scored, y_label, "latency")
        return
    for target in targets:
        quantity = "latency" if target == targets[0] else f"latency on {target}"
        yield _scatter(content, scored, y_label, quantity, target)


def _scatter(
    content: Content,
    scored: Sequence[tuple[int, float, Mapping[str, Any]]],
    y_label: str,
    quantity: str,
    target: str | None = None,
) -> Element:
    """Candidates by a latency, on a target if there are several, or by MACs where the latency is not known."""
    latencies = [ms for _, _, entry in scored if (ms := (entry["cost"] or {}).get(quantity)) is not None]
    scale, x_label, limited = 1e-6, "M MACs for one image (1 MAC = 2 FLOPs)", "macs"
    if latencies:
        scale, unit = (1000.0, "µs") if max(latencies) < 0.1 else (1.0, "ms")
        x_label, limited = f"predicted latency for one image, {unit}", "latency"
    else:
        quantity, target = "macs", None
    placed = [
        ((scale * entry["cost"][quantity], score), entry, _read_out(number, entry))
        for number, score, entry in scored
        if (entry["cost"] or {}).get(quantity) is not None
    ]
    rows = (row for row in content["budgets"] or [] if row["name"] == limited and row["limit"])
    row = next((row for row in rows if target in (None, row["target"])), None)
    where = f" on {target.partition('/')[0]}" if target else ""
    told = "; ".join(note for _, entry, note in placed if entry["chosen"]) or "None was chosen."
    return chart(
        _candidates(placed),
        title=f"Robust accuracy over latency{where}" if latencies else "Robust accuracy over MACs",
        told=f"{len(placed)} candidates. {told}",
        x_label=x_label,
        y_label=y_label,
        marker=(scale * row["limit"], "limit") if row else None,
    )


def _score(candidate: Mapping[str, Any]) -> float | None:
    return (candidate["score"] or {}).get("robust")


def _read_out(number: int, entry: Mapping[str, Any]) -> str:
    cost = entry["cost"] or {}
    words = [f"evaluation {number}: {percent(_score(entry))} robust"]
    words += [amount(cost[name], unit) for name, unit in (("latency", "ms"), ("macs", "MACs")) if cost.get(name)]
    words.append("within the budgets" if entry["feasible"] else "over a budget")
    return ", ".join([*words, "chosen"] if entry["chosen"] else words)


def _candidates(placed: Sequence[Placed]) -> list[Series]:
    def series(label: str, look: str, colour: str, found: list[Placed]) -> Series:
        return Series(label, [point for point, _, _ in found], look, colour, [note for _, _, note in found])

    return [
        series("over a budget", "rings", "quiet", [one for one in placed if not one[1]["feasible"]]),
        series("within the budgets", "dots", "one", [one for one in placed if one[1]["feasible"]]),
        series("chosen", "star", "two", [one for one in placed if one[1]["chosen"]]),
    ]


def training(content: Content) -> list[Element]:
    """How the student was trained: its curves and its recipe."""
    trained = content["training"]
    kept, recipe, history = trained["best_epoch"], trained["recipe"], trained["history"]
    words = f"{plain(trained['epochs'])} epochs in {duration(trained['seconds'])}."
    if kept is not None:
        words += f" Epoch {kept} was kept, by robust accuracy on held-out images."
    found = [element("p", words)]
    if history is None:
        found.append(element("p", "The history of this training was not given.", class_="missing"))
    else:
        attacked = _attacked(history)
        if attacked:
            found.append(element("p", attacked))
        marker = None if kept is None else (float(kept), "kept")
        accuracy = [
            Series("clean", _column(history, "clean", 100), "line", "two"),
            Series("robust", _column(history, "robust", 100), "line", "one"),
        ]
        loss = [Series("loss", _column(history, "loss", 1), "line", "one")]
        charts = [
            chart(
                accuracy,
                title="Accuracy on held-out images",
                told="; ".join(_told(entry, " %") for entry in accuracy),
                x_label="epoch",
                y_label="right, %",
                whole_x=True,
                marker=marker,
                note="Robust is under the training's quick check, not the verdict's attacks.",
            ),
            chart(
                loss,
                title="Training loss",
                told=_told(loss[0], ""),
                x_label="epoch",
                y_label="mean loss of an epoch",
                whole_x=True,
                marker=marker,
            ),
        ]
        found.append(element("div", *charts, class_="pair"))
    if isinstance(recipe, Mapping):
        return [*found, element("h3", "Recipe"), facts(flat(recipe))]
    return [*found, element("p", f"Recipe: {plain(recipe)}.")]


def _attacked(history: Sequence[Mapping[str, Any]]) -> str:
    """With which attack the epochs were trained, in one sentence."""
    known = [(row.get("epoch"), row["attack"]) for row in history if row.get("attack")]
    last = [epoch for (epoch, name), (_, after) in pairwise(known) if name != after]
    names = [name for index, (_, name) in enumerate(known) if index == 0 or name != known[index - 1][1]]
    parts = [f"by {name} up to epoch {epoch}" for name, epoch in zip(names, last, strict=False)]
    return f"Attacked {', then '.join([*parts, f'by {names[-1]}'])}." if names else ""


def _told(entry: Series, unit: str) -> str:
    if not entry.points:
        return f"{entry.label} not known"
    first, last = entry.points[0][1], entry.points[-1][1]
    return f"{entry.label} from {first:.4g}{unit} to {last:.4g}{unit}"


def _column(history: Sequence[Mapping[str, Any]], name: str, scale: float) -> list[tuple[float, float]]:
    """(epoch, number) wherever the history has both."""
    pairs = [(row.get("epoch"), row.get(name)) for row in history]
    return [(epoch, scale * value) for epoch, value in pairs if epoch is not None and value is not None]
