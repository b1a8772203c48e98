"""What a run has come to, read from its stages as the values of report.json; a stage that is missing stays missing."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from rcnas_edge.board.bundle import MANIFEST
from rcnas_edge.bundle.replay import FOLDER
from rcnas_edge.checkpoint import read_json
from rcnas_edge.cost import OF_A_DEVICE, QUANTITIES, Budget, Cost, show
from rcnas_edge.cost.breakdown import breakdown
from rcnas_edge.cost.feasibility import Feasibility
from rcnas_edge.errors import BudgetError, InputError, RcnasError, TrainingError
from rcnas_edge.evaluate import Rate
from rcnas_edge.export import Artefact, read_built
from rcnas_edge.pipeline.beside import Made
from rcnas_edge.pipeline.board_seen import measured_on, seen, unlike, unmeasured
from rcnas_edge.pipeline.here import Timed, cautions, timed
from rcnas_edge.pipeline.prepare import budget_table
from rcnas_edge.pipeline.stages import Pipeline
from rcnas_edge.profile import Target
from rcnas_edge.report.words import PREDICTED
from rcnas_edge.setting import LIMITS, flag
from rcnas_edge.space import Architecture, named
from rcnas_edge.verdict import NOT_CHECKED
from rcnas_edge.verify import Verdict

RUNTIMES = ("onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx")
MEASURED, COUNTED, BESIDE = "measured", "counted", "beside the teacher"
"""What a budget's verdict rests on, where it is not PREDICTED."""
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
    bench = pipeline.opened.bench
    values["teacher"] = {
        "name": pipeline.opened.task.teacher.name,
        "cost": _by_target(bench.teacher_costs),
        "clean": None,
        "robust": None,
    }
    present = pipeline.present()
    predicted: Mapping[Target, Cost] = {}
    final: Mapping[Target, Cost] = {}
    here: Mapping[Target, Timed] = {}
    warnings: Mapping[Target, str] = {}
    on_boards: Mapping[Target, str] = {}
    if "architecture" in present:
        architecture = pipeline.searching.architecture
        predicted = bench.costs(architecture)
        values["cost"] = _by_target(predicted)
        values["architecture"] = _architecture(pipeline, architecture)
        warnings = cautions(bench, architecture)
    if "artefact" in present:
        final, here = pipeline.shipping.final_costs(), pipeline.shipping.timed()
        on_boards = {target: board.words for target, board in measured_on(pipeline).items()}
    values["targets"] = [
        {
            **asdict(target),
            "origin": bench.profiles[target].origin(target),
            "here": target in timed(bench),
            "latency": _latency(here.get(target)),
            "warning": warnings.get(target),
        }
        for target in bench.targets
    ]
    values["budgets"] = [
        _budget(row, predicted.get(row.budget.target), final.get(row.budget.target), timed(bench), on_boards)
        for row in budget_table(bench)
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
        first = next(iter(here.values()), None)
        values["artefacts"] = [_artefact(pipeline, pipeline.shipping.export(), first, told)]
        values["artefacts"] += [
            _beside(pipeline, made, verified=verdict is not None) for made in pipeline.beside.made()
        ]
        if verdict is not None:
            not_checked += list(verdict.not_checked)
            clean, robust = pipeline.verifying.teacher_flags()
            values["teacher"] |= {"clean": Rate.of(clean).to_dict(), "robust": Rate.of(robust).to_dict()}
        not_checked += pipeline.shipping.not_measured() + pipeline.beside.not_checked() + unmeasured(pipeline)
        not_checked += unlike(pipeline)
        values["boards"] = seen(pipeline)
        values["bundle"] = _bundle(pipeline)
    values["not_checked"] = not_checked if "artefact" in present else None
    no_further = all(before.get(stage) for stage in REACHED if values.get(stage))
    if failed is None and no_further and not any(artefact["verdict"] for artefact in values.get("artefacts", ())):
        values |= {name: before.get(name) for name in ("failed", "advice")}
    _fill_seconds(values)
    return values


def _by_target(costs: Mapping[Target, Cost]) -> dict[str, Any]:
    return {str(target): cost.to_dict() for target, cost in costs.items()}


def _budget(
    row: Feasibility,
    predicted: Cost | None,
    final: Cost | None,
    here: Iterable[Target],
    on_boards: Mapping[Target, str],
) -> dict[str, Any]:
    """One budget, and what the student takes of it: for a device that is not this machine a prediction, or measured
    on the board of that name.
    """
    budget = row.budget
    of_a_device = budget.quantity in OF_A_DEVICE
    only_predicted = of_a_device and budget.target not in (*here, *on_boards)
    where = f"on {on_boards[budget.target]}" if budget.target in on_boards else BESIDE if budget.relative else ""
    known = final is not None and not only_predicted
    return {
        "target": str(budget.target),
        "name": budget.quantity,
        "unit": QUANTITIES[budget.quantity],
        "asked": budget.asked,
        "limit": budget.limit,
        "teacher": row.teacher,
        "cheapest": row.cheapest,
        "exact": row.exact,
        "predicted": None if predicted is None else predicted.get(budget.quantity),
        "measured": final.get(budget.quantity) if final is not None and known else None,
        "met": None if final is None else budget.met(final),
        "basis": PREDICTED if only_predicted else f"{MEASURED} {where}".strip() if of_a_device else COUNTED,
    }


def _bundle(pipeline: Pipeline) -> dict[str, Any] | None:
    """The bundle that lies in the run's folder, as its manifest says."""
    path = pipeline.opened.run / FOLDER / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    replay = manifest.get("replay") or {}
    return {
        "path": FOLDER,
        "digest": manifest["digest"],
        "files": sorted([*manifest["files"], MANIFEST]),
        "replay_images": replay.get("n", 0),
        "replay_points": replay.get("points", 0),
    }


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
        several = len(pipeline.opened.task.targets) > 1
        for row in budget_table(pipeline.opened.bench):
            raised = _raised(row.budget, several=several)
            if row.cheapest > row.budget.limit:
                needs = show(row.budget.quantity, row.cheapest)
                found.append(f"{raised} to {needs} or more: the cheapest network found needs that.")
            elif not row.satisfiable:
                found.append(f"{raised}, or one of the other budgets.")
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


def _raised(budget: Budget, *, several: bool) -> str:
    """What to give more of: a limit of the user, of one of several devices with its name, or one of the device."""
    name = flag(next(name for name, quantity in LIMITS.items() if quantity == budget.quantity))
    if budget.imposed:
        return f"Override the {budget.asked} {budget.target.profile} with {name}, if it has more, and set that"
    of_one = f" of {budget.target.profile}" if several and budget.quantity in OF_A_DEVICE else ""
    return f"Raise {name}{of_one} from {budget.asked}"


LATENCY_FIELDS = ("p50_ms", "p95_ms", "stable", "runtime", "threads", "runs", "provider", "at_pace", "share")


def _artefact(
    pipeline: Pipeline, artefact: Artefact, timing: Timed | None, verdict: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        **artefact.to_dict(),
        "path": artefact.path.relative_to(pipeline.opened.run.folder).as_posix(),
        "latency": _latency(timing),
        "verdict": verdict,
        "built": read_built(artefact.path),
    }


def _latency(found: Timed | None) -> dict[str, Any] | None:
    if found is None:
        return None
    values = {**asdict(found.timing), "share": found.share}
    return {name: value for name, value in values.items() if name in LATENCY_FIELDS}


def _beside(pipeline: Pipeline, made: Made, *, verified: bool) -> dict[str, Any]:
    """A file beside the artefact; one that cannot run here has a verdict that claims nothing, and says why."""
    verdict = None if made.verdict is None else made.verdict.to_dict()
    if made.unchecked is not None and verified:
        rates = dict.fromkeys(("clean", "robust", "parity"))
        terms = {"threat": str(pipeline.opened.task.threat), "n": 0, "sha256": made.artefact.sha256}
        verdict = {"decision": NOT_CHECKED, "reasons": [made.unchecked], "flags": [], "attacks": [], **terms, **rates}
    timing = None if made.timing is None else Timed(made.timing)
    return _artefact(pipeline, made.artefact, timing, verdict)


def budgets_met(pipeline: Pipeline) -> bool:
    """Whether the artefact keeps every budget: by measured amounts, or where nothing can be timed by predicted ones."""
    costs = pipeline.shipping.final_costs()
    return all(budget.met(costs[budget.target]) for budget in pipeline.opened.bench.budgets)


def exit_code(verdicts: Iterable[Verdict], met: bool, boards: Iterable[int] = ()) -> int:
    """0, or the smallest of 3 (a budget was not met), 4 (a gate failed) and 5 (inconclusive), of all attacked files.

    `boards` are the codes of what was seen, or was to be seen, on boards.
    """
    codes = [code for code in (0 if met else 3, *(verdict.exit_code for verdict in verdicts), *boards) if code]
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
        **{name: found[name] for name in ("strategy", "agent", "judge", "evaluations", "seconds")},
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
