"""The stage that writes the trained network in further formats beside the artefact, such as a TensorRT engine.

Each format has a record of its own, artefacts/also.NAME.json: for another network or setting it alone is made again.
What cannot be done here (built, run, timed) is one sentence of the report, and the run goes on; only a format that was
asked for by name, and cannot be written, ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rcnas_edge.checkpoint import read_json
from rcnas_edge.errors import InputError, MissingPackage, UncheckedError
from rcnas_edge.export import Artefact, exporter, read_artefact, sidecar
from rcnas_edge.measure import Timing
from rcnas_edge.opened import Opened, export_network
from rcnas_edge.plugins import EXPORTERS, registered
from rcnas_edge.prepare import FINAL_TIMING_SECONDS
from rcnas_edge.setting import AUTO, NONE
from rcnas_edge.shipping import Shipping
from rcnas_edge.timing import Runner, time_runs
from rcnas_edge.verify import Verdict
from rcnas_edge.verifying import Verifying


@dataclass(frozen=True)
class Made:
    """A further file, its latency and its verdict (None before those stages), and why it can have neither here."""

    artefact: Artefact
    timing: Timing | None
    verdict: Verdict | None
    unchecked: str | None


class Beside:
    """The files beside the artefact, each with its record."""

    def __init__(self, opened: Opened, shipping: Shipping, verifying: Verifying) -> None:
        self.opened, self.shipping, self.verifying = opened, shipping, verifying

    @property
    def named(self) -> bool:
        """Whether the formats were asked for by name, so that one that cannot be written is an error."""
        return self.opened.setting.also not in (AUTO, NONE)

    @property
    def formats(self) -> list[str]:
        """The formats asked for: those named, or every installed one but the artefact's own."""
        also = self.opened.setting.also
        if also == AUTO:
            return sorted(set(registered(EXPORTERS)) - {self.opened.setting.format})
        return [] if also == NONE else list(dict.fromkeys(name.strip() for name in also.split(",")))

    def check(self) -> None:
        """Raise InputError for a format asked for by name that is not known, or whose package is not installed."""
        for name in self.formats if self.named else ():
            if name == self.opened.setting.format:
                raise InputError(f"--also names formats beside --format, got {name!r} for both: leave it out of --also")
            kind = exporter(name)
            try:
                kind.settings()
            except MissingPackage:
                if not (self.opened.run / _record_name(name)).is_file():  # else the file may be there already
                    raise

    def export(self) -> None:
        """Write each format that is not there yet, and time it where it can run."""
        for name in self.formats:
            known = self._record(name)
            if known is not None and "artefact" in known and self._path(known).is_file():
                read_artefact(self._path(known))  # changed bytes are refused, as of every artefact
            try:
                self._write(name)
            except Exception as error:  # a plugin may raise anything, and nobody asked for this one by name
                if self.named:
                    raise
                reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                self.opened.console.say(_not_written(name, reason))
                self._keep(name, self._network(), {"refused": reason})
            else:
                self._time(name)

    def verify(self, *, again: bool = False) -> None:
        """Attack each file that can run here; of the others it is said why not."""
        self.export()
        for made in self.made():
            reason = made.unchecked
            if reason is None:
                try:
                    self.opened.console.say(self.verifying.verify(made.artefact, again=again).summary())
                    continue
                except UncheckedError as error:
                    reason = str(error)
                    known = self._record(made.artefact.format)
                    assert known is not None, "made() has read it"
                    self._keep(made.artefact.format, known["depends"], {**known, "unchecked": reason})
            self.opened.console.say(f"{made.artefact.path.name}: not checked: {reason}")

    def made(self) -> list[Made]:
        """What there is, as the records have it; nothing is built, run or written."""
        found = []
        for name in self.formats:
            known = self._record(name)
            if known is None or "artefact" not in known or not self._path(known).is_file():
                continue
            artefact = read_artefact(self._path(known))
            found.append(
                Made(
                    artefact,
                    None if known["timing"] is None else Timing(**known["timing"]),
                    None if known["unchecked"] else self.verifying.known_verdict(artefact),
                    known["unchecked"],
                )
            )
        return found

    def verdicts(self) -> list[Verdict]:
        """The verdicts of those files that were attacked."""
        return [made.verdict for made in self.made() if made.verdict is not None]

    def not_checked(self) -> list[str]:
        """One sentence for each format that was not written, and for each file that could not be run."""
        records = ((name, self._record(name)) for name in self.formats)
        return [
            *(_not_written(name, known["refused"]) for name, known in records if known and "refused" in known),
            *(
                f"{made.artefact.path.name}: not checked: {made.unchecked} (it was built, neither timed nor attacked)"
                for made in self.made()
                if made.unchecked is not None
            ),
        ]

    def _network(self) -> dict[str, Any]:
        """What any format depends on."""
        return {"weights": self.shipping.fitting.train().sha256, "opset": self.opened.setting.opset}

    def _path(self, known: Mapping[str, Any]) -> Path:
        return self.opened.run / "artefacts" / str(known["artefact"])

    def _record(self, name: str) -> dict[str, Any] | None:
        """The record of a format, if it is of the network as it is trained."""
        path = self.opened.run / _record_name(name)
        known = read_json(path) if path.is_file() else None
        if not isinstance(known, dict) or not isinstance(known.get("depends"), dict):
            return None
        return known if all(known["depends"].get(key) == value for key, value in self._network().items()) else None

    def _file_name(self, name: str, suffix: str) -> str:
        """What a format's file is called: model and its suffix, with the format's name between if that is taken."""
        plain = f"model{suffix}"
        records = (self.opened.run / "artefacts").glob(_record_name("*").rpartition("/")[2])
        known = [read_json(path) for path in records if path.name != Path(_record_name(name)).name]
        taken = {record.get("artefact") for record in known if isinstance(record, dict)}
        return f"model.{name}{suffix}" if plain in taken | {f"model.{self.opened.setting.format}"} else plain

    def _keep(self, name: str, depends: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Write a record, unless it says this already."""
        values = {key: value for key, value in values.items() if key != "depends"}
        if self._record(name) != {"depends": depends, **values}:
            self.opened.run.keep(_record_name(name), depends, values)

    def _write(self, name: str) -> None:
        """Write the file, unless it is there for this network and these settings."""
        kind, known = exporter(name), self._record(name)
        path = self.opened.run / "artefacts" / self._file_name(name, kind.suffix)
        there = path.is_file() and known is not None and "artefact" in known
        try:
            depends = {**self._network(), "settings": kind.settings()}
        except MissingPackage:
            if there:  # written where the package was
                return
            _remove(path)
            raise
        if there and known is not None and known["depends"] == depends:
            return
        (self.opened.run / _record_name(name)).unlink(missing_ok=True)
        _remove(path)  # of another network or setting: neither it nor its record must outlive the other
        model, _ = self.shipping.fitting.train().build()
        artefact = export_network(self.opened, model, path, digest=depends["weights"], format=name)
        self.opened.console.say(f"exported {path.name}: {artefact.bytes} bytes")
        self._keep(name, depends, {"artefact": path.name, "timing": None, "unchecked": None})

    def _time(self, name: str) -> None:
        """Time a file that was not timed yet, from memory to memory; each session loads the file anew."""
        known = self._record(name)
        assert known is not None, "it was written"
        if known["timing"] is not None:
            return
        artefact, kind = read_artefact(self._path(known)), exporter(name)
        builder = known["depends"]["settings"].get("builder", name)
        image = np.random.default_rng(0).random((1, *self.opened.task.data.image), dtype=np.float32)
        try:
            provider = getattr(kind.predict(artefact), "provider", name)
            timing = time_runs(
                lambda: Runner(partial(kind.predict(artefact), image)),
                runtime=f"{builder}, batch 1, from host memory to host memory",
                provider=provider,
                seconds=FINAL_TIMING_SECONDS,
            )
        except (UncheckedError, MissingPackage) as error:
            self._keep(name, known["depends"], {**known, "unchecked": str(error)})
            return
        self._keep(name, known["depends"], {**known, "timing": asdict(timing), "unchecked": None})
        self.opened.console.say(f"{artefact.path.name}: {timing.p50_ms:.3f} ms on {timing.provider}")


def _remove(path: Path) -> None:
    for left in (path, sidecar(path)):
        left.unlink(missing_ok=True)


def _record_name(name: str) -> str:
    return f"artefacts/also.{name}.json"


def _not_written(name: str, reason: str) -> str:
    return f"{name}: no file was written: {reason}"
