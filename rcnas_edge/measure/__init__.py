"""Fills a profile with the latencies of this machine: a table of kernels, checked on whole networks.

Every kernel that the given networks need is timed as a difference of two small networks; the channels of a surface
that needs many are thinned to a grid. Then a few whole networks fix the overhead of a call and one scale factor,
and others, held apart, say how well the table predicts. Rows are kept as they come: a killed measurement resumes,
and a later task adds its rows to the same file.
"""

from __future__ import annotations

import logging
import os
import random
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rcnas_edge.board.layout import block_of
from rcnas_edge.board.timing import AT_PACE, STEADY
from rcnas_edge.errors import InputError
from rcnas_edge.measure.calibration import Pair, agreement, fit
from rcnas_edge.measure.planning import copies_of, ordered, plan, timed_part
from rcnas_edge.measure.rowgraph import check_rows, graph_of
from rcnas_edge.measure.specimen import difference
from rcnas_edge.measure.stopwatch import KernelTimer, Outrun, Stopwatch
from rcnas_edge.measure.timing import Timing, layout_probe, time_beside, time_model
from rcnas_edge.profile import Profile, Row, Target, cache_path, image_size, machine, read_profile, save_profile
from rcnas_edge.profile.device import megabytes_of_weights
from rcnas_edge.profile.fusion import RUNTIMES, Kernel, Key, kernels, kernels_of
from rcnas_edge.profile.provenance import MEASURED, OVERHEAD, TABLE, UNKNOWN
from rcnas_edge.profile.table import Table, interpolate, work
from rcnas_edge.space import Layer

__all__ = ["Timing", "graph_of", "measure_profile", "runtime_here", "time_beside", "time_model"]

log = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
Network = Sequence[Layer]

CALIBRATION, CHECK = 24, 12
"""Whole networks that fix overhead and scale, and others that check the predictions."""
VISITS = 5
"""Times that each whole network is timed, if there is time, each with a session of its own; its ms is their median."""
SHARE_OF_NETWORKS = 0.2
"""Of the time, kept for whole networks."""
MEASURABLE = ("fp32", "int8")
"""Precisions that ONNX Runtime computes in on a CPU; fp16 it computes in fp32."""
LEAST_MS, ENOUGH_TO_TELL = 1e-4, 3
"""The row of a kernel without MACs that so many samples do not show: it takes no time that could be seen."""
SAVE_SECONDS = 2.0
OUTRUN_AT_MOST = 2
"""How often a measurement begins anew because the machine has become quicker."""
ESTIMATED = -1
"""In the place of a network's digest in a pair whose sum rests on estimates: a later call does not fit to it."""


def measure_profile(
    name: str,
    layer_lists: Iterable[Network],
    *,
    precision: str = "fp32",
    threads: int = 1,
    budget_seconds: float = 45.0,
    passes: int = 1,
    calibration: int | None = None,
    check: int | None = None,
    base: Profile | None = None,
    progress: Progress | None = None,
    path: Path | None = None,
    quickest: float | None = None,
) -> Profile:
    """Measure what predicts the latency of these networks (a few hundred of a space) on this machine, and keep it.

    The result is also the file `path` (of this machine's cache by default), from which a killed call resumes; rows in
    it and in `base` are kept and not measured again. After `budget_seconds` what is missing stays an estimate, and
    every prediction says which share of it is measured. While there is time, the new rows are timed in up to `passes`
    passes and their medians kept. `calibration` whole networks then fix the overhead of a call and a scale, and `check`
    others say how good the predictions are (`CALIBRATION` and `CHECK` by default).

    All of it is of one pace of the machine. Where that turns out to be quicker than it was when the rows were timed, or
    than `quickest`, what the reference kernel takes (ms) by an earlier timing, these are dropped and it begins anew,
    with the whole budget. It waits up to a minute for a pace that is known, which no budget pays for.
    """
    if budget_seconds <= 0 or threads < 1 or passes < 1:
        raise InputError(
            f"a measurement takes seconds > 0, threads >= 1 and passes >= 1, got {budget_seconds}, {threads} and "
            f"{passes}"
        )
    networks = list(layer_lists)
    for layers in networks:
        check_rows(layers)
    if not networks:
        raise InputError("a profile is measured for at least one network, got none: pass rows of the space")
    path = cache_path(name) if path is None else Path(path)
    if precision not in MEASURABLE:
        raise InputError(
            f"a table is measured in {' or '.join(MEASURABLE)}, got {precision!r}: a CPU computes it in another one"
        )
    target = Target(name, precision, threads)
    known, setting = _start(target, base, path), target.setting
    entries = [entry for entry in known.provenance if entry.get("setting") == setting]
    former = [ms for entry in entries if isinstance(ms := entry.get("reference_ms"), int | float)]
    pace = former[0] if former else None
    counts = (CALIBRATION if calibration is None else calibration, CHECK if check is None else check)
    progress = progress or (lambda label, share: None)
    if quickest and pace and AT_PACE * quickest < pace:
        known, pace = _without(known, setting), quickest
    for strict in (True,) * OUTRUN_AT_MOST + (False,):
        started = time.monotonic()
        timer = Stopwatch(threads, precision=precision, pace=pace, strict=strict)
        measurement = Measurement(known, path, target, timer, progress)
        try:
            measurement.rows(networks, started + (1 - SHARE_OF_NETWORKS) * budget_seconds, passes)
            measurement.whole_networks(networks, timer.network, started + budget_seconds, counts)
            break
        except Outrun as outrun:
            progress(f"the machine has become {timer.pace / outrun.ms:.2f} times as fast: from the beginning", 0.0)
            known, pace = _without(measurement.profile, setting), outrun.ms
    return measurement.profile


def _without(profile: Profile, setting: str) -> Profile:
    """The profile without what was measured in a setting."""

    def others(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key != setting and not key.startswith(f"{setting}/")}

    return replace(
        profile,
        rows=tuple(row for row in profile.rows if row.setting != setting),
        scale=others(profile.scale),
        overhead_ms=others(profile.overhead_ms),
        streaming=others(profile.streaming),
        validation=others(profile.validation),
        provenance=tuple(entry for entry in profile.provenance if entry.get("setting") != setting),
    )


@lru_cache(maxsize=1)
def runtime_here() -> str:
    """Which of `fusion.RUNTIMES` the ONNX Runtime of this machine is, seen from how it lays out a convolution."""
    block = block_of(layout_probe())
    found = [runtime for runtime, channels in RUNTIMES.items() if channels == block]
    if not found:
        log.warning("the runtime lays out blocks of %d channels, which no profile knows: taken as plain", block)
    return found[0] if found else "onnxruntime"


def facts_here() -> dict[str, Any]:
    """What provenance says of this machine now: processor, runtime, load, date."""
    here = machine()
    return {
        "source": here["cpu"],
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        **here,
        "clocks": UNKNOWN,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else UNKNOWN,
    }


def _start(target: Target, base: Profile | None, path: Path) -> Profile:
    """What is known already: the file and the base, if they are of this runtime."""
    runtime, here = runtime_here(), machine()
    known: dict[tuple[str, int, Kernel], Row] = {}
    profile = base or Profile(target.profile, here["cpu"], runtime)
    for source in (base, read_profile(path) if path.is_file() else None):
        if source is None:
            continue
        if source.rows and source.runtime != runtime:
            raise InputError(
                f"rows of one runtime make a profile, {source.name!r} is of {source.runtime} and this machine runs "
                f"{runtime}: measure under another name"
            )
        known |= {(row.precision, row.threads, row.kernel): row for row in source.rows}
        profile = source
    return replace(
        profile,
        name=target.profile,
        vendor=profile.vendor if profile.rows else here["cpu"],
        runtime=runtime,
        rows=tuple(known.values()),
        precisions=tuple(sorted({target.precision, *(row.precision for row in known.values())})),
        threads=tuple(sorted({target.threads, *(row.threads for row in known.values())})),
    )


class _Unknown(Exception):
    """Why a kernel cannot be measured."""


@dataclass
class Measurement:
    """One measurement: the profile so far, who times, where it is kept, and what `facts` say of the machine."""

    profile: Profile
    path: Path
    target: Target
    timer: KernelTimer
    progress: Progress
    facts: Callable[[], Mapping[str, Any]] = facts_here
    saved: float = field(default_factory=time.monotonic)
    samples: dict[Kernel, list[float]] = field(default_factory=dict)
    problems: dict[Kernel, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.setting = self.target.setting
        self.runtime = kernels_of(self.profile.runtime, self.target.precision)
        self.surfaces: dict[Key, dict[tuple[int, int], float]] = {}
        for row in self.profile.rows:
            if row.setting == self.setting:
                self.surfaces.setdefault(row.key, {})[row.channels_in, row.channels_out] = row.ms
        killed = [entry for entry in self._entries() if not entry.get("complete", True)]
        self.begun = sum(entry.get("rows", 0) for entry in killed)
        self.begun_spread = max((entry.get("reference_spread", 0.0) for entry in killed), default=0.0)
        self.begun_passes = max((entry.get("passes", 0) for entry in killed), default=0)

    # Rows

    @property
    def new(self) -> list[Row]:
        """The rows measured so far, each the median of its samples."""
        precision, threads = self.target.precision, self.target.threads
        found = {kernel: self._ms(kernel) for kernel in self.samples}
        return [
            Row(precision, threads, Key(*kernel[:7]), kernel[7], kernel[8], float(f"{ms:.5g}"))
            for kernel, ms in found.items()
            if ms is not None
        ]

    def _ms(self, kernel: Kernel) -> float | None:
        """The median of a kernel's samples; of one without MACs that several samples do not show the LEAST_MS."""
        samples = self.samples[kernel]
        if (ms := float(np.median(samples))) > 0:
            return ms
        return LEAST_MS if len(samples) >= ENOUGH_TO_TELL and not work(kernel)[1] else None

    def rows(self, networks: Sequence[Network], deadline: float, passes: int = 1) -> None:
        """Measure every kernel that is missing: helpers before what needs them, then the most costly first."""
        counts = Counter(kernel for layers in networks for kernel, _ in kernels(layers, self.runtime))
        todo = plan(counts, self.surfaces, self.runtime)
        self.time_kernels(ordered(todo, counts, self.runtime), deadline, passes)

    def time_kernels(self, todo: Sequence[Kernel], deadline: float, passes: int = 1) -> None:
        """Measure these kernels in this order, again in further passes while there is time."""
        try:
            for turn in range(passes):
                for place, kernel in enumerate(todo):
                    if self._late(deadline):
                        if turn == 0:
                            log.warning(
                                "the time for measuring is spent, %d of %d kernels stay estimates",
                                len(todo) - place,
                                len(todo),
                            )
                        return
                    self.progress(f"kernel {kernel[0]}", (turn + place / len(todo)) / passes)
                    self._sample(kernel)
        finally:  # also when the user interrupts
            if self.samples:
                self.save(complete=False)
            for kernel, problem in self.problems.items():
                if kernel not in self.samples or self._ms(kernel) is None:
                    log.warning("%s", problem)

    def _late(self, deadline: float) -> bool:
        """Whether this moment of the monotonic clock has passed, but for what was waited."""
        return time.monotonic() - self.timer.waited > deadline

    def _sample(self, kernel: Kernel) -> None:
        """Time a kernel once more; its row is the median so far."""
        try:
            ms = self._measure(kernel)
        except _Unknown as error:
            self.problems[kernel] = str(error)
            return
        self.problems[kernel] = f"noise hides the kernel {kernel}: call again on a quieter machine"
        self.samples.setdefault(kernel, []).append(ms)
        known = self._ms(kernel)
        if known is not None:
            self.surfaces.setdefault(Key(*kernel[:7]), {})[kernel[7], kernel[8]] = known
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save(complete=False)

    def _measure(self, kernel: Kernel) -> float:
        """ms of one kernel, below 0 where noise hides it; `_Unknown` where no specimen isolates it."""
        first = kernel not in self.samples
        kernel, share = timed_part(kernel)
        copies = copies_of(kernel)
        ms = 0.0
        for wanted in (copies, 2 * copies) if first else (copies,):
            more = difference(kernel, 1, 1 + wanted, self.runtime)
            if more[kernel] < 1:
                raise _Unknown(f"no specimen isolates the kernel {kernel}: its latency stays an estimate")
            helpers = 0.0
            for helper, count in more.items():
                if helper != kernel:
                    known = interpolate(self.surfaces.get(Key(*helper[:7]), {}), helper[7], helper[8])
                    if known is None:
                        raise _Unknown(f"{kernel} needs {helper}, which was not measured: it stays an estimate")
                    helpers += count * known
            ms = (self.timer.difference(kernel, 1 + wanted) - helpers) / more[kernel]
            if ms > 0:
                break
        return share * ms

    # Whole networks

    def whole_networks(
        self,
        networks: Sequence[Network],
        time_network: Callable[[Network], float],
        deadline: float,
        counts: tuple[int, int],
    ) -> None:
        """Fit overhead and scale on the first of `counts` networks of an image size, check them on the second."""
        by_size: dict[str, list[Network]] = {}
        for layers in networks:
            by_size.setdefault(image_size(layers), []).append(layers)
        entries = self._entries()
        done = {entry.get("image") for entry in entries if entry.get("complete", True)}
        interrupted = any(not entry.get("complete", True) for entry in entries)
        for size, alike in by_size.items():
            if size in done and not self.samples and not interrupted:
                continue
            chosen = random.Random(0).sample(alike, min(len(alike), sum(counts)))
            started = time.monotonic()
            table = Table(self.surfaces)
            pairs: list[Pair] = []
            for layers, ms in zip(chosen, self._visits(chosen, time_network, deadline), strict=False):
                times = [table.lookup(kernel) for kernel, _ in kernels(layers, self.runtime)]
                which = zlib.crc32(repr(layers).encode()) if all(known for _, known in times) else ESTIMATED
                pairs.append((sum(ms for ms, _ in times), ms, megabytes_of_weights(layers), which))
            seen = {pair[3] for other in entries for pair in other.get("calibration", ()) if len(pair) > 3}
            fitted, held = _parted(pairs, counts)
            held = [pair for pair in held if pair[3] not in seen]
            self.save(complete=True, size=size, fitted=fitted, held=held, seconds=time.monotonic() - started)

    def _visits(
        self, networks: Sequence[Network], time_network: Callable[[Network], float], deadline: float
    ) -> list[float]:
        """ms of the first of these networks, at least three: the median of as many visits as there is time for."""
        found: list[list[float]] = []
        for turn in range(VISITS):
            for place, layers in enumerate(networks):
                if self._late(deadline) and len(found) >= 3:
                    return [float(np.median(times)) for times in found]
                self.progress("whole networks", (turn + place / len(networks)) / VISITS)
                if turn == 0:
                    found.append([])
                found[place].append(time_network(layers))
        return [float(np.median(times)) for times in found]

    # Files

    def save(
        self,
        *,
        complete: bool,
        size: str = "",
        fitted: Sequence[Pair] = (),
        held: Sequence[Pair] = (),
        seconds: float = 0.0,
    ) -> None:
        """Write the profile with the rows so far and what is known of how they were measured.

        Of whole networks of one image size, timed in so many `seconds`, `fitted` fix the calibration and `held` check
        the predictions.
        """
        spread = max(self.timer.spread, self.begun_spread)
        entry: dict[str, Any] = {
            "covers": [TABLE, OVERHEAD],
            "kind": MEASURED,
            "setting": self.setting,
            "complete": complete,
            "image": size,
            **self.facts(),
            "threads": self.target.threads,
            "rows": self.begun + len(self.new),
            "passes": self.timer.passes * max(map(len, self.samples.values()), default=0) or self.begun_passes,
            "reference_ms": self.timer.pace,
            "reference_spread": round(spread, 4),
            "stable": spread <= STEADY,
            "calibration": [list(pair) for pair in fitted if len(pair) < 4 or pair[3] != ESTIMATED],
        }
        overhead, scale = dict(self.profile.overhead_ms), dict(self.profile.scale)
        streaming, validation = dict(self.profile.streaming), dict(self.profile.validation)
        if fitted:
            entries = [*self._entries(), {**entry, "calibration": fitted}]
            alike = [other for other in entries if other.get("image") == size]
            for key, of_key in ((self.setting, entries), (f"{self.setting}/{size}", alike)):
                found = fit([pair for other in of_key for pair in other.get("calibration", ())])
                overhead[key], scale[key] = found.overhead, found.scale
                streaming.pop(key, None)
                if found.ms_per_mb:
                    streaming[key] = (found.cache_mb, found.ms_per_mb)
            if held:
                validation[f"{self.setting}/{size}"] = {**agreement(held, found), "seconds": round(seconds, 1)}
            else:  # former numbers are of another calibration
                validation.pop(f"{self.setting}/{size}", None)
        kept = [  # what a killed call began is this measurement's now
            other
            for other in self.profile.provenance
            if other.get("complete", True) or other.get("setting") != self.setting
        ]
        rows = {(row.precision, row.threads, row.kernel): row for row in (*self.profile.rows, *self.new)}
        self.profile = replace(
            self.profile,
            rows=tuple(rows.values()),
            scale=scale,
            overhead_ms=overhead,
            streaming=streaming,
            validation=validation,
            provenance=(*kept, entry),
        )
        save_profile(self.profile, self.path.parent, stem=self.path.stem)
        self.saved = time.monotonic()

    def _entries(self) -> list[Mapping[str, Any]]:
        """What is known of earlier measurements with these threads."""
        return [entry for entry in self.profile.provenance if entry.get("setting") == self.setting]


def _parted(pairs: Sequence[Pair], counts: tuple[int, int]) -> tuple[list[Pair], list[Pair]]:
    """Networks for the fit and for the check: all that were planned, or of fewer every third for the check."""
    if len(pairs) == sum(counts):
        return list(pairs[: counts[0]]), list(pairs[counts[0] :])
    return [pair for place, pair in enumerate(pairs) if place % 3 != 2], list(pairs[2::3])
