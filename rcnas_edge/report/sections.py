"""The sections of report.html, one function each, from the content of report.json; `SECTIONS` is their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report.bars import STAGES_NAMED, Meter, changed, columns, meters, stages
from rcnas_edge.report.boards import boards, bundle
from rcnas_edge.report.curves import search, training
from rcnas_edge.report.markup import element
from rcnas_edge.report.verdict import artefacts
from rcnas_edge.report.words import (
    COUNTED,
    FLOPS_NOTE,
    PREDICTED,
    UNITS,
    WORDS,
    amount,
    beside,
    duration,
    facts,
    flat,
    name_of,
    percent,
    plain,
    share,
    table,
    timed_on,
    yes_or_no,
)

Content = Mapping[str, Any]
OF_THE_DEVICE = "of the device"
"""How the words of a limit end that the device sets."""
FAR = 2.0
"""Limits of more than so many times what the teacher takes are not drawn on its scale."""
MOST_ROWS = 24
"""Kernels that are shown one by one; more are gathered into their blocks."""


def task(content: Content) -> list[Element]:
    """What was asked."""
    asked = content["task"]
    rows = list(flat(asked)) if isinstance(asked, Mapping) else [("task", plain(asked))]
    rows = [(name, words) for name, words in rows if name != "seed"]  # said once, below
    for target in content["targets"] or []:
        rows.append(("target", ": ".join(part for part in (name_of(target), target["origin"]) if part)))
    return [facts([*rows, ("seed", str(content["seed"]))])]


def budgets(content: Content) -> list[Element]:
    """Each budget: asked, the teacher's cost, the cheapest found, predicted, measured, met."""
    if not content["budgets"]:
        return [element("p", "No budget was asked for.")]
    rows, several = [], len(content["targets"] or []) > 1
    for row in content["budgets"]:
        unit, teacher = "" if row["name"] in COUNTED else row["unit"], row["teacher"]
        cells = [
            (amount(row[key], unit), share(row[key], teacher)) for key in ("limit", "cheapest", "predicted", "measured")
        ]
        cheapest = "exact" if row["exact"] else "not by enumeration" if row["exact"] is False else ""
        cells[1] = (cells[1][0], ", ".join(part for part in (cells[1][1], cheapest) if part))
        if teacher and row["limit"] and row["limit"] > FAR * teacher:
            cells[0] = (cells[0][0], "more than the teacher takes")
        if row["basis"] == PREDICTED:
            cells[3] = (PREDICTED, "")
        elif (row["basis"] or "").startswith("measured on "):  # a board
            cells[3] = (cells[3][0], row["basis"])
        elif (row["basis"] or "").startswith("measured beside "):
            cells[3] = (cells[3][0], f"{cells[3][1]}, {row['basis'].removeprefix('measured ')}")
        asked = f"asked: {row['asked']}" if row["asked"] else ""
        everywhere = several and row["basis"] == "counted" and not (row["asked"] or "").endswith(OF_THE_DEVICE)
        where = "every device" if everywhere else row["target"]
        heading = (WORDS.get(row["name"], row["name"]), "; ".join(part for part in (where, asked) if part))
        rows.append((heading, cells[0], amount(teacher, unit), *cells[1:], yes_or_no(row["met"])))
    head = ("Budget", "Limit", "Teacher", "Cheapest found", "Predicted", "Measured", "Met")
    drawn = [meter for row in content["budgets"] if (meter := _meter(row, several=several))]
    spent = any(row["predicted"] is not None or row["measured"] is not None for row in content["budgets"])
    title = "Spent of what was allowed" if spent else "The cheapest network found, and what was allowed"
    found = [meters(drawn, title=title)] if drawn else []
    found.append(table(head, rows, label="Budgets"))
    found += _latencies(content)
    return [*found, element("p", f"All budgets hold at once. {FLOPS_NOTE} 1 kB = 1000 bytes.", class_="note")]


def _latencies(content: Content) -> list[Element]:
    """How far measured latencies are off the predicted ones, where the others are from, and what to know of them."""
    found = []
    origins = {name_of(target): target["origin"] for target in content["targets"] or []}
    for row in content["budgets"]:
        if row["name"] == "latency" and row["predicted"] and row["measured"]:
            off = 100 * (row["measured"] / row["predicted"] - 1)
            found.append(f"On {row['target']} the measured latency is {off:+.1f} % off the predicted one.")
        elif row["basis"] == PREDICTED:
            numbers = f", by numbers that are {origins[row['target']]}" if origins.get(row["target"]) else ""
            found.append(f"On {row['target']} the latency is {PREDICTED}{numbers}.")
    return [element("p", words) for words in found] + [
        element("p", element("strong", "Warning: ", class_="unsure"), target["warning"])
        for target in content["targets"] or []
        if target["warning"]
    ]


def _meter(row: Mapping[str, Any], *, several: bool) -> Meter | None:
    """A budget on the scale of the teacher; the cheapest network where there is no student yet."""
    teacher, limit = row["teacher"], row["limit"]
    spent = row["predicted"] if row["measured"] is None else row["measured"]
    if not teacher or limit is None or (spent is None and row["cheapest"] is None):
        return None
    mark = limit / teacher if limit <= FAR * teacher else None
    unit = "" if row["name"] in COUNTED else row["unit"]
    name = WORDS.get(row["name"], row["name"])
    if several and row["name"] == "latency":
        name = f"latency, {row['target'].partition('/')[0]}"
    if spent is None:
        words = f"cheapest {amount(row['cheapest'], unit)}, limit {amount(limit, unit)}"
        return Meter(name, row["cheapest"] / teacher, words, "quiet", mark)
    sign = {True: "✓", False: "✗ over", None: ""}[row["met"]]
    predicted = row["predicted"] / teacher if row["predicted"] is not None and row["measured"] is not None else None
    only = " predicted" if row["basis"] == PREDICTED else ""
    words = f"{amount(spent, unit)}{only} of {amount(limit, unit)} {sign}".strip()
    return Meter(name, spent / teacher, words, "over" if row["met"] is False else "one", mark, predicted)


def cost(content: Content) -> list[Element]:
    """Every quantity of student and teacher, by target: MACs and time side by side, then kernel by kernel."""
    found: list[Element] = []
    teachers = (content["teacher"] or {}).get("cost") or {}
    for index, (target, student) in enumerate(content["cost"].items()):
        student, teacher = student or {}, teachers.get(target) or {}
        timed = timed_on(content, target)
        measured = timed["p50_ms"] if timed else None
        values = {name: student.get(name) for name in UNITS}
        rows, drawn = [], []
        for name, unit in UNITS.items():
            value, whole = values[name], teacher.get(name)
            words = (amount(number, "" if name in COUNTED else unit) for number in (whole, value))
            rows.append((WORDS[name], *words, percent(value / whole) if value is not None and whole else ""))
            if name == "latency" and measured is not None:
                whole = beside(timed, whole)
                ratio = percent(measured / whole) if whole else ""
                rows.append(("latency, measured", amount(whole, unit), amount(measured, unit), ratio))
        shown = {"MACs": (values["macs"], teacher.get("macs")), "parameters": (values["params"], teacher.get("params"))}
        shown |= {name: (values[key], teacher.get(key)) for name, key in (("size of the file", "size"), ("peak memory", "memory"))}  # noqa: E501  # fmt: skip
        time = values["latency"] if measured is None else measured
        shown["time, predicted" if measured is None else "time, measured"] = (
            time,
            beside(timed, teacher.get("latency")),
        )
        for name, (value, whole) in shown.items():
            if value is not None and whole:
                drawn.append(Meter(name, value / whole, percent(value / whole), _shade(name)))
        pictures = [meters(drawn, title="Student in per cent of the teacher", note=_faster(shown))] if drawn else []
        if index == 0 and (content["architecture"] or {}).get("layers"):
            pictures.append(_layers(content["architecture"]["layers"]))
        found.append(element("h3", target))
        if pictures:
            found.append(element("div", *pictures, class_="pair"))
        found.append(table(("", "Teacher", "Student", "Student / teacher"), rows, label=f"Cost on {target}"))
        if student.get("latency") is not None and student.get("measured") is not None:
            covered = f"{percent(student['measured'])} of the predicted latency rests on measured rows."
            found.append(element("p", covered, class_="note"))
    found.append(element("p", f"{FLOPS_NOTE} Fewer MACs need not be faster.", class_="note"))
    return found


def _shade(name: str) -> str:
    return "two" if name.startswith("time") else "one" if name == "MACs" else "quiet"


def _faster(shown: Mapping[str, tuple[float | None, float | None]]) -> str:
    """How the share of the MACs and the share of the time go together, in one sentence."""
    macs = shown["MACs"]
    time = next(pair for name, pair in shown.items() if name.startswith("time"))
    if not all(macs) or not all(time):
        return ""
    fewer, faster = macs[1] / macs[0], time[1] / time[0]  # type: ignore[operator]
    return f"{fewer:.2g} times fewer MACs make it {faster:.2g} times as fast."


def _layers(layers: Sequence[Mapping[str, Any]]) -> Element:
    """Each kernel's, or block's, share of the MACs beside its share of the predicted time."""
    title, rows = "Kernel by kernel", [(row["name"], row["macs"], row["latency_ms"]) for row in layers]
    while len(rows) > MOST_ROWS and any("." in name for name, _, _ in rows):
        title, rows = "Block by block", _gathered(rows)
    if len(rows) > MOST_ROWS:
        rows = _largest(rows)
    macs, time = sum(row[1] for row in rows), sum(row[2] or 0.0 for row in rows)
    shares = [
        (name, part / macs if macs else None, None if ms is None or not time else ms / time) for name, part, ms in rows
    ]
    note = "Shares of the student's MACs and of its predicted time, as the runtime fuses its layers."
    return columns(shares, ("MACs", "time"), title=title, note=note)


def _gathered(rows: Sequence[tuple[str, int, float | None]]) -> list[tuple[str, int, float | None]]:
    """Rows whose names agree up to their last dot as one, at the place of the first."""
    deepest = max(name.count(".") for name, _, _ in rows)
    found: dict[str, tuple[int, float | None]] = {}
    for name, macs, ms in rows:
        block = name.rpartition(".")[0] if deepest and name.count(".") == deepest else name
        before = found.get(block, (0, 0.0))
        found[block] = (before[0] + macs, None if ms is None or before[1] is None else before[1] + ms)
    return [(name, *values) for name, values in found.items()]


def _largest(rows: Sequence[tuple[str, int, float | None]]) -> list[tuple[str, int, float | None]]:
    """The rows that cost most, in their order, and the sum of the others."""
    by_cost = sorted(range(len(rows)), key=lambda index: (rows[index][2] or 0.0, rows[index][1]), reverse=True)
    kept = set(by_cost[: MOST_ROWS - 1])
    others = [row for index, row in enumerate(rows) if index not in kept]
    times = [ms for _, _, ms in others if ms is not None]
    total = (f"{len(others)} others", sum(macs for _, macs, _ in others), sum(times) if times else None)
    return [*(row for index, row in enumerate(rows) if index in kept), total]


def architecture(content: Content) -> list[Element]:
    """The student's stages inside the teacher's."""
    network = content["architecture"]
    student, teacher = network["stages"] or [], network["teacher_stages"] or []
    found = [element("p", f"{network['name']}, of the family {network['family']}.")]
    if student or teacher:
        found.append(stages(teacher, student))
        if len(student) > STAGES_NAMED:
            found.append(_stage_table(teacher, student))
    else:
        found.append(element("p", "Its stages were not given.", class_="missing"))
    if network["options"]:
        found += [element("h3", "Options picked"), facts(flat(network["options"]))]
    return found


def _stage_table(teacher: Sequence[Mapping[str, Any]], student: Sequence[Mapping[str, Any]]) -> Element:
    by_name = [{stage["name"]: stage for stage in network} for network in (teacher, student)]
    rows = [
        ((f"{number}. {name}", ""), *(changed(*(found.get(name, {}).get(key) for found in by_name)) for key in ("depth", "width", "block")))  # noqa: E501
        for number, name in enumerate(dict.fromkeys(stage["name"] for stage in [*teacher, *student]), start=1)
    ]  # fmt: skip
    return table(("Stage", "Blocks", "Channels", "Kind"), rows, label="Stages")


def not_checked(content: Content) -> list[Element]:
    """What nobody should read into this report."""
    if not content["not_checked"]:
        return [element("p", "The run lists nothing.")]
    return [element("ul", *(element("li", sentence) for sentence in content["not_checked"]))]


def times(content: Content) -> list[Element]:
    """How long each stage took."""
    rows = [(stage, duration(value)) for stage, value in content["seconds"].items()]
    return [facts(rows)] if rows else [element("p", "No time was recorded.")]


def versions(content: Content) -> list[Element]:
    """What it was made with, to make it again."""
    rows = [(name, plain(version)) for name, version in content["versions"].items()]
    return [facts([("seed", str(content["seed"])), *rows])]


SECTIONS: tuple[tuple[str, str, Callable[[Content], list[Element]]], ...] = (
    ("Is it robust?", "artefacts", artefacts),
    ("Is it within the budgets?", "budgets", budgets),
    ("What boards found", "boards", boards),
    ("What ships", "bundle", bundle),
    ("What it costs", "cost", cost),
    ("Architecture", "architecture", architecture),
    ("Search", "search", search),
    ("Training", "training", training),
    ("What was not checked", "not_checked", not_checked),
    ("What was asked", "task", task),
    ("Times", "seconds", times),
    ("Versions and seed", "versions", versions),
)
"""(heading, key of report.json, section), in the order of the page."""
