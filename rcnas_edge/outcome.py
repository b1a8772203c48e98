"""What a run has come to, read from its stages as the values of report.json; a stage that is missing stays missing."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rcnas_edge.beside import Made
from rcnas_edge.breakdown import breakdown
from rcnas_edge.checkpoint import read_json
from rcnas_edge.cost import QUANTITIES, show
from rcnas_edge.errors import BudgetError, InputError, RcnasError, TrainingError
from rcnas_edge.evaluate import Rate
from rcnas_edge.export import Artefact, read_built
from rcnas_edge.measure import Timing
from rcnas_edge.pipeline import Pipeline
from rcnas_edge.prepare import budget_table
from rcnas_edge.space import Architecture, named
from rcnas_edge.verdict import NOT_CHECKED
from rcnas_edge.verify import Verdict

RUNTIMES = ("onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx")
PACKAGES = ("rcnas-edge", "torch", "torchvision", "torchattacks", "onnx", *RUNTIMES, "numpy")


def report_values(pipeline: Pipeline, *, failed: RcnasError | None = None) -> dict[str, Any]:
    """The values of report.json: everything the run has, and why it ended if it did not get to the end.

    What only the run itself could know (times, why it failed) is kept from the report before, if this one is written
    again later.
    """
    before = _report_before(pipeline)
    values: dict[str, Any] = {
        "task": pipeline.opened.setting.to_dict(),
        "seed": pipeline.opened.setting.seed,
        "versions": versions(),
        "seconds": before.get("seconds") or {},
        "failed": None if failed is None else str(failed),
        "advice": None if failed is None else advice(pipeline, failed),
    }
    values["seconds"] |= {name: round(seconds, 1) for name, seconds in pipeline.seconds.items()}
    target = pipeline.opened.task.target
    values["targets"] = [asdict(target)]
    bench = pipeline.opened.bench
    values["teacher"] = {
        "name": pipeline.opened.task.teacher.name,
        "cost": {str(target): bench.teacher_cost.to_dict()},
        "clean": None,
        "robust": None,
    }
    present = pipeline.present()
    predicted = measured = None
    if "architecture" in present:
        architecture = pipeline.searching.architecture
        predicted = bench.cost(architecture)
        values["cost"] = {str(target): predicted.to_dict()}
        values["architecture"] = _architecture(pipeline, architecture)
    if "artefact" in present:
        measured = pipeline.shipping.final_cost()
    rows = budget_table(bench)
    values["budgets"] = [
        {
            "target": str(target),
            "name": row.budget.quantity,
            "unit": QUANTITIES[row.budget.quantity],
            "asked": row.budget.asked,
            "limit": row.budget.limit,
            "teacher": row.teacher,
            "cheapest": row.cheapest,
            "exact": row.exact,
            "predicted": None if predicted is None else predicted.get(row.budget.quantity),
            "measured": None if measured is None else measured.get(row.budget.quantity),
            "met": None if measured is None else row.budget.met(measured),
        }
        for row in rows
    ]
    if "search" in present:
        values["search"] = _search(pipeline)
    if "training" in present:
        known = pipeline.opened.run.done("checkpoint/recipe.json", pipeline.fitting.depends()) or {}
        values["training"] = {
            "recipe": pipeline.opened.recipe.to_dict(),
            "epochs": pipeline.opened.recipe.epochs,
            "seconds": known["seconds"],
            "best_epoch": known["best_epoch"],
            "history": known["history"],
        }
    not_checked = []
    if "artefact" in present:
        verdict = pipeline.verifying.known_verdict()
        told = None if verdict is None else verdict.to_dict()
        values["artefacts"] = [_artefact(pipeline, pipeline.shipping.export(), pipeline.shipping.timing(), told)]
        values["artefacts"] += [
            _beside(pipeline, made, verified=verdict is not None) for made in pipeline.beside.made()
        ]
        if verdict is not None:
            not_checked += list(verdict.not_checked)
            clean, robust = pipeline.verifying.teacher_flags()
            values["teacher"] |= {"clean": Rate.of(clean).to_dict(), "robust": Rate.of(robust).to_dict()}
        not_checked += pipeline.beside.not_checked()
    values["not_checked"] = not_checked if "artefact" in present else None
    no_further = all(before.get(stage) for stage in REACHED if values.get(stage))
    if failed is None and no_further and not any(artefact["verdict"] for artefact in values.get("artefacts", ())):
        values |= {name: before.get(name) for name in ("failed", "advice")}
    _fill_seconds(values)
    return values


REACHED = ("architecture", "search", "training", "artefacts")
"""Sections that a run has as far as it got."""


def _fill_seconds(values: dict[str, Any]) -> None:
    """A stage that was only read back took as long as its own record says; all of them took at least their sum."""
    said = (artefact["verdict"] for artefact in values.get("artefacts", ()) if artefact["verdict"])
    verdict: dict[str, Any] = next(said, {})
    recorded = {"search": values.get("search", {}), "train": values.get("training", {}), "verify": verdict}
    seconds = values["seconds"]
    for stage, record in recorded.items():
        if record.get("seconds") is not None:
            seconds[stage] = max(seconds.get(stage, 0.0), round(record["seconds"], 1))
    if "all" in seconds:
        seconds["all"] = max(seconds["all"], round(sum(seconds.values()) - seconds["all"], 1))


def _report_before(pipeline: Pipeline) -> dict[str, Any]:
    path = pipeline.opened.run / "report.json"
    try:
        values = read_json(path) if path.is_file() else {}
    except InputError:  # a report is made anew from the stages; a damaged one only loses its times
        values = {}
    return values if isinstance(values, dict) else {}


def advice(pipeline: Pipeline, failed: RcnasError) -> list[str]:
    """What to try after a failure, one sentence each."""
    setting = pipeline.opened.setting
    if isinstance(failed, BudgetError):
        found = []
        for row in budget_table(pipeline.opened.bench):
            if row.cheapest > row.budget.limit:
                found.append(
                    f"Raise --max-{row.budget.quantity} from {row.budget.asked} to "
                    f"{show(row.budget.quantity, row.cheapest)} or more: the cheapest network found needs that."
                )
            elif not row.satisfiable:
                found.append(f"Raise --max-{row.budget.quantity} from {row.budget.asked}, or one of the other budgets.")
        if not found:
            found = [
                f"Search longer with more than {setting.evaluations} --evaluations, or time more than "
                f"{setting.finalists} --finalists.",
                "Allow a little more: the prediction was within the budget and the measured file was not.",
            ]
        return [*found, "With --dry-run the same command says in seconds whether each budget can be met."]
    if isinstance(failed, TrainingError):
        return [
            f"Lower --learning-rate (it was {pipeline.opened.recipe.learning_rate:g}) if the loss was not a number.",
            f"Lower --batch-size (it was {pipeline.opened.recipe.batch_size}) if memory ran out.",
            "Take another --out for other values; search and scores are made again from the same seed.",
        ]
    return ["Give the same command again: stages that are done are not done again."]


LATENCY_FIELDS = ("p50_ms", "p95_ms", "stable", "runtime", "threads", "runs", "provider")


def _artefact(
    pipeline: Pipeline, artefact: Artefact, timing: Timing | None, verdict: dict[str, Any] | None
) -> dict[str, Any]:
    latency = None if timing is None else asdict(timing)
    return {
        **artefact.to_dict(),
        "path": artefact.path.relative_to(pipeline.opened.run.folder).as_posix(),
        "latency": latency and {name: value for name, value in latency.items() if name in LATENCY_FIELDS},
        "verdict": verdict,
        "built": read_built(artefact.path),
    }


def _beside(pipeline: Pipeline, made: Made, *, verified: bool) -> dict[str, Any]:
    """A file beside the artefact; one that cannot run here has a verdict that claims nothing, and says why."""
    verdict = None if made.verdict is None else made.verdict.to_dict()
    if made.unchecked is not None and verified:
        rates = dict.fromkeys(("clean", "robust", "parity"))
        terms = {"threat": str(pipeline.opened.task.threat), "n": 0, "sha256": made.artefact.sha256}
        verdict = {"decision": NOT_CHECKED, "reasons": [made.unchecked], "flags": [], "attacks": [], **terms, **rates}
    return _artefact(pipeline, made.artefact, made.timing, verdict)


def budgets_met(pipeline: Pipeline) -> bool:
    """Whether the artefact keeps every budget, by the measured amounts."""
    cost = pipeline.shipping.final_cost()
    return all(budget.met(cost) for budget in pipeline.opened.bench.budgets)


def exit_code(verdicts: Iterable[Verdict], met: bool) -> int:
    """0, or the smallest of 3 (a budget was not met), 4 (a gate failed) and 5 (inconclusive), of all attacked files."""
    codes = [code for code in (0 if met else 3, *(verdict.exit_code for verdict in verdicts)) if code]
    return min(codes, default=0)


def versions() -> dict[str, str]:
    """Versions of Python and of every package that a result depends on."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _architecture(pipeline: Pipeline, architecture: Architecture) -> dict[str, Any]:
    config = pipeline.opened.task.family.config(pipeline.opened.task.space.describe(architecture))
    teacher, bench = pipeline.opened.task.teacher.config, pipeline.opened.bench
    layers = pipeline.opened.task.space.layers(architecture)
    return {
        "family": pipeline.opened.task.family.name,
        "name": config.name,
        "options": named(pipeline.opened.task.space.genes, architecture),
        "stages": config.stages(),
        "teacher_stages": [] if teacher is None else teacher.stages(),
        "layers": [part.to_dict() for part in breakdown(layers, bench.profile, pipeline.opened.task.target)],
    }


def _search(pipeline: Pipeline) -> dict[str, Any]:
    found = pipeline.searching.search()
    chosen = pipeline.searching.architecture.picks if "architecture" in pipeline.present() else None
    genes = pipeline.opened.task.space.genes
    return {
        **{name: found[name] for name in ("strategy", "judge", "evaluations", "seconds")},
        "candidates": [
            {
                "architecture": named(genes, Architecture(tuple(candidate["picks"]))),
                "score": candidate["score"],
                "cost": candidate["costs"],
                "feasible": candidate["feasible"],
                "chosen": tuple(candidate["picks"]) == chosen,
            }
            for candidate in found["candidates"]
        ],
    }
