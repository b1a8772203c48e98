"""A task in a run directory with its names resolved: what every stage starts from."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from rcnas_edge.agent import NO_AGENT, Start, find_agent, load_agent
from rcnas_edge.calibrating import Calibration
from rcnas_edge.errors import InputError
from rcnas_edge.export import Artefact, export_in, exporter, facts, precisions_of
from rcnas_edge.pipeline.console import Console
from rcnas_edge.pipeline.flags import test_indices
from rcnas_edge.pipeline.prepare import check_profile, open_bench, teacher_file, write_teacher
from rcnas_edge.pipeline.run import Run
from rcnas_edge.search import strategy_class
from rcnas_edge.setting import TaskSetting
from rcnas_edge.task import Bench, Task, open_task
from rcnas_edge.train.recipe import Recipe, recipe


class Opened:
    """A setting, the folder of its run and the console, with what they come to; each is opened when it is asked for."""

    def __init__(self, setting: TaskSetting, run: Run, console: Console) -> None:
        self.setting, self.run, self.console = setting, run, console

    def check(self) -> None:
        """Resolve every name that a later stage needs, so that a misfit is told before anything is spent."""
        if exporter(self.setting.format).suffix != ".onnx":
            raise InputError(
                "--format is a format that ONNX Runtime runs on the CPU, where candidates are timed, got "
                f"{self.setting.format!r}: leave --format out, and write it beside with --also {self.setting.format}"
            )
        kind = exporter(self.setting.format)
        for precision in self.setting.precisions:
            if precision not in precisions_of(kind):
                raise InputError(
                    f"--format {self.setting.format} writes {', '.join(precisions_of(kind))}, --precision asks for "
                    f"{precision}: leave it out, or take a format that writes it"
                )
        for target in self.setting.targets:
            check_profile(target, self.run)
        if self.setting.agent not in (None, NO_AGENT):
            if not self.takes_agent:
                raise InputError(
                    f"--agent is for a strategy with a policy (rc-nas), --strategy is {self.setting.strategy}: "
                    "leave it out"
                )
            load_agent(str(self.setting.agent))
        _ = self.recipe, self.test_indices

    @cached_property
    def task(self) -> Task:
        return open_task(self.setting)

    @cached_property
    def bench(self) -> Bench:
        return open_bench(self.task, self.run, self.console)

    def teacher_file(self) -> Path:
        """The teacher as a file, which a student's is timed beside; written again if it was deleted."""
        path = teacher_file(self.task, self.run)
        if not path.is_file():
            write_teacher(self.task, path)
        return path

    @property
    def takes_agent(self) -> bool:
        """Whether the strategy has a policy that can start from another one's."""
        return hasattr(strategy_class(self.setting.strategy), "adopt")

    @cached_property
    def start(self) -> Start:
        """The agent that the search starts from, if any."""
        if not self.takes_agent:
            return Start(None, "")
        return find_agent(
            self.setting.agent,
            family=self.task.family.name,
            genes=self.task.space.genes,
            dataset=self.task.data.name,
            threat=self.task.threat,
            data=self.task.data.digest,
        )

    @cached_property
    def recipe(self) -> Recipe:
        return recipe(
            self.setting.recipe,
            examples=len(self.task.data.train),
            epochs=self.setting.epochs,
            batch_size=self.setting.batch_size,
            learning_rate=self.setting.learning_rate,
        )

    @cached_property
    def test_indices(self) -> np.ndarray:
        """Which test images are attacked."""
        return test_indices(self.task.data, self.setting.level, self.setting.seed)


def export_network(
    opened: Opened,
    model: nn.Module,
    path: Path,
    *,
    digest: str,
    precision: str,
    format: str | None = None,
    calibration: Calibration | None = None,
) -> Artefact:
    """Write a network of the task as one file that says what it is; in the task's format if no other is given."""
    return export_in(
        exporter(format or opened.setting.format),
        precision,
        model,
        path,
        image=opened.task.data.image,
        metadata=facts(labels=opened.task.data.class_names, threat=str(opened.task.threat), digest=digest),
        opset=opened.setting.opset,
        calibration=calibration,
    )
