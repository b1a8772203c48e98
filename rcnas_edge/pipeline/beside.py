"""The stage that writes the trained network in further formats and precisions, such as int8, or a TensorRT engine.

Each file has a record of its own, artefacts/also.NAME.json: for another network or setting it alone is made again.
What cannot be done here (built, run, timed) is one sentence of the report, and the run goes on; only a format or
precision that was asked for by name, and cannot be written, ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rcnas_edge.checkpoint import read_json
from rcnas_edge.errors import InputError, MissingPackage, UncheckedError
from rcnas_edge.export import Artefact, exporter, precisions_of, read_artefact, sidecar
from rcnas_edge.measure import Timing, time_model
from rcnas_edge.measure.timing import Runner, time_runs
from rcnas_edge.pipeline.here import at_rest
from rcnas_edge.pipeline.opened import Opened
from rcnas_edge.pipeline.prepare import FINAL_TIMING_SECONDS
from rcnas_edge.pipeline.shipping import Shipping
from rcnas_edge.pipeline.verifying import HALF, Verifying
from rcnas_edge.plugins import EXPORTERS, registered
from rcnas_edge.profile.bounds import PRECISIONS
from rcnas_edge.setting import AUTO, NONE
from rcnas_edge.verify import Verdict


class Wanted(NamedTuple):
    """A file that is to lie beside the artefact."""

    format: str
    precision: str

    @property
    def name(self) -> str:
        """Of its record, and for people."""
        return f"{self.format}-{self.precision}"


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
        self.own = Wanted(opened.setting.format, opened.setting.aim)

    def _asked(self, wanted: Wanted) -> bool:
        """Whether it was asked for by name, so that it is an error if it cannot be written."""
        return wanted.format == self.own.format or self.opened.setting.also not in (AUTO, NONE)

    @property
    def formats(self) -> list[str]:
        """The formats beside the artefact's own: those named, or every installed one."""
        also = self.opened.setting.also
        if also == AUTO:
            return sorted(set(registered(EXPORTERS)) - {self.own.format})
        return [] if also == NONE else list(dict.fromkeys(name.strip() for name in also.split(",")))

    @property
    def wanted(self) -> list[Wanted]:
        """Every other precision of the artefact's format, then every precision of the formats beside it.

        Of a format that cannot be written in some precision there is no file in that one.
        """
        precisions = self.opened.setting.precisions
        found = [Wanted(self.own.format, precision) for precision in precisions]
        for name in self.formats:
            found += [Wanted(name, precision) for precision in precisions if precision in _written(name)]
        return [wanted for wanted in found if wanted != self.own]

    def check(self) -> None:
        """Raise InputError for a format asked for by name that is not known, or whose package is not installed."""
        for name in self.formats if self.opened.setting.also != AUTO else ():
            if name == self.own.format:
                raise InputError(f"--also names formats beside --format, got {name!r} for both: leave it out of --also")
            kind = exporter(name)
            if not set(precisions_of(kind)) & set(self.opened.setting.precisions):
                raise InputError(
                    f"--also {name} writes {', '.join(precisions_of(kind))}, --precision is "
                    f"{self.opened.setting.precision}: leave one of them out"
                )
            try:
                kind.settings()
            except MissingPackage:
                there = [self.opened.run / _record_name(wanted) for wanted in self.wanted if wanted.format == name]
                if not any(path.is_file() for path in there):  # else the file may be there already
                    raise

    def export(self) -> None:
        """Write each file that is not there yet, and time it where it can run."""
        for wanted in self.wanted:
            known = self._record(wanted)
            if known is not None and "artefact" in known and self._path(known).is_file():
                read_artefact(self._path(known))  # changed bytes are refused, as of every artefact
            try:
                self._write(wanted)
            except Exception as error:  # a plugin may raise anything, and nobody asked for this one by name
                if self._asked(wanted):
                    raise
                reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
                self.opened.console.say(_not_written(wanted, reason))
                self._keep(wanted, self._network(wanted), {"refused": reason})
            else:
                self._time(wanted)

    def verify(self, *, again: bool = False) -> None:
        """Attack each file that can run here; of the others it is said why not."""
        self.export()
        for wanted in self.wanted if again else ():
            known = self._record(wanted)
            if known is not None and "artefact" in known and self._path(known).is_file():
                self.verifying.drop_other(read_artefact(self._path(known)))
        for made in self.made():
            reason = made.unchecked
            if reason is None:
                try:
                    self.opened.console.say(self.verifying.verify(made.artefact, again=again).summary())
                    continue
                except UncheckedError as error:
                    reason = str(error)
                    wanted = Wanted(made.artefact.format, made.artefact.precision)
                    known = self._record(wanted)
                    assert known is not None, "made() has read it"
                    self._keep(wanted, known["depends"], {**known, "unchecked": reason})
            self.opened.console.say(f"{made.artefact.path.name}: not checked: {reason}")

    def made(self) -> list[Made]:
        """What there is, as the records have it; nothing is built, run or written."""
        found = []
        for wanted in self.wanted:
            known = self._record(wanted)
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
        """The verdicts of the attacked files in the precision that gates are about; the other precisions inform."""
        return [
            made.verdict
            for made in self.made()
            if made.verdict is not None and made.artefact.precision == self.own.precision
        ]

    def not_checked(self) -> list[str]:
        """One sentence for each file that was not written, and for each one that could not be run."""
        records = ((wanted, self._record(wanted)) for wanted in self.wanted)
        return [
            *(_not_written(wanted, known["refused"]) for wanted, known in records if known and "refused" in known),
            *(
                f"{made.artefact.path.name}: not checked: {made.unchecked} (it was built, "
                f"{'timed, not' if made.timing else 'neither timed nor'} attacked)"
                for made in self.made()
                if made.unchecked is not None
            ),
        ]

    def _network(self, wanted: Wanted) -> dict[str, Any]:
        """What a file depends on in any format."""
        return self.shipping.made_of(wanted.precision)

    def _path(self, known: Mapping[str, Any]) -> Path:
        return self.opened.run / "artefacts" / str(known["artefact"])

    def _record(self, wanted: Wanted) -> dict[str, Any] | None:
        """The record of a file, if it is of the network as it is trained."""
        path = self.opened.run / _record_name(wanted)
        known = read_json(path) if path.is_file() else None
        if not isinstance(known, dict) or not isinstance(known.get("depends"), dict):
            return None
        network = self._network(wanted)
        return known if all(known["depends"].get(key) == value for key, value in network.items()) else None

    def _file_name(self, wanted: Wanted, suffix: str) -> str:
        """What a file is called: model, its precision if it is not the artefact's, and its suffix; with the format's
        name between if that is taken.
        """
        precision = "" if wanted.precision == self.own.precision else f".{wanted.precision}"
        plain = f"model{precision}{suffix}"
        taken = {f"model.{self.own.format}"}
        for other in self.wanted:
            if other != wanted:
                path = self.opened.run / _record_name(other)
                known = read_json(path) if path.is_file() else None
                taken |= {str(known.get("artefact"))} if isinstance(known, dict) else set()
        return f"model.{wanted.format}{precision}{suffix}" if plain in taken else plain

    def _keep(self, wanted: Wanted, depends: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Write a record, unless it says this already."""
        values = {key: value for key, value in values.items() if key != "depends"}
        if self._record(wanted) != {"depends": depends, **values}:
            self.opened.run.keep(_record_name(wanted), depends, values)

    def _write(self, wanted: Wanted) -> None:
        """Write the file, unless it is there for this network and these settings."""
        kind, known = exporter(wanted.format), self._record(wanted)
        path = self.opened.run / "artefacts" / self._file_name(wanted, kind.suffix)
        there = path.is_file() and known is not None and "artefact" in known
        try:
            depends = {**self._network(wanted), "settings": kind.settings()}
        except MissingPackage:
            if there:  # written where the package was
                return
            _remove(path)
            raise
        if there and known is not None and known["depends"] == depends:
            return
        (self.opened.run / _record_name(wanted)).unlink(missing_ok=True)
        _remove(path)  # of another network or setting: neither it nor its record must outlive the other
        artefact = self.shipping.write(path, wanted.format, wanted.precision)
        self.opened.console.say(f"exported {path.name}: {artefact.bytes} bytes")
        self._keep(wanted, depends, {"artefact": path.name, "timing": None, "unchecked": None})

    def _time(self, wanted: Wanted) -> None:
        """Time a file that was not timed yet; each session loads the file anew."""
        known = self._record(wanted)
        assert known is not None, "it was written"
        if known["timing"] is not None:
            if known["unchecked"] is not None:  # an attack that failed is tried again
                self._keep(wanted, known["depends"], {**known, "unchecked": None})
            return
        try:
            timing = self._timed(wanted, read_artefact(self._path(known)), known)
        except (UncheckedError, MissingPackage) as error:
            self._keep(wanted, known["depends"], {**known, "unchecked": str(error)})
            return
        self._keep(wanted, known["depends"], {**known, "timing": asdict(timing), "unchecked": None})
        self.opened.console.say(f"{self._path(known).name}: {timing.p50_ms:.3f} ms on {timing.provider}")

    def _timed(self, wanted: Wanted, artefact: Artefact, known: Mapping[str, Any]) -> Timing:
        """An ONNX file as the artefact is timed; any other from memory to memory."""
        kind, threads = exporter(wanted.format), self.opened.setting.targets[0].threads
        profiles = self.opened.bench.profiles.values()
        if kind.suffix == ".onnx":
            if wanted.precision == "fp16":
                raise UncheckedError(HALF)
            rest = at_rest(profiles, threads)
            return time_model(artefact.path, threads=threads, seconds=FINAL_TIMING_SECONDS, rest_ms=rest)
        builder = known["depends"]["settings"].get("builder", wanted.format)
        image = np.random.default_rng(0).random((1, *self.opened.task.data.image), dtype=np.float32)
        provider = getattr(kind.predict(artefact), "provider", wanted.format)
        return time_runs(
            lambda: Runner(partial(kind.predict(artefact), image)),
            runtime=f"{builder}, batch 1, from host memory to host memory",
            provider=provider,
            seconds=FINAL_TIMING_SECONDS,
            rest_ms=at_rest(profiles, 1),
        )


def _written(name: str) -> tuple[str, ...]:
    """The precisions that a format is written in; of one that does not load all, so that its problem is told later."""
    try:
        return precisions_of(exporter(name))
    except InputError:
        return PRECISIONS


def _remove(path: Path) -> None:
    for left in (path, sidecar(path)):
        left.unlink(missing_ok=True)


def _record_name(wanted: Wanted) -> str:
    return f"artefacts/also.{wanted.name}.json"


def _not_written(wanted: Wanted, reason: str) -> str:
    return f"{wanted.name}: no file was written: {reason}"
