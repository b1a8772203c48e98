"""One network for each of several devices: a run of its own in OUT/PROFILE, from scores that all of them share.

A judge's scores, and how the teacher does, depend on no device and no budget: they lie in OUT (`Run.shared`), so that
no network is judged twice. The same command again resumes where it was cut: runs that are finished are not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rcnas_edge.checkpoint import read_json, write_json
from rcnas_edge.errors import BudgetError, RcnasError, TrainingError, UncheckedError
from rcnas_edge.pipeline.console import Console
from rcnas_edge.pipeline.job import compress, dry_run
from rcnas_edge.pipeline.opened import Opened
from rcnas_edge.pipeline.run import DEVICES, Run
from rcnas_edge.report.words import amount, percent
from rcnas_edge.setting import TaskSetting

COLUMNS = ("device", "verdict", "robust", "clean", "latency", "MACs", "budgets", "exit code", "report")


def compress_each(setting: TaskSetting, out: Path, console_of: Callable[[Path], Console]) -> int:
    """Compress for each device of the task alone, and show them side by side; `console_of` a run's folder tells of it.

    Returns the smallest of the exit codes 3, 4 and 5 that occurred, else that of a training that failed, else 0. A
    device whose run fails with one of them does not stop the others; bad input does, before anything is spent where
    that can be seen.
    """
    tasks = setting.for_each()
    around = Run(out)
    with around.locked():
        write_json(around / DEVICES, {"devices": list(dict.fromkeys([*around.devices, *tasks]))})
        for device, alone in tasks.items():
            Opened(alone, Run(out / device), console_of(out / device)).check()
        codes: dict[str, int] = {}
        for number, (device, alone) in enumerate(tasks.items(), start=1):
            console = console_of(out / device)
            console.say(f"{device}: device {number} of {len(tasks)}")
            try:
                codes[device] = compress(alone, out / device, console).exit_code
            except (BudgetError, TrainingError, UncheckedError) as error:
                console.say(f"{device}: {error}")
                codes[device] = error.exit_code
    rows = [_row(device, out / device, code) for device, code in codes.items()]
    console.table("one network for each device", COLUMNS, rows)
    return smallest(codes.values())


def dry_run_each(setting: TaskSetting, console: Console) -> None:
    """What `dry_run` says, for each device alone; BudgetError of the first whose budgets cannot be met, at the end."""
    failed: list[RcnasError] = []
    for device, alone in setting.for_each().items():
        console.say(f"{device}:")
        try:
            dry_run(alone, console)
        except BudgetError as error:
            console.say(f"{device}: {error}")
            failed.append(error)
    if failed:
        raise failed[0]


def smallest(codes: Any) -> int:
    """Of several runs' exit codes the smallest that is not 0."""
    return min((code for code in codes if code), default=0)


def _row(device: str, folder: Path, code: int) -> tuple[str, ...]:
    """A run in one line, from its report."""
    path = folder / "report.json"
    content: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    artefact: Mapping[str, Any] = next(iter(content.get("artefacts") or ()), {})
    verdict: Mapping[str, Any] = artefact.get("verdict") or {}
    cost: Mapping[str, Any] = next(iter((content.get("cost") or {}).values()), {})
    rates = (percent(rate["value"]) if (rate := verdict.get(kind)) else "" for kind in ("robust", "clean"))
    measured = artefact.get("latency")
    latency = amount(measured["p50_ms"], "ms") + " measured" if measured else ""
    if not measured and cost.get("latency") is not None:
        latency = amount(cost["latency"], "ms") + " predicted"
    met = [row["met"] for row in content.get("budgets") or ()]
    return (
        device,
        verdict.get("decision") or ("did not finish" if content.get("failed") else "not checked"),
        *rates,
        latency,
        amount(cost["macs"], "").strip() if cost else "",
        f"{met.count(True)} of {len(met)} met",
        str(code),
        str(folder / "report.html"),
    )
