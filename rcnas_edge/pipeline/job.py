"""The main job: every stage in order under the folder's lock, and a report of it, also of a run that failed."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rcnas_edge.bundle.replay import FOLDER
from rcnas_edge.checkpoint import read_json
from rcnas_edge.errors import BudgetError, RcnasError, TrainingError, UncheckedError
from rcnas_edge.pipeline.board_seen import board_codes, unmeasured
from rcnas_edge.pipeline.bundling import make_bundle
from rcnas_edge.pipeline.console import Console
from rcnas_edge.pipeline.on_board import import_results, measure_on_boards, words
from rcnas_edge.pipeline.outcome import budgets_met, exit_code, report_values
from rcnas_edge.pipeline.run import TASK, Run
from rcnas_edge.pipeline.stages import Pipeline
from rcnas_edge.report import write_report
from rcnas_edge.setting import TaskSetting
from rcnas_edge.verify import Verdict

log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Compressed:
    """What a run came to: the file that ships, what is claimed of it, and the code that the command line exits with.

    `met` says whether the measured file keeps every budget. `exit_code` is 0 if so and it is robust (by the gate, or
    without one no worse than its checkpoint), else 3, 4 or 5, as README has them.
    """

    folder: Path
    artefact: Path
    verdict: Verdict
    met: bool
    exit_code: int

    @property
    def bundle(self) -> Path:
        """The folder to hand over; `rcnas_edge.deploy.load` opens it."""
        return self.folder / FOLDER

    @property
    def report(self) -> dict[str, Any]:
        """The content of report.json."""
        return read_json(self.folder / "report.json")


def compress(setting: TaskSetting, out: Path, console: Console) -> Compressed:
    """Compress, verify and report into the folder `out`.

    Stages whose files are there are not done again. A budget that cannot be met, a training that fails and an artefact
    that cannot be checked leave a report that says so, then raise.
    """
    run = Run(out)
    with run.locked():
        pipeline = Pipeline(setting, run, console)
        started = time.perf_counter()
        pipeline.check()
        if not (run / TASK).exists():
            run.keep_setting(setting)
        try:
            for name, work in (
                ("search", pipeline.search),
                ("train", pipeline.train),
                ("export", pipeline.export),
                ("bundle", lambda: make_bundle(pipeline)),  # for boards, which may be slow: before the attacks
                ("measure", lambda: measure_on_boards(pipeline)),
                ("verify", pipeline.verify),
                ("bundle", lambda: make_bundle(pipeline)),
            ):
                begun = time.perf_counter()
                work()
                pipeline.seconds[name] = pipeline.seconds.get(name, 0.0) + time.perf_counter() - begun
        except (BudgetError, TrainingError, UncheckedError) as error:
            run.keep_setting(setting)  # the task that the report is of, also if one before it failed here too
            _tell_failure(pipeline, error, console)
            raise
        pipeline.seconds["all"] = time.perf_counter() - started
        run.keep_setting(setting)
        verdict, met = pipeline.verifying.verify(), budgets_met(pipeline)
        page = tell(pipeline)
        if not met:
            console.say("a budget is NOT met by the measured artefact: see the report")
        console.say(verdict.summary())
        console.say(f"report: {page}")
        boards = [*board_codes(pipeline), *(UncheckedError.exit_code for _ in unmeasured(pipeline))]
        code = exit_code([verdict, *pipeline.beside.verdicts()], met, boards)
        return Compressed(out, pipeline.shipping.export().path, verdict, met, code)


def dry_run(setting: TaskSetting, console: Console) -> None:
    """The task, its feasibility and an estimate of the time; nothing is written but the profile of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Pipeline(setting, Run(Path(folder)), console)
        pipeline.check()
        pipeline.dry_run()


def stage(setting: TaskSetting, out: Path, console: Console, work: Callable[[Pipeline], Result]) -> Result:
    """Some of the stages of a run, under the folder's lock; the task is kept if they succeed."""
    run = Run(out)
    with run.locked():
        pipeline = Pipeline(setting, run, console)
        pipeline.check()
        result = work(pipeline)
        run.keep_setting(setting)
        return result


def take_in(pipeline: Pipeline, results: Path, *, name: str | None = None, device: str | None = None) -> int:
    """Take what a board found into a verified run, and tell of it; the exit code that the run has then."""
    verdict = pipeline.verify()
    board = import_results(pipeline, results, name=name, device=device)
    console = pipeline.opened.console
    for line in (verdict.summary(), *words(pipeline, board), f"report: {tell(pipeline)}"):
        console.say(line)
    return exit_code([verdict, *pipeline.beside.verdicts()], budgets_met(pipeline), board_codes(pipeline))


def tell(pipeline: Pipeline) -> Path:
    """Write report.json and report.html of what the run has; returns the page."""
    return write_report(pipeline.opened.run.folder, report_values(pipeline))[1]


def _tell_failure(pipeline: Pipeline, error: RcnasError, console: Console) -> None:
    try:
        page = write_report(pipeline.opened.run.folder, report_values(pipeline, failed=error))[1]
    except RcnasError as second:  # the report of a failure must not hide the failure
        log.warning("no report of the failed run: %s", second)
        return
    console.say(f"report of the failed run: {page}")
