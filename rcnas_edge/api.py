"""The Python way in: `rcnas_edge.compress(...)` does what the command line does and gives back what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rcnas_edge.pipeline.console import Console, Silent
from rcnas_edge.pipeline.job import Compressed
from rcnas_edge.pipeline.job import compress as run_it
from rcnas_edge.setting import TaskSetting, asked_of

__all__ = ["Compressed", "compress"]


def compress(
    out: Path | str, task: TaskSetting | Path | str | None = None, *, console: Console | None = None, **options: Any
) -> Compressed:
    """Search, train, export, verify and report into the folder `out`; the same call again resumes a run that was cut.

    `task` is a task setting or the path of a task file; `options` are the fields of `TaskSetting`, the command line's
    flags with underscores (`max_latency="2ms"`), and override it. Without any, the teacher that ships with the package
    is compressed on scikit-learn's digits. `console` is told what happens, as `rcnas_edge.TerminalConsole()`; without
    one nothing is printed.

    Raises InputError for a task that cannot be, BudgetError where no network found keeps the budgets, TrainingError and
    UncheckedError (all RcnasError, each with its `exit_code`); a budget that the file missed and a gate that failed are
    no errors but the result's `exit_code`.
    """
    if task is None or isinstance(task, TaskSetting):
        setting = TaskSetting.from_dict(({} if task is None else task.to_dict()) | options)
    else:
        setting = asked_of(Path(task), options)
    return run_it(setting, Path(out), Silent() if console is None else console)
