"""Times a network on this machine, with the evidence that a latency needs to be believed.

What is timed is what `deploy` runs: ONNX Runtime's CPU provider, batch 1, one call at a time, all graph
optimisations. Denormals are left as they are: the runtime's option to flush them acts once per process, for whoever
opens the first session, so a timing that relied on it would not be that of the shipped network.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.errors import InputError
from rcnas_edge.profile import machine
from rcnas_edge.rowgraph import graph_of
from rcnas_edge.specimen import specimen

if TYPE_CHECKING:
    import onnxruntime

WITHIN, BETWEEN = 0.025, 0.05
"""Above these coefficients of variation, within a session and between sessions, a timing is unstable."""

REFERENCE = ("conv", "blocked", 3, 1, 1, 8, 8, 32, 32)
"""The kernel of the reference network: a 3x3 convolution of 32 channels at 8x8."""

BLOCKS = 10
"""Turns of the model and the reference kernel in a session."""


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


def time_model(
    model: bytes | str | Path,
    *,
    threads: int = 1,
    seconds: float = 3.0,
    sessions: int = 3,
    warm_seconds: float = 0.3,
    warm_runs: int = 20,
) -> Timing:
    """Latency of an ONNX model for one image on this machine: `seconds` in all, in `sessions` fresh sessions.

    The final number of a report takes 10 s. Each session warms up by time and by runs, then takes turns with a
    reference kernel. The turns' medians, not single runs, decide whether the timing is stable: a run that another
    process interrupts counts in the p95, not in the verdict.
    """
    runtime = f"{machine()['runtime']}, batch 1, sequential, all graph optimisations, denormals not flushed"
    return time_runs(
        lambda: session_runner(model, threads),
        runtime=runtime,
        provider="CPUExecutionProvider",
        threads=threads,
        seconds=seconds,
        sessions=sessions,
        warm_seconds=warm_seconds,
        warm_runs=warm_runs,
    )


def time_runs(
    open_runner: Callable[[], Runner],
    *,
    runtime: str,
    provider: str,
    threads: int = 1,
    seconds: float = 3.0,
    sessions: int = 3,
    warm_seconds: float = 0.3,
    warm_runs: int = 20,
) -> Timing:
    """`time_model` for whatever can be opened and run on one image: `open_runner` opens it anew for each session."""
    if seconds <= 0 or sessions < 1 or threads < 1:
        raise InputError(
            f"a timing takes seconds > 0, sessions >= 1 and threads >= 1, got {seconds}, {sessions} and {threads}"
        )
    started = time.monotonic()
    reference = session_runner(reference_model(), threads)
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


class Runner:
    """A call that runs something open on one image, and how long it takes."""

    def __init__(self, run: Callable[[], object]) -> None:
        self.run = run

    def times(self, runs: int) -> np.ndarray:
        """ms of each of so many runs."""
        run, clock = self.run, time.perf_counter_ns
        found = np.empty(runs)
        for place in range(runs):
            start = clock()
            run()
            found[place] = clock() - start
        return found / 1e6

    def times_for(self, seconds: float) -> np.ndarray:
        """ms of each run that fits in a time, at least three; the clock is asked after every third."""
        found, end = [self.times(3)], time.perf_counter() + seconds
        while time.perf_counter() < end:
            found.append(self.times(3))
        return np.concatenate(found)

    def warm(self, seconds: float, runs: int) -> None:
        """Run for at least this time and at least so many times."""
        end = time.perf_counter() + seconds
        self.times(runs)
        while time.perf_counter() < end:
            self.times(5)


def session_runner(model: bytes | str | Path, threads: int) -> Runner:
    """An open session with an image to run it on."""
    session = open_session(model, threads)
    feed = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in feed.shape]
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    return Runner(partial(session.run, None, {feed.name: image}))


def open_session(
    model: bytes | str | Path, threads: int, *, optimised: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session as `deploy` opens it; `optimised` also writes the graph that the runtime makes of the model."""
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
        raise InputError(f"a timing needs a model that ONNX Runtime loads, {what}: {error}") from error


def reference_model() -> bytes:
    """The fixed kernel that tells a slow machine from a slow network."""
    return graph_of(specimen(REFERENCE, 4)).SerializeToString()
