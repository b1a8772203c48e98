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
REFERENCES = 5
"""Last timings of the reference kernel whose median is the machine's pace now."""
STEADY = 0.05
"""Spread of the reference kernel above which a measurement is called unstable."""


class Pace:
    """How fast the machine runs, by a reference kernel that every sample is taken in turns with.

    `ms` is what the reference kernel takes at the pace that all times are brought to (that of an earlier measurement,
    or of now); `references` are its timings so far, those of a call that was killed included.
    """

    def __init__(self, reference: Runner, *, ms: float | None = None, references: Sequence[float] = ()) -> None:
        self.reference, self.references = reference, list(references)
        self.begun = len(self.references)  # the former ones say nothing of how fast the machine is now
        reference.warm(0.2, 100)
        self.ms = ms or float(np.median([_quick(reference) for _ in range(9)]))

    @property
    def spread(self) -> float:
        """Coefficient of variation of the reference kernel so far."""
        return float(np.std(self.references) / np.mean(self.references)) if self.references else 0.0

    def drift(self) -> float:
        """How much slower the machine runs now than at `ms`, by the last reference timings."""
        self.references.append(_quick(self.reference))
        return float(np.median(self.references[self.begun :][-REFERENCES:])) / self.ms


def difference(one: Runner, many: Runner, pace: Pace) -> float:
    """ms that `many` takes more: the two in turns, of each the 20th percentile, which other processes do not reach."""
    one.times(10)
    once = float(np.median(many.times(10))) / 1e3
    runs = int(np.clip(TURN_SECONDS / once, 3, RUNS_PER_TURN))
    times: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for _ in range(TURNS):
        times[0].append(one.times(runs))
        times[1].append(many.times(runs))
    low, high = (float(np.percentile(np.concatenate(found), 20)) for found in times)
    return (high - low) / pace.drift()


def network_ms(runner: Runner, pace: Pace) -> float:
    """ms of a whole network, as `difference` times a kernel: in turns with the reference, of each the 20th percentile.

    Where a session's memory lies moves this by a few percent: the median of several calls, each with a session of its
    own, is worth more than one long call.
    """
    runner.warm(TURN_SECONDS, RUNS_PER_TURN)
    found, drifts = [], []
    for _ in range(TURNS):
        found.append(float(np.percentile(runner.times_for(TURN_SECONDS), 20)))
        drifts.append(pace.drift())
    return float(np.median(found) / np.median(drifts))


def _quick(runner: Runner) -> float:
    return float(np.percentile(runner.times(RUNS_PER_TURN), 20))


# The full protocol, for a number that is published

WITHIN, BETWEEN = 0.025, 0.05
"""Above these coefficients of variation, within a session and between sessions, a timing is unstable."""
BLOCKS = 10
"""Turns of the model and the reference kernel in a session."""
HOW = "batch 1, sequential, all graph optimisations, denormals not flushed"


@dataclass(frozen=True)
class Timing:
    """How long one image takes, in ms, and what says so.

    `low_ms` to `high_ms` holds 95 % of the medians of short turns; `within` and `between` are the coefficients of
    variation of those medians in a session and of the sessions' medians. `reference_ms` is a fixed small network timed
    in turns with the model: the ratio of the two survives a machine that slows down.
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
) -> Timing:
    """The latency of whatever `open_runner` opens anew for each session: `seconds` in all, in turns with `reference`.

    Each session warms up by time and by runs. The turns' medians, not single runs, decide whether the timing is
    stable: a run that another process interrupts counts in the p95, not in the verdict.
    """
    started = time.monotonic()
    turns: list[list[np.ndarray]] = []
    references: list[float] = []
    for _ in range(sessions):
        runner = open_runner()
        runner.warm(warm_seconds, warm_runs)
        reference.warm(0.0, warm_runs)
        turns.append([])
        for _ in range(BLOCKS):
            references.append(float(np.median(reference.times(10))))
            turns[-1].append(runner.times_for(seconds / sessions / BLOCKS))
    runs = np.concatenate([turn for session in turns for turn in session])
    medians = np.array([[np.median(turn) for turn in session] for session in turns])
    of_sessions = np.array([np.median(np.concatenate(session)) for session in turns])
    within = float(np.max(medians.std(axis=1) / medians.mean(axis=1)))
    between = float(of_sessions.std() / of_sessions.mean())
    return Timing(
        p50_ms=float(np.median(runs)),
        p95_ms=float(np.percentile(runs, 95)),
        runs=int(runs.size),
        stable=within <= WITHIN and between <= BETWEEN,
        runtime=runtime,
        threads=threads,
        provider=provider,
        low_ms=float(np.percentile(medians, 2.5)),
        high_ms=float(np.percentile(medians, 97.5)),
        within=within,
        between=between,
        sessions=sessions,
        seconds=time.monotonic() - started,
        reference_ms=float(np.median(references)),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan,
    )
