"""The protocol of every latency here: runs, short samples for the many rows of a table, and numbers to publish."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.board.words import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnxruntime


class Runner:
    """A call that runs something open on one image, and how long it takes; `clock` gives nanoseconds."""

    def __init__(self, run: Callable[[], object], clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.run, self.clock = run, clock

    def times(self, runs: int) -> np.ndarray:
        """ms of each of so many runs."""
        run, clock = self.run, self.clock
        found = np.empty(runs)
        for place in range(runs):
            start = clock()
            run()
            found[place] = clock() - start
        return found / 1e6

    def times_for(self, seconds: float) -> np.ndarray:
        """ms of each run that fits in a time, at least three; the clock is asked after every third."""
        found, end = [self.times(3)], self.clock() + 1e9 * seconds
        while self.clock() < end:
            found.append(self.times(3))
        return np.concatenate(found)

    def warm(self, seconds: float, runs: int) -> None:
        """Run for at least this time and at least so many times."""
        end = self.clock() + 1e9 * seconds
        self.times(runs)
        while self.clock() < end:
            self.times(5)


def open_session(
    model: bytes | str | Path, threads: int, *, optimised: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session as a shipped network is run: CPU provider, one call at a time, all graph optimisations.

    `optimised` also writes the graph that the runtime makes of the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if optimised:
        options.optimized_model_filepath = str(optimised)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        what = "these bytes" if isinstance(model, bytes) else str(model)
        raise Refused(f"a timing needs a model that ONNX Runtime loads, {what}: {error}") from error


def session_runner(model: bytes | str | Path, threads: int) -> Runner:
    """An open session with a random image to run it on; a size that the model leaves open is 1."""
    session = open_session(model, threads)
    feeds = session.get_inputs()
    if len(feeds) != 1 or feeds[0].type != "tensor(float)":
        found = ", ".join(f"{feed.name} {feed.type}" for feed in feeds)
        raise Refused(f"a timing needs a model with one input of float32, this one has {found or 'none'}")
    shape = [size if isinstance(size, int) else 1 for size in feeds[0].shape]
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    return Runner(partial(session.run, None, {feeds[0].name: image}))


# Short samples, for the many rows of a table

TURNS, RUNS_PER_TURN, TURN_SECONDS = 4, 20, 0.01
PACE_SECONDS, RECENT = 0.5, 100
"""How long the pace is taken at first, and how many timings of the reference kernel say what it is now."""
STEADY = 0.05
"""Spread of the reference kernel above which a measurement is called unstable."""
AT_PACE = 1.1
"""Times its pace that the reference kernel takes at most before and after a turn that counts."""
PATIENCE = 3
"""Times the turns, or sessions, that are wanted, at most, while the machine is slower than it can be."""


class Pace:
    """How fast the machine runs, by a reference kernel that every sample is taken in turns with.

    `ms` is what the reference kernel takes at the pace that all times are brought to (that of an earlier measurement,
    or of now); `references` are its timings beside the samples so far, those of a call that was killed included.
    """

    def __init__(self, reference: Runner, *, ms: float | None = None, references: Sequence[float] = ()) -> None:
        self.reference, self.references = reference, list(references)
        reference.warm(0.2, 100)
        self.recent: list[float] = []
        end = reference.clock() + 1e9 * PACE_SECONDS
        while len(self.recent) < 9 or reference.clock() < end:
            self._quick()
            reference.warm(PACE_SECONDS / RECENT, 0)
        found = np.array(self.recent)
        self.ms = ms or float(np.median(found[found <= AT_PACE * self.now]))

    @property
    def now(self) -> float:
        """ms of the reference kernel in the quicker part of its last timings."""
        return float(np.percentile(self.recent, 20))

    @property
    def spread(self) -> float:
        """Coefficient of variation of the reference kernel so far."""
        return float(np.std(self.references) / np.mean(self.references)) if self.references else 0.0

    def turns(self, *works: Callable[[], np.ndarray]) -> list[np.ndarray]:
        """ms of the runs of each of these at the pace `ms`: all of them in turns, the reference kernel in between.

        Turns count in which the machine runs at its pace of now. There are up to three times as many while it does not,
        as a processor that is shared does for moments, and the quickest by the reference kernel count then.
        """
        taken: list[tuple[float, float, list[np.ndarray]]] = []
        before = self._quick()
        while len(taken) < PATIENCE * TURNS:
            found = [work() for work in works]
            after = self._quick()
            taken.append((max(before, after), (before + after) / 2, found))
            before, limit = after, AT_PACE * self.now
            if sum(slower <= limit for slower, _, _ in taken) >= TURNS:
                break
        counting = sorted(taken, key=lambda turn: turn[0])[:TURNS]
        self.references.append(float(np.median([ms for _, ms, _ in counting])))
        drift = self.references[-1] / self.ms
        return [np.concatenate([found[place] for _, _, found in counting]) / drift for place in range(len(works))]

    def _quick(self) -> float:
        ms = float(np.percentile(self.reference.times(RUNS_PER_TURN), 20))
        self.recent = [*self.recent, ms][-RECENT:]
        return ms


def difference(one: Runner, many: Runner, pace: Pace) -> float:
    """ms that `many` takes more: the two in turns, of each the 20th percentile, which other processes do not reach."""
    one.times(10)
    once = float(np.median(many.times(10))) / 1e3
    runs = int(np.clip(TURN_SECONDS / once, 3, RUNS_PER_TURN))
    low, high = (float(np.percentile(ms, 20)) for ms in pace.turns(partial(one.times, runs), partial(many.times, runs)))
    return high - low


def network_ms(runner: Runner, pace: Pace) -> float:
    """ms of a whole network, as `difference` times a kernel: in turns with the reference, the 20th percentile.

    Where a session's memory lies moves this by a few percent: the median of several calls, each with a session of its
    own, is worth more than one long call.
    """
    runner.warm(TURN_SECONDS, RUNS_PER_TURN)
    (ms,) = pace.turns(partial(runner.times_for, TURN_SECONDS))
    return float(np.percentile(ms, 20))


# The full protocol, for a number that is published

WITHIN, BETWEEN = 0.025, 0.05
"""Above these coefficients of variation, within a session and between sessions, a timing is unstable."""
BLOCKS, BLOCK_SECONDS = 10, 0.05
"""Turns of the model and the reference kernel in a session, at least, and about how long one is."""
HOW = "batch 1, sequential, all graph optimisations, denormals not flushed, at the machine's pace"


@dataclass(frozen=True)
class Timing:
    """How long one image takes, in ms, and what says so.

    Turns count in which the machine ran at its pace, but `p95_ms` is over all. `low_ms` to `high_ms` holds 95 % of the
    medians of those turns; `within` and `between` are the coefficients of variation of these in a session and of the
    sessions' medians. `reference_ms` is what a fixed small network took in turns with the model, the machine's pace.
    """

    p50_ms: float
    p95_ms: float
    runs: int
    stable: bool
    runtime: str
    threads: int
    provider: str
    low_ms: float
    high_ms: float
    within: float
    between: float
    sessions: int
    seconds: float
    reference_ms: float
    load: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def time_runs(
    open_runner: Callable[[], Runner],
    reference: Runner,
    *,
    runtime: str,
    provider: str,
    threads: int,
    seconds: float,
    sessions: int = 3,
    warm_seconds: float = 0.3,
    warm_runs: int = 20,
    pace_ms: float | None = None,
) -> Timing:
    """The latency of whatever `open_runner` opens anew for each session: `seconds` in all, in turns with `reference`.

    Each session warms up by time and by runs. Only turns count in which the machine runs at its pace by `reference`: a
    processor that is shared slows down by a third for moments, or for most of a timing. There are more sessions while
    fewer than were asked for reach `pace_ms`, the reference's ms on this machine at rest, or that of the quickest
    session if it is not known. Where they never do the last ones count as they are, so a device that throttles for good
    is timed as slow as it becomes. Medians of turns, not single runs, say whether the timing is stable.
    """
    started = time.monotonic()
    timed: list[_Session] = []
    at_pace: list[_Session] = []
    while len(at_pace) < sessions and len(timed) < PATIENCE * sessions:
        runner = open_runner()
        runner.warm(warm_seconds, warm_runs)
        reference.warm(0.0, warm_runs)
        timed.append(_Session(runner, reference, seconds / sessions))
        known = pace_ms or min(one.pace for one in timed)
        at_pace = [one for one in timed if one.pace <= AT_PACE * known]
    timed = (at_pace if len(at_pace) >= sessions else timed)[-sessions:]
    pace = max(one.pace for one in timed)
    counting = [one.turns_at(pace) for one in timed]
    if not all(counting):
        counting = [one.turns for one in timed]
    medians = [np.array([np.median(turn) for turn in turns]) for turns in counting]
    of_sessions = np.array([np.median(np.concatenate(turns)) for turns in counting])
    runs = np.concatenate([turn for turns in counting for turn in turns])
    within = float(max(found.std() / found.mean() for found in medians))
    between = float(of_sessions.std() / of_sessions.mean())
    return Timing(
        p50_ms=float(np.median(runs)),
        p95_ms=float(np.percentile(np.concatenate([turn for one in timed for turn in one.turns]), 95)),
        runs=int(runs.size),
        stable=within <= WITHIN and between <= BETWEEN,
        runtime=runtime,
        threads=threads,
        provider=provider,
        low_ms=float(np.percentile(np.concatenate(medians), 2.5)),
        high_ms=float(np.percentile(np.concatenate(medians), 97.5)),
        within=within,
        between=between,
        sessions=sessions,
        seconds=time.monotonic() - started,
        reference_ms=pace,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan,
    )


class _Session:
    """ms of the runs of each turn in an open session, and of the reference before each turn and after the last."""

    def __init__(self, runner: Runner, reference: Runner, seconds: float) -> None:
        count = max(BLOCKS, round(seconds / BLOCK_SECONDS))
        self.turns: list[np.ndarray] = []
        self.references = [float(np.median(reference.times(10)))]
        for _ in range(count):
            self.turns.append(runner.times_for(seconds / count))
            self.references.append(float(np.median(reference.times(10))))

    @property
    def pace(self) -> float:
        """What the reference takes in the quicker part of the session."""
        return float(np.percentile(self.references, 20))

    def turns_at(self, pace: float) -> list[np.ndarray]:
        """The turns before and after which the reference was no slower than a pace."""
        slow = [ms > AT_PACE * pace for ms in self.references]
        return [turn for place, turn in enumerate(self.turns) if not (slow[place] or slow[place + 1])]
