"""The sections of report.html, one function each, from the content of report.json; `SECTIONS` is their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from rcnas_edge.report_drawing import Series, chart, element, stages
from rcnas_edge.report_words import (
    COUNTED,
    FLOPS_NOTE,
    UNITS,
    WORDS,
    amount,
    duration,
    flat,
    interval,
    pairs,
    percent,
    plain,
    share,
    table,
    yes_or_no,
)

Content = Mapping[str, Any]
EXPLAINED = {
    "robust": "what was asked is met, and nothing speaks against the numbers",
    "not robust": "what was asked is not met",
    "inconclusive": "the numbers are there, and something speaks against relying on them",
    "not checked": "nothing is claimed about robustness",
}


def task(content: Content) -> list[Element]:
    """What was asked."""
    asked = content["task"]
    rows = list(flat(asked)) if isinstance(asked, Mapping) else [("task", plain(asked))]
    rows = [(name, words) for name, words in rows if name != "seed"]  # said once, below
    for target in content["targets"] or []:
        rows.append(("target", f"{target['profile']}/{target['precision']}/{target['threads']}"))
    return [pairs([*rows, ("seed", str(content["seed"]))])]


def budgets(content: Content) -> list[Element]:
    """Each budget: asked, the teacher's cost, the cheapest found, predicted, measured, met."""
    if not content["budgets"]:
        return [element("p", "No budget was asked for.")]
    rows = []
    for row in content["budgets"]:
        unit, teacher = "" if row["name"] in COUNTED else row["unit"], row["teacher"]
        cells = [
            (amount(row[key], unit), share(row[key], teacher)) for key in ("limit", "cheapest", "predicted", "measured")
        ]
        cheapest = "exact" if row["exact"] else "not by enumeration" if row["exact"] is False else ""
        cells[1] = (cells[1][0], ", ".join(part for part in (cells[1][1], cheapest) if part))
        asked = f"asked: {row['asked']}" if row["asked"] else ""
        heading = (WORDS.get(row["name"], row["name"]), "; ".join(part for part in (row["target"], asked) if part))
        rows.append((heading, cells[0], amount(teacher, unit), *cells[1:], yes_or_no(row["met"])))
    head = ("Budget", "Limit", "Teacher", "Cheapest found", "Predicted", "Measured", "Met")
    found = [table(head, rows, cards=True)]
    for row in content["budgets"]:
        if row["name"] == "latency" and row["predicted"] and row["measured"]:
            off = 100 * (row["measured"] / row["predicted"] - 1)
            found.append(
                element("p", f"On {row['target']} the measured latency is {off:+.1f} % off the predicted one.")
            )
    return [*found, element("p", f"All budgets hold at once. {FLOPS_NOTE} 1 kB = 1000 bytes.", class_="note")]


def cost(content: Content) -> list[Element]:
    """Every quantity of student and teacher, by target: MACs and time side by side."""
    found: list[Element] = []
    teachers = (content["teacher"] or {}).get("cost") or {}
    for target, student in content["cost"].items():
        teacher = teachers.get(target) or {}
        rows = []
        for name, unit in UNITS.items():
            value, whole = (student or {}).get(name), teacher.get(name)
            ratio = percent(value / whole) if value is not None and whole else ""
            words = (amount(number, "" if name in COUNTED else unit) for number in (whole, value))
            rows.append((WORDS[name], *words, ratio))
        found += [element("h3", target), table(("", "Teacher", "Student", "Student / teacher"), rows)]
        if student and student["latency"] is not None and student["measured"] is not None:
            covered = f"{percent(student['measured'])} of the predicted latency rests on measured rows."
            found.append(element("p", covered, class_="note"))
    found.append(element("p", f"{FLOPS_NOTE} Latency is predicted here; fewer MACs need not be faster.", class_="note"))
    return found


def architecture(content: Content) -> list[Element]:
    """The student's stages beside the teacher's."""
    network = content["architecture"]
    student, teacher = network["stages"] or [], network["teacher_stages"] or []
    found = [element("p", f"{network['name']}, of the family {network['family']}.")]
    if student or teacher:
        label = (content["teacher"] or {}).get("name")
        rows_of = {f"teacher {label}" if label else "teacher": teacher, f"student {network['name']}": student}
        found.append(stages({name: shown for name, shown in rows_of.items() if shown}))
        by_name = [{stage["name"]: stage for stage in shown} for shown in (teacher, student)]
        rows = []
        for name in dict.fromkeys(stage["name"] for stage in [*teacher, *student]):
            pair = [shown.get(name, {}) for shown in by_name]
            rows.append((name, *(_beside(*(stage.get(key) for stage in pair)) for key in ("depth", "width", "block"))))
        found.append(table(("Stage", "Blocks", "Channels", "Block"), rows))
        found.append(element("p", "Teacher → student where they differ.", class_="note"))
    else:
        found.append(element("p", "Its stages were not given.", class_="missing"))
    if network["options"]:
        found.append(element("p", "Options picked: ", element("code", plain(network["options"]))))
    return found


def _beside(teacher: Any, student: Any) -> str:
    words = ["none" if value is None else str(value) for value in (teacher, student)]
    return words[0] if words[0] == words[1] else " → ".join(words)


def search(content: Content) -> list[Element]:
    """What was judged: best so far against evaluations, and accuracy against computation."""
    searched = content["search"]
    tried = [(number, entry) for number, entry in enumerate(searched["candidates"], start=1)]
    within = sum(entry["feasible"] for _, entry in tried)
    words = (
        f"Strategy {searched['strategy']}, judge {searched['judge']}: {plain(searched['evaluations'])} architectures "
        f"judged in {duration(searched['seconds'])}; {within} of the {len(tried)} candidates are within the budgets."
    )
    scored = [(number, 100 * score, entry) for number, entry in tried if (score := _score(entry)) is not None]
    best: list[tuple[float, float]] = []
    for number, score, entry in scored:
        if entry["feasible"]:
            best.append((number, max(score, best[-1][1] if best else score)))
    if best:
        best.append((len(tried), best[-1][1]))
    by_number = [((number, score), entry) for number, score, entry in scored]
    by_macs = [
        ((entry["cost"]["macs"] / 1e6, score), entry)
        for _, score, entry in scored
        if (entry["cost"] or {}).get("macs") is not None
    ]
    y_label = "robust accuracy on held-out images by the judge, %"
    curve = Series("best so far within the budgets", best, "steps", "one")
    charts = [
        chart(
            [curve, *_candidates(by_number)], title="Search curve", x_label="evaluations", y_label=y_label, whole_x=True
        )
    ]
    if by_macs:
        title = "What accuracy costs (1 MAC = 2 FLOPs)"
        charts.append(chart(_candidates(by_macs), title=title, x_label="M MACs for one image", y_label=y_label))
    note = "The judge ranks candidates, before the final training; its numbers are not the verdict."
    return [element("p", words), element("div", *charts, class_="pair"), element("p", note, class_="note")]


def _score(candidate: Mapping[str, Any]) -> float | None:
    return (candidate["score"] or {}).get("robust")


def _candidates(placed: Sequence[tuple[tuple[float, float], Mapping[str, Any]]]) -> list[Series]:
    return [
        Series("within the budgets", [point for point, entry in placed if entry["feasible"]], "dots", "one"),
        Series("over a budget", [point for point, entry in placed if not entry["feasible"]], "rings", "quiet"),
        Series("chosen", [point for point, entry in placed if entry["chosen"]], "star", "two"),
    ]


def training(content: Content) -> list[Element]:
    """How the student was trained: its curves and its recipe."""
    trained = content["training"]
    kept, recipe = trained["best_epoch"], trained["recipe"]
    words = f"{plain(trained['epochs'])} epochs in {duration(trained['seconds'])}."
    if kept is not None:
        words += f" Epoch {kept} was kept, by robust accuracy on held-out images."
    found = [element("p", words)]
    if trained["history"] is None:
        found.append(element("p", "The history of this training was not given.", class_="missing"))
    else:
        marker = None if kept is None else (float(kept), f"kept: epoch {kept}")
        accuracy = [
            Series("clean", _column(trained["history"], "clean", 100), "line", "two"),
            Series("under attack", _column(trained["history"], "robust", 100), "line", "one"),
        ]
        loss = [Series("training loss", _column(trained["history"], "loss", 1), "line", "one")]
        title = "Accuracy on held-out images"
        charts = [
            chart(accuracy, title=title, x_label="epoch", y_label="%", whole_x=True, marker=marker),
            chart(loss, title="Training loss", x_label="epoch", y_label="loss", whole_x=True, marker=marker),
        ]
        found.append(element("div", *charts, class_="pair"))
    if isinstance(recipe, Mapping):
        return [*found, element("h3", "Recipe"), pairs(flat(recipe))]
    return [*found, element("p", f"Recipe: {plain(recipe)}.")]


def _column(history: Sequence[Mapping[str, float | None]], name: str, scale: float) -> list[tuple[float, float]]:
    """(epoch, number) wherever the history has both."""
    pairs = [(row.get("epoch"), row.get(name)) for row in history]
    return [(epoch, scale * value) for epoch, value in pairs if epoch is not None and value is not None]


def artefacts(content: Content) -> list[Element]:
    """Each file that ships: its digest, its measured latency and its verdict."""
    if not content["artefacts"]:
        return [element("p", "No artefact was made.")]
    found: list[Element] = []
    for artefact in content["artefacts"]:
        found.append(element("h3", artefact["path"]))
        found.append(
            element(
                "p",
                f"{artefact['format']}, {artefact['precision']}, {amount(artefact['bytes'], 'bytes')} "
                f"({artefact['bytes']} bytes). sha256 ",
                element("code", artefact["sha256"]),
            )
        )
        found.append(element("p", _timed(artefact["latency"])))
        if artefact["verdict"] is None:
            found.append(element("p", "This file was not attacked: nothing is claimed about it.", class_="missing"))
        else:
            found += _verdict(artefact["verdict"], content["teacher"] or {})
    return found


def _timed(latency: Mapping[str, Any] | None) -> str:
    if latency is None:
        return "Its latency was not measured."
    steady = {True: "timing was stable", False: "timing was NOT stable", None: "stability not known"}
    runs = f", {latency['runs']} runs" if latency["runs"] else ""
    where = ", ".join(part for part in (latency["runtime"], latency["provider"]) if part) or "an unnamed runtime"
    tail = f"95th percentile {amount(latency['p95_ms'], 'ms')}{runs}"
    return (
        f"One image takes {amount(latency['p50_ms'], 'ms')} (median; {tail}) on {where}, "
        f"threads: {plain(latency['threads'])}; {steady[latency['stable']]}."
    )


def _verdict(verdict: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[Element]:
    colour = {"robust": "good", "not robust": "bad"}.get(verdict["decision"], "unsure")
    found = [
        element(
            "p",
            "Verdict: ",
            element("strong", verdict["decision"], class_=colour),
            f": {EXPLAINED[verdict['decision']]}. {_terms(verdict)}.",
        )
    ]
    if verdict["reasons"]:
        found.append(element("ul", *(element("li", reason) for reason in verdict["reasons"])))
    found.append(table(("Rate", "Value [95 % interval]"), _rates(verdict, teacher)))
    if verdict["parity_fault"]:
        found.append(element("p", f"Parity failed: {verdict['parity_fault']}.", class_="bad"))
    attacks = [
        (
            attack["name"],
            attack["source"],
            _rate(attack["robust"]),
            *(f"{attack[key]:,}" if attack[key] is not None else "not known" for key in ("forwards", "backwards")),
            duration(attack["seconds"]),
        )
        for attack in verdict["attacks"]
    ]
    if attacks:
        head = ("Attack", "Made on", "Still right", "Forwards", "Backwards", "Time")
        found.append(table(head, attacks, cards=True))
        note = (
            "Every attack's images are shown to the artefact, whatever they were made on; still right is after that "
            "attack and all above it. Forwards and backwards count images pushed through the network."
        )
        found.append(element("p", note, class_="note"))
    else:
        found.append(element("p", "No attack was run.", class_="missing"))
    if verdict["flags"]:
        found.append(element("p", "Flags raised (signs that the attack may have been misled):", class_="unsure"))
        found.append(element("ul", *(element("li", flag) for flag in verdict["flags"])))
    else:
        found.append(element("p", "No flag of masked gradients was raised."))
    return found


def _terms(verdict: Mapping[str, Any]) -> str:
    """On which terms the attacks ran, as far as the verdict says."""
    terms = [f"Threat {verdict['threat']}", f"n = {verdict['n']} test images"]
    terms += [f"{name} {verdict[name]}" for name in ("level", "seed") if verdict[name] is not None]
    return ", ".join(terms)


def _rates(verdict: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Rows: the artefact's rates, those of the networks it is held against, and what it loses against each."""
    rows: list[tuple[Any, Any]] = [
        ("clean", _rate(verdict["clean"])),
        (("robust", "worst case over every attack and source"), _rate(verdict["robust"])),
        (("parity", "artefact and trained network agree"), _rate(verdict["parity"])),
    ]
    against = {"trained network": verdict["checkpoint"], "teacher": verdict["reference"] or {**teacher, "loss": None}}
    for name, other in against.items():
        if other and other.get("robust"):
            rows += [(f"{name}, {kind}", _rate(other[kind])) for kind in ("clean", "robust")]
            if other["loss"]:
                rows.append(((f"lost against the {name}", "robust accuracy, same images"), _lost(other["loss"])))
    return rows


def _rate(rate: Mapping[str, Any] | None) -> tuple[str, str]:
    return percent(rate["value"] if rate else None), interval(rate)


def _lost(loss: Mapping[str, Any]) -> tuple[str, str]:
    value, low, high = (f"{100 * loss[name]:.1f}" for name in ("value", "low", "high"))
    return f"{value} points", f"[{low}, {high}]"


def not_checked(content: Content) -> list[Element]:
    """What nobody should read into this report."""
    if not content["not_checked"]:
        return [element("p", "The run lists nothing.")]
    return [element("ul", *(element("li", sentence) for sentence in content["not_checked"]))]


def times(content: Content) -> list[Element]:
    """How long each stage took."""
    rows = [(stage, duration(value)) for stage, value in content["seconds"].items()]
    return [table(("Stage", "Time"), rows)] if rows else [element("p", "No time was recorded.")]


def versions(content: Content) -> list[Element]:
    """What it was made with, to make it again."""
    rows = [(name, plain(version)) for name, version in content["versions"].items()]
    return [pairs([("seed", str(content["seed"])), *rows])]


SECTIONS: tuple[tuple[str, str, Callable[[Content], list[Element]]], ...] = (
    ("Task", "task", task),
    ("Budgets", "budgets", budgets),
    ("Cost beside the teacher", "cost", cost),
    ("Architecture beside the teacher", "architecture", architecture),
    ("Search", "search", search),
    ("Training", "training", training),
    ("Artefacts and verdicts", "artefacts", artefacts),
    ("What was not checked", "not_checked", not_checked),
    ("Times", "seconds", times),
    ("Versions and seed", "versions", versions),
)
"""(heading, key of report.json, section), in the order of the page."""
