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
    from collections.abc import Callable, Iterator, Sequence

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

    def times_for(self, seconds: float, runs: int = 3) -> np.ndarray:
        """ms of each run that fits in a time, so many at least; the clock is asked after every so many."""
        end = self.clock() + 1e9 * seconds
        found = [self.times(runs)]
        while self.clock() < end:
            found.append(self.times(runs))
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


# The machine's pace

AT_PACE = 1.1
"""A turn is at the machine's pace if the reference kernel takes at most this much of its time at rest around it."""
QUICKEST = 5
"""Percentile of the reference kernel's timings that is taken for its time at rest."""
REFERENCE_RUNS, REFERENCE_SECONDS = 20, 0.002
"""Runs of the reference kernel at a time: so many, fewer where they would take longer than this."""


@dataclass(frozen=True)
class Turn:
    """ms of the runs of each thing that is timed, and of the reference kernel right before and right after."""

    runs: list[np.ndarray]
    before: float
    after: float

    @property
    def slower(self) -> float:
        """By this the turn is at the machine's pace, or not."""
        return max(self.before, self.after)


class Reference:
    """A small kernel that says how fast the machine runs.

    A processor that is shared slows everything down by a third, for moments of 20 ms to a second or for most of a
    minute, and a large network by more than a small one: what was timed then cannot be put right by a factor.
    """

    def __init__(self, runner: Runner) -> None:
        runner.warm(0.2, 20)
        self.runner = runner
        once = float(np.median(runner.times(5))) / 1e3
        self.runs = int(np.clip(REFERENCE_SECONDS / once, 3, REFERENCE_RUNS))

    def ms(self) -> float:
        """What it takes now."""
        return float(np.percentile(self.runner.times(self.runs), 20))

    def turns(self, *works: Callable[[], np.ndarray]) -> Iterator[Turn]:
        """Turn after turn of what these give (ms of each run), with the reference in between."""
        before = self.ms()
        while True:
            runs = [work() for work in works]
            after = self.ms()
            yield Turn(runs, before, after)
            before = after


# Short samples, for the many rows of a table

TURNS, MOST_TURNS, MOST_SECONDS = 4, 32, 2.0
"""Of a sample: turns at the machine's pace that it takes, and how long it waits for so many in any case."""
WAIT_SECONDS = 60.0
"""How much longer the samples of a table wait in all until the machine is back at the pace it was begun with."""
RUNS_PER_TURN, TURN_SECONDS = 20, 0.01
PACE_SECONDS, RECENT = 2.0, 400
"""How long the pace is taken at first, and how many timings of the reference kernel say what it is now."""
STEADY = 0.05
"""Spread of the reference kernel above which a measurement is called unstable."""


class Pace:
    """How fast the machine runs, by a reference kernel that every sample is taken in turns with.

    `ms` is what the reference kernel takes at the pace that all times are brought to (that of an earlier measurement,
    or of now); `references` are its timings beside the samples so far, those of a call that was killed included. The
    samples wait for that pace while there is `patience`, in seconds; `waited` is what it has cost so far.
    """

    patience = WAIT_SECONDS
    waited = 0.0

    def __init__(self, reference: Runner, *, ms: float | None = None, references: Sequence[float] = ()) -> None:
        self.reference, self.references = Reference(reference), list(references)
        self.recent: list[float] = []
        end = reference.clock() + 1e9 * PACE_SECONDS
        while len(self.recent) < 9 or reference.clock() < end:
            self.recent.append(self.reference.ms())
            reference.warm(PACE_SECONDS / RECENT, 0)  # so that they are of the whole time
        self.ms = ms or self.quick

    @property
    def quick(self) -> float:
        """ms of the reference kernel while the machine was at its pace of late."""
        found = np.array(self.recent)
        return float(np.median(found[found <= AT_PACE * self.now]))

    @property
    def outrun(self) -> bool:
        """Whether the machine has become quicker than the pace `ms`, and for more than a moment."""
        return AT_PACE * float(np.percentile(self.recent, 25)) < self.ms

    @property
    def now(self) -> float:
        """ms of the reference kernel in the quickest of its last timings."""
        return float(np.percentile(self.recent, QUICKEST))

    @property
    def spread(self) -> float:
        """How far the reference kernel was from `ms` around the samples so far, as a share (root mean square)."""
        return apart(self.references, self.ms)

    def runs(self, *works: Callable[[], np.ndarray]) -> list[np.ndarray]:
        """ms of the runs that each of these gives, brought to the pace `ms`; all of them are timed in turns.

        Turns count in which the machine runs at its pace: that of now, or `ms` if it is quicker and there is patience
        left. Where it does not while they are waited for, the quickest by the reference kernel count, and what is wrong
        with them is left to further samples.
        """
        quickest: list[Turn] = []
        clock = self.reference.runner.clock
        due, end = math.inf, clock() + 1e9 * MOST_SECONDS
        for count, turn in enumerate(self.reference.turns(*works), start=1):
            quickest = sorted([*quickest, turn], key=lambda one: one.slower)[:TURNS]
            self.recent = [*self.recent, turn.after][-RECENT:]
            if count >= MOST_TURNS or (clock() >= end and count >= TURNS):
                due = min(due, clock())
            limit = AT_PACE * (min(self.now, self.ms) if self.patience else self.now)
            enough = count >= TURNS and quickest[-1].slower <= limit
            if enough or clock() >= due + 1e9 * self.patience:
                break
        longer = max(0.0, (clock() - due) / 1e9)
        self.waited, self.patience = self.waited + longer, max(0.0, self.patience - longer)
        counting = [one for one in quickest if one.slower <= limit] or quickest
        self.references.append(float(np.median([(one.before + one.after) / 2 for one in counting])))
        drift = self.references[-1] / self.ms
        return [np.concatenate([one.runs[place] for one in counting]) / drift for place in range(len(works))]


def apart(references: Sequence[float], ms: float) -> float:
    """How far timings of the reference kernel are from `ms`, as a share (root mean square)."""
    return float(np.sqrt(np.mean((np.array(references) / ms - 1) ** 2))) if references else 0.0


def difference(one: Runner, many: Runner, pace: Pace) -> float:
    """ms that `many` takes more: the two in turns, of each the 20th percentile, which other processes do not reach."""
    one.times(10)
    once = float(np.median(many.times(10))) / 1e3
    runs = int(np.clip(TURN_SECONDS / once, 3, RUNS_PER_TURN))
    low, high = (float(np.percentile(ms, 20)) for ms in pace.runs(partial(one.times, runs), partial(many.times, runs)))
    return high - low


def network_ms(runner: Runner, pace: Pace) -> float:
    """ms of a whole network, as `difference` times a kernel: in turns with the reference, the 20th percentile.

    Where a session's memory lies moves this by a few percent: the median of several calls, each with a session of its
    own, is worth more than one long call.
    """
    runner.warm(TURN_SECONDS, RUNS_PER_TURN)
    (ms,) = pace.runs(partial(runner.times_for, TURN_SECONDS))
    return float(np.percentile(ms, 20))


# The full protocol, for a number that is published

WITHIN, BETWEEN = 0.025, 0.05
"""Above these coefficients of variation, within a session and between sessions, a timing is unstable."""
BLOCKS = 10
"""Parts of a session, at most, whose medians are compared."""
BLOCK_SECONDS, LEAST_TURNS = 0.02, 9
"""How long a turn is at least, and how many a session has at least."""
AT_PACE_TURNS = 3
"""Times the sessions that were asked for: turns at the machine's pace that a timing needs."""
PATIENCE, REST_SECONDS = 3, 30.0
"""Times the seconds that were asked for, at most, until a timing is at the machine's pace; and where it is known what
that is, so many seconds at least."""
HOW = "batch 1, sequential, all graph optimisations, denormals not flushed"


@dataclass(frozen=True)
class Timing:
    """How long one image takes, in ms, and what says so.

    Turns count in which the machine ran at its pace, `at_pace` is their share; 0 says that it did not come to that, and
    that the last sessions count as they were. `p95_ms` and `runs` are of all turns of all `sessions`. `low_ms` to
    `high_ms` holds 95 % of the medians of the sessions' parts (ten of each, of three runs at least); `within` and
    `between` are the coefficients of variation of these in the worst session, and of the sessions' medians.
    `reference_ms` is what the reference kernel took around the turns that count.
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
    at_pace: float = 1.0

    @property
    def steadiness(self) -> str:
        """Whether it is stable, and the share of turns at the machine's pace, in words."""
        share = f"{100 * self.at_pace:.0f} % of the turns" if self.at_pace else "never for long"
        return f"{'stable' if self.stable else 'UNSTABLE'}, {share} at the machine's pace"

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
    rest_ms: float | None = None,
) -> Timing:
    """The latency of whatever `open_runner` opens anew for each session: `seconds` in all, in turns with `reference`.

    Each session warms up by time and by runs. Turns count in which the machine runs at its pace: that of the quickest
    session, or `rest_ms`, what the reference takes on this machine at rest, if that is less. There are further
    sessions, for three times the seconds and with `rest_ms` for half a minute, until enough of them have such turns,
    the last one in its second half too. Where this does not come about the last sessions count as they are, so a device
    that throttles for good is timed as slow as it has become, and the timing is unstable. One that throttles in turns
    is timed in its quick moments: `at_pace`.
    """
    found = _sessions(
        [open_runner],
        reference,
        seconds=seconds,
        sessions=sessions,
        warm_seconds=warm_seconds,
        warm_runs=warm_runs,
        rest_ms=rest_ms,
    )
    return found.timing(0, runtime=runtime, provider=provider, threads=threads)


@dataclass(frozen=True)
class Beside:
    """Two things that were timed in turns, and `share`, what the first one takes of the other's time.

    That is the median of the shares of single turns: within one the machine seldom changes its pace, while the medians
    of all runs may be of a slow moment for the one and of a quick one for the other. At a slower pace a large network
    may lose a little more than a small one.
    """

    timing: Timing
    other: Timing
    share: float


def time_beside(
    open_runner: Callable[[], Runner],
    open_other: Callable[[], Runner],
    reference: Runner,
    *,
    runtime: str,
    provider: str,
    threads: int,
    seconds: float,
    rest_ms: float | None = None,
    rest_seconds: float | None = None,
) -> Beside:
    """`time_runs` of two things in turns; `rest_seconds` in the place of half a minute for the pace at rest."""
    both = _sessions([open_runner, open_other], reference, seconds=seconds, rest_ms=rest_ms, rest_seconds=rest_seconds)
    one, other = (both.timing(place, runtime=runtime, provider=provider, threads=threads) for place in range(2))
    return Beside(one, other, both.share())


@dataclass(frozen=True)
class _Sessions:
    """The turns of all sessions, those of them that count, and whether these are at the machine's pace."""

    timed: list[list[Turn]]
    counting: list[list[Turn]]
    reached: bool
    seconds: float

    def share(self) -> float:
        """Of the first thing's time to the second's: the median over turns."""
        found = [np.median(turn.runs[0]) / np.median(turn.runs[1]) for turns in self.counting for turn in turns]
        return float(np.median(found))

    def timing(self, place: int, *, runtime: str, provider: str, threads: int) -> Timing:
        """Of the thing at this place in the turns."""
        of_sessions = [np.concatenate([turn.runs[place] for turn in turns]) for turns in self.counting]
        parts = [np.array_split(runs, max(1, min(BLOCKS, len(runs) // 3))) for runs in of_sessions]
        blocks = [[np.median(part) for part in each] for each in parts]
        middles = [float(np.median(runs)) for runs in of_sessions]
        within, between = max(map(_variation, blocks)), _variation(middles)
        every = np.concatenate([turn.runs[place] for turns in self.timed for turn in turns])
        return Timing(
            p50_ms=float(np.median(np.concatenate(of_sessions))),
            p95_ms=float(np.percentile(every, 95)),
            runs=int(every.size),
            stable=self.reached and within <= WITHIN and between <= BETWEEN,
            runtime=runtime,
            threads=threads,
            provider=provider,
            low_ms=float(np.percentile(np.concatenate(blocks), 2.5)),
            high_ms=float(np.percentile(np.concatenate(blocks), 97.5)),
            within=within,
            between=between,
            sessions=len(self.timed),
            seconds=self.seconds,
            reference_ms=float(np.median([turn.after for turns in self.counting for turn in turns])),
            load=os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan,
            at_pace=sum(map(len, self.counting)) / sum(map(len, self.timed)) if self.reached else 0.0,
        )


def _sessions(
    open_runners: Sequence[Callable[[], Runner]],
    reference: Runner,
    *,
    seconds: float,
    sessions: int = 3,
    warm_seconds: float = 0.3,
    warm_runs: int = 20,
    rest_ms: float | None = None,
    rest_seconds: float | None = None,
) -> _Sessions:
    """As `time_runs` says, of whatever takes turns."""
    started = time.monotonic()
    pace = Reference(reference)
    timed: list[list[Turn]] = []
    wait = REST_SECONDS if rest_seconds is None else rest_seconds
    patience = max(PATIENCE * seconds, wait if rest_ms else 0.0)
    reached, end = False, reference.clock() + 1e9 * patience
    while not reached and (len(timed) < sessions or reference.clock() < end):
        runners = [open_runner() for open_runner in open_runners]
        for runner in runners:
            runner.warm(warm_seconds, 3 if timed else warm_runs)
        timed.append(_session(runners, pace, seconds / sessions))
        quickest = min(float(np.percentile([turn.after for turn in turns], QUICKEST)) for turns in timed)
        limit = AT_PACE * min(quickest, rest_ms or quickest)
        counting = [found for turns in timed if (found := [turn for turn in turns if turn.slower <= limit])]
        last = timed[-1][len(timed[-1]) // 2 :]
        enough = len(counting) >= sessions and sum(map(len, counting)) >= AT_PACE_TURNS * sessions
        reached = enough and any(turn.slower <= limit for turn in last)
    if not reached:
        counting = timed[-sessions:]
    return _Sessions(timed, counting, reached, time.monotonic() - started)


def _session(runners: Sequence[Runner], reference: Reference, seconds: float) -> list[Turn]:
    clock, works = runners[0].clock, []
    end = clock() + 1e9 * seconds
    for runner in runners:
        once = float(np.median(runner.times(3))) / 1e3
        works.append(partial(runner.times_for, BLOCK_SECONDS, 3 if 3 * once < BLOCK_SECONDS else 1))
    found: list[Turn] = []
    for turn in reference.turns(*works):
        found.append(turn)
        if len(found) >= LEAST_TURNS and clock() >= end:
            break
    return found


def _variation(values: Sequence[float]) -> float:
    """The coefficient of variation."""
    return float(np.std(values) / np.mean(values))
