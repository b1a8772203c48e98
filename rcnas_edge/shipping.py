"""The stage that exports the trained network and times the very file on the target."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from rcnas_edge.cost import Cost, show
from rcnas_edge.export import Artefact, read_artefact
from rcnas_edge.fitting import Fitting
from rcnas_edge.measure import Timing, time_model
from rcnas_edge.opened import Opened, export_network
from rcnas_edge.prepare import FINAL_TIMING_SECONDS


class Shipping:
    """The folder artefacts/."""

    def __init__(self, opened: Opened, fitting: Fitting) -> None:
        self.opened, self.fitting = opened, fitting

    def depends(self) -> dict[str, Any]:
        """What an export depends on."""
        return {
            "weights": self.fitting.train().sha256,
            "opset": self.opened.setting.opset,
            "target": str(self.opened.task.target),
            "profile": self.opened.bench.profile.digest(),
        }

    def export(self) -> Artefact:
        """Write the artefact, then time the very file on the target; artefacts/latency.json has the timing."""
        path = self.opened.run / "artefacts" / f"model.{self.opened.setting.format}"
        depends = self.depends()
        if self.opened.run.done("artefacts/latency.json", depends) is not None:
            return read_artefact(path)
        model, _ = self.fitting.train().build()
        artefact = export_network(self.opened, model, path, digest=self.fitting.train().sha256)
        timing = time_model(path, threads=self.opened.setting.threads, seconds=FINAL_TIMING_SECONDS)
        latency = show("latency", timing.p50_ms)
        self.opened.console.say(f"exported {path.name}: {artefact.bytes} bytes, {latency} on {self.opened.task.target}")
        self.opened.run.keep("artefacts/latency.json", depends, {"timing": asdict(timing), "sha256": artefact.sha256})
        return artefact

    def timing(self) -> Timing:
        """The measured latency of the artefact."""
        self.export()
        known = self.opened.run.done("artefacts/latency.json", self.depends())
        assert known is not None, "export writes it"
        return Timing(**known["timing"])

    def final_cost(self) -> Cost:
        """What the artefact costs: latency and size as measured, the rest by its rows."""
        cost = self.opened.bench.cost(self.fitting.searching.architecture)
        return replace(cost, latency=self.timing().p50_ms, size=self.export().bytes, measured=1.0)
