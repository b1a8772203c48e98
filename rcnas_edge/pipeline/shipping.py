"""The stage that exports the trained network and times the very file on each target that is this machine."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from rcnas_edge.calibrating import IMAGES, Calibration, calibration_images
from rcnas_edge.cost import Cost
from rcnas_edge.export import Artefact, read_artefact
from rcnas_edge.pipeline.boards import Boards
from rcnas_edge.pipeline.fitting import Fitting
from rcnas_edge.pipeline.here import Timed, cautions, counted, not_measured, predicted, time_here, timed, timed_how
from rcnas_edge.pipeline.opened import Opened, export_network
from rcnas_edge.pipeline.prepare import FINAL_TIMING_SECONDS, real_costs
from rcnas_edge.profile import Target


class Shipping:
    """The folder artefacts/."""

    def __init__(self, opened: Opened, fitting: Fitting) -> None:
        self.opened, self.fitting, self.boards = opened, fitting, Boards(opened)

    def depends(self) -> dict[str, Any]:
        """What an export depends on."""
        return {
            **self.made_of(self.opened.setting.aim),
            **timed_how(self.opened.bench, self.opened.task.teacher.digest),
            "profiles": {str(target): profile.digest() for target, profile in self.opened.bench.profiles.items()},
        }

    @property
    def path(self) -> Path:
        """The artefact's file."""
        return self.opened.run / "artefacts" / f"model.{self.opened.setting.format}"

    def export(self) -> Artefact:
        """Write the artefact, then time the very file where a target is this machine (artefacts/latency.json)."""
        path = self.path
        depends = self.depends()
        if self.opened.run.done("artefacts/latency.json", depends) is not None:
            return read_artefact(path)
        artefact = self.write(path, self.opened.setting.format, self.opened.setting.aim)
        found = time_here(path, self.opened.bench, seconds=FINAL_TIMING_SECONDS, teacher=self.opened.teacher_file)
        timings = {str(target): one.to_dict() for target, one in found.items()}
        words = [f"{one.words} on {target}" for target, one in found.items()]
        self.opened.console.say(", ".join([f"exported {path.name}: {artefact.bytes} bytes", *words]))
        warnings = cautions(self.opened.bench, self.fitting.searching.architecture)
        for sentence in (*self.not_measured(), *warnings.values()):
            self.opened.console.say(sentence)
        self.opened.run.keep("artefacts/latency.json", depends, {"timings": timings, "sha256": artefact.sha256})
        return artefact

    def made_of(self, precision: str) -> dict[str, Any]:
        """What any file in a precision depends on: the weights, the opset, and for int8 how it is calibrated."""
        made: dict[str, Any] = {"weights": self.fitting.trained_for(precision).sha256}
        made |= {"opset": self.opened.setting.opset, "precision": precision}
        return made | ({"calibration": [IMAGES, str(self.opened.task.threat)]} if precision == "int8" else {})

    def write(self, path: Path, format: str, precision: str) -> Artefact:
        """Write the trained network as one file of a format in a precision."""
        checkpoint = self.fitting.trained_for(precision)
        return export_network(
            self.opened,
            checkpoint.build()[0],
            path,
            digest=checkpoint.sha256,
            format=format,
            precision=precision,
            calibration=self.calibration if precision == "int8" else None,
        )

    @cached_property
    def calibration(self) -> Calibration:
        """Training images, half of them adversarial, for the network that becomes an int8 file."""
        task = self.opened.task
        model = self.fitting.trained_for("int8").build()[0].to(task.device)
        return calibration_images(model, task.data, task.threat, seed=self.opened.setting.seed)

    def timed(self) -> dict[Target, Timed]:
        """What was measured of the artefact on each target that is this machine."""
        self.export()
        known = self.opened.run.done("artefacts/latency.json", self.depends())
        assert known is not None, "export writes it"
        return {target: Timed.from_dict(known["timings"][str(target)]) for target in timed(self.opened.bench)}

    def final_costs(self) -> dict[Target, Cost]:
        """What the artefact costs: its size, and its latency where it was timed; the rest by its rows.

        Of a target that is a board, what the board found counts.
        """
        costs, artefact = self.opened.bench.costs(self.fitting.searching.architecture), self.export()
        here = counted(self.timed(), self.opened.bench)
        there = {target: benched.timing.p50_ms for target, (_, benched) in self.boards.timings(artefact).items()}
        return real_costs(costs, artefact.bytes, {**here, **there})

    def not_measured(self) -> list[str]:
        """One sentence for each target whose latency is a prediction."""
        bench, there = self.opened.bench, self.boards.timings(read_artefact(self.path)) if self.path.is_file() else {}
        return [not_measured(target, bench.profiles[target]) for target in predicted(bench) if target not in there]
