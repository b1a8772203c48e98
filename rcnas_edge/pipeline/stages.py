"""The six verbs in order, in one run directory: open, search, fit, export, verify, tell; killed at any moment, resumed.

TaskSetting --open--> Bench --search--> Architecture --fit--> Checkpoint --export--> Artefact --verify--> Verdict
"""

from __future__ import annotations

from typing import Any

from rcnas_edge.checkpoint import Checkpoint
from rcnas_edge.export import Artefact
from rcnas_edge.pipeline.beside import Beside
from rcnas_edge.pipeline.boards import board_target
from rcnas_edge.pipeline.console import Console
from rcnas_edge.pipeline.fitting import Fitting
from rcnas_edge.pipeline.opened import Opened
from rcnas_edge.pipeline.prepare import estimated_seconds
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.searching import Searching
from rcnas_edge.pipeline.shipping import Shipping
from rcnas_edge.pipeline.verifying import Verifying
from rcnas_edge.profile import Target
from rcnas_edge.setting import TaskSetting
from rcnas_edge.verify import Verdict


class Pipeline:
    """A task in a run directory. A stage asks for the one before; it does nothing if its files are there already."""

    def __init__(self, setting: TaskSetting, run: Run, console: Console) -> None:
        self.opened = Opened(setting, run, console)
        self.searching = Searching(self.opened)
        self.fitting = Fitting(self.opened, self.searching)
        self.shipping = Shipping(self.opened, self.fitting)
        self.verifying = Verifying(self.opened, self.shipping)
        self.beside = Beside(self.opened, self.shipping, self.verifying)
        self.seconds: dict[str, float] = {}
        self.unmeasured: dict[Target, str] = {}

    def check(self) -> None:
        """Resolve every name that a later stage needs, so that a misfit is told before anything is spent."""
        self.opened.check()
        self.beside.check()

    def dry_run(self) -> None:
        """The task, whether its budgets can be met, and a rough estimate of the time."""
        for name, value in self.opened.setting.to_dict().items():
            self.opened.console.say(f"{name:16} {value}")
        data = self.opened.task.data
        self.opened.console.say(
            f"{data.name}: {len(data.train)} train, {len(data.held_out)} held out, {len(data.test)} test images of "
            f"{'x'.join(map(str, data.image))}, {data.classes} classes; threat {self.opened.task.threat}; "
            f"teacher {self.opened.task.teacher.name}; device {self.opened.task.device}"
        )
        self.searching.feasibility()
        minutes = estimated_seconds(self.opened.task, self.opened.bench) / 60
        self.opened.console.say(
            f"search, training and attack take about {max(1, round(minutes))} min here (a rough estimate)"
        )

    def search(self) -> dict[str, Any]:
        """Judge architectures and pick one: the content of architecture.json."""
        return self.searching.pick()

    def train(self) -> Checkpoint:
        """Train the picked one."""
        return self.fitting.train()

    def export(self) -> Artefact:
        """Export the trained one, and time the file; then the formats beside it."""
        artefact = self.shipping.export()
        self.beside.export()
        return artefact

    def verify(self) -> Verdict:
        """Attack the files. A verdict that was made for other gates or another level is made anew."""
        self.verifying.verify(again=True)
        self.beside.verify(again=True)
        attacked = [made.artefact for made in self.beside.made() if made.verdict is not None]
        self.verifying.cross_replay([self.shipping.export(), *attacked])
        return self.verifying.verify()

    def artefacts(self) -> dict[str, Artefact]:
        """The files that ship, by name: the artefact first, then those beside it."""
        found = [self.shipping.export(), *(made.artefact for made in self.beside.made())]
        return {artefact.path.name: artefact for artefact in found}

    def commands(self) -> dict[Target, str]:
        """The commands that measure a target on its board."""
        asked = self.opened.setting.measure_commands
        return {board_target(self.opened, device, first=True): command for device, command in asked}

    def present(self) -> set[str]:
        """Which stages have their files: search, architecture, training, artefact."""
        files = {
            "search": "search.json",
            "architecture": "architecture.json",
            "training": "checkpoint/recipe.json",
            "artefact": "artefacts/latency.json",
        }
        return {stage for stage, name in files.items() if (self.opened.run / name).is_file()}
