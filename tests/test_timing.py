"""The timing protocol on machines that are made up: a clock that only work moves, and a pace that changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rcnas_edge.board import timing as protocol
from rcnas_edge.board.timing import Beside, Pace, Runner, Timing, difference, network_ms, time_beside, time_runs

REFERENCE, MODEL = 0.1, 0.2
SLOWER = {"reference": 1.25, "model": 1.35}


@pytest.fixture(autouse=True)
def as_it_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests take the pace of the true machine, and for a moment only."""
    monkeypatch.setattr(protocol, "PACE_SECONDS", 2.0)
    monkeypatch.setattr(protocol, "REST_SECONDS", 30.0)
    monkeypatch.setattr(Pace, "patience", protocol.WAIT_SECONDS)


class Machine:
    """At rest the reference takes 0.1 ms; `slow` says at which seconds everything takes longer."""

    def __init__(self, slow: Callable[[float], bool]) -> None:
        self.slow, self.nanoseconds = slow, 0

    def runner(self, ms: float, what: str = "model") -> Runner:
        def run() -> None:
            share = SLOWER[what] if self.slow(self.nanoseconds / 1e9) else 1.0
            self.nanoseconds += round(1e6 * ms * share)

        return Runner(run, lambda: self.nanoseconds)

    @property
    def reference(self) -> Runner:
        return self.runner(REFERENCE, "reference")

    def timing(self, rest_ms: float | None = None, *, model: float = MODEL, sessions: int = 3) -> Timing:
        return time_runs(
            lambda: self.runner(model),
            self.reference,
            runtime="none",
            provider="none",
            threads=1,
            seconds=3.0,
            sessions=sessions,
            rest_ms=rest_ms,
        )


def never(second: float) -> bool:
    return False


def always(second: float) -> bool:
    return True


def in_bursts(second: float) -> bool:
    """Seven tenths of the time, as a core whose other half is busy."""
    return second % 0.5 > 0.15


def at_random(slow: float, quick: float) -> Callable[[float], bool]:
    """Slow and quick stretches of these mean lengths in seconds, the same ones each time."""
    generator = np.random.default_rng(0)
    lengths = [generator.exponential(mean) for _ in range(4000) for mean in (slow, quick)]
    ends = np.cumsum(lengths)
    return lambda second: int(np.searchsorted(ends, second)) % 2 == 0


@pytest.mark.parametrize("model", [0.2, 20.0])
def test_a_machine_that_is_mostly_slow_is_timed_in_the_moments_in_which_it_is_not(model: float) -> None:
    timing, rested = Machine(in_bursts).timing(model=model), Machine(never).timing(model=model)
    assert timing.p50_ms == pytest.approx(model)
    assert timing.p95_ms == pytest.approx(model * SLOWER["model"]), "what does not count is not hidden"
    assert timing.reference_ms == pytest.approx(REFERENCE)
    assert timing.stable
    assert 0.1 < timing.at_pace < 0.5
    assert f"{100 * timing.at_pace:.0f} % of the turns" in timing.steadiness
    assert (rested.at_pace, rested.p50_ms, rested.p95_ms) == pytest.approx((1.0, model, model))


@pytest.mark.parametrize(("slow", "quick"), [(0.1, 0.05), (0.3, 0.1), (0.05, 0.05)])
def test_slow_moments_of_any_length_are_left_out(slow: float, quick: float) -> None:
    machine = Machine(at_random(slow, quick))
    found = [machine.timing(REFERENCE).p50_ms for _ in range(10)]
    assert found == pytest.approx([MODEL] * 10, rel=0.02)


@pytest.mark.parametrize("sessions", [1, 3])
def test_a_timing_waits_for_the_pace_that_is_known(sessions: int) -> None:
    """The first seconds are slow throughout: more than the whole timing takes."""
    for end in (5, 20):
        assert Machine(lambda now, end=end: now < end).timing(REFERENCE, sessions=sessions).p50_ms == pytest.approx(
            MODEL
        )
    unknown = Machine(lambda second: second < 5).timing(sessions=sessions)
    assert unknown.p50_ms == pytest.approx(MODEL * SLOWER["model"])
    assert unknown.reference_ms == pytest.approx(REFERENCE * SLOWER["reference"])


@pytest.mark.parametrize("rest_ms", [None, REFERENCE * 1.25])
def test_the_quickest_session_sets_the_pace_where_none_is_known_or_a_slower_one_was_noted(
    rest_ms: float | None,
) -> None:
    assert Machine(lambda second: second < 1.7).timing(rest_ms).p50_ms == pytest.approx(MODEL)


def test_a_pace_that_the_machine_no_longer_has_is_not_waited_for_for_ever() -> None:
    machine = Machine(always)
    timing = machine.timing(REFERENCE)
    assert timing.p50_ms == pytest.approx(MODEL * SLOWER["model"])
    assert (timing.at_pace, timing.stable) == (0.0, False)
    assert timing.steadiness == "UNSTABLE, never for long at the machine's pace"
    assert machine.nanoseconds < 35e9


@pytest.mark.parametrize("second", [1.5, 2.0, 2.5, 3.0, 3.5])
@pytest.mark.parametrize("rest_ms", [REFERENCE, None])
def test_a_device_that_throttles_for_good_is_timed_as_slow_as_it_becomes(rest_ms: float | None, second: float) -> None:
    """A timing begins to warm up at 0 and takes 4 seconds on this machine at rest."""
    timing = Machine(lambda now: now > second).timing(rest_ms)
    assert timing.p50_ms == pytest.approx(MODEL * SLOWER["model"])
    assert not timing.stable
    assert timing.at_pace == 0.0


@pytest.mark.parametrize(("slow", "rest_ms"), [(never, None), (always, REFERENCE)])
def test_a_slow_model_takes_no_longer_than_its_least_turns(
    slow: Callable[[float], bool], rest_ms: float | None
) -> None:
    """Nine turns of one run in each of three sessions, with and without waiting in vain; and 20 runs of warm-up."""
    machine = Machine(slow)
    timing = machine.timing(rest_ms, model=1000.0)
    share = SLOWER["model"] if slow is always else 1.0
    assert timing.runs == 3 * 9
    assert timing.p50_ms == pytest.approx(1000.0 * share)
    assert timing.stable == (slow is never)
    assert machine.nanoseconds / 1e9 == pytest.approx((20 + 2 * 3 + 3 * (3 + 9)) * share, rel=0.05)


def test_a_session_of_a_slow_model_may_have_a_single_run_that_counts() -> None:
    """Turns are single runs of 0.1 s; in the first session all but one are slow."""
    machine = Machine(lambda second: 2.0 < second < 3.7)
    timing = machine.timing(REFERENCE, model=100.0)
    assert timing.p50_ms == pytest.approx(100.0)
    assert 0.5 < timing.at_pace < 1.0


def test_runs_that_are_interrupted_now_and_then_do_not_make_a_slow_model_unstable() -> None:
    machine, generator = Machine(never), np.random.default_rng(0)

    def run() -> None:
        machine.nanoseconds += round(1e6 * 100 * (1.3 if generator.random() < 0.05 else 1.0))

    timing = time_runs(
        lambda: Runner(run, lambda: machine.nanoseconds),
        machine.reference,
        runtime="none",
        provider="none",
        threads=1,
        seconds=10.0,
    )
    assert timing.stable
    assert timing.p50_ms == pytest.approx(100.0)
    assert timing.p95_ms >= 100.0


@pytest.mark.parametrize(
    ("slow", "share"), [(never, 1.0), (in_bursts, 0.9), (at_random(0.1, 0.05), 0.8), (at_random(0.05, 0.1), 0.9)]
)
def test_kernels_and_networks_of_a_table_are_timed_at_the_same_pace(
    slow: Callable[[float], bool], share: float
) -> None:
    machine = Machine(slow)
    pace = Pace(machine.reference)
    assert pace.ms == pytest.approx(REFERENCE)
    found = [difference(machine.runner(0.3), machine.runner(0.8), pace) for _ in range(50)]
    assert np.mean(np.isclose(found, 0.5, rtol=0.02)) >= share
    found = [network_ms(machine.runner(3.0), pace) for _ in range(50)]
    assert np.mean(np.isclose(found, 3.0, rtol=0.02)) >= share


def test_a_table_that_goes_on_is_brought_to_its_former_pace() -> None:
    machine = Machine(always)
    pace = Pace(machine.reference, ms=REFERENCE, references=[REFERENCE])
    slower = SLOWER["model"] / SLOWER["reference"]
    assert network_ms(machine.runner(3.0), pace) == pytest.approx(3.0 * slower)
    assert pace.references == pytest.approx([REFERENCE, REFERENCE * SLOWER["reference"]])
    assert pace.spread == pytest.approx(0.25 / 2**0.5)


def test_a_table_at_another_pace_than_it_was_begun_with_is_unsteady() -> None:
    """All of its samples are alike, and none is at the pace that the table stands for."""
    machine = Machine(lambda second: second > 3)
    pace = Pace(machine.reference)
    for _ in range(30):
        network_ms(machine.runner(3.0), pace)
    assert pace.spread > protocol.STEADY


def test_a_table_waits_until_the_machine_is_back_at_the_pace_it_was_begun_with() -> None:
    machine = Machine(lambda second: 3 < second < 25 or 40 < second < 55)
    pace = Pace(machine.reference)
    found = []
    while machine.nanoseconds < 60e9:
        found.append(difference(machine.runner(0.3), machine.runner(0.8), pace))
    assert found == pytest.approx([0.5] * len(found))
    assert pace.references == pytest.approx([REFERENCE] * len(found))
    assert 30 < pace.waited < 37
    assert pace.patience == pytest.approx(protocol.WAIT_SECONDS - pace.waited)


def test_a_table_waits_a_minute_at_most() -> None:
    machine = Machine(lambda second: second > 3)
    pace = Pace(machine.reference)
    while machine.nanoseconds < 90e9:
        difference(machine.runner(0.3), machine.runner(0.8), pace)
    assert pace.waited == pytest.approx(protocol.WAIT_SECONDS, rel=0.01)
    before = machine.nanoseconds
    difference(machine.runner(0.3), machine.runner(0.8), pace)
    assert machine.nanoseconds - before < 1e9
    assert pace.patience == 0.0


@pytest.mark.parametrize(
    ("slow", "outrun"),
    [
        (lambda second: second < 5, True),
        (never, False),
        (always, False),
        (in_bursts, False),
        (lambda second: second > 3, False),
        (lambda second: not 5 < second < 5.5, False),
    ],
)
def test_a_machine_that_becomes_quicker_for_more_than_a_moment_outruns_its_table(
    slow: Callable[[float], bool], outrun: bool
) -> None:
    machine = Machine(slow)
    pace, seen = Pace(machine.reference), False
    pace.patience = 0.0
    while machine.nanoseconds < 20e9 and not seen:
        difference(machine.runner(0.3), machine.runner(0.8), pace)
        seen = pace.outrun
    assert seen == outrun
    if outrun:
        assert pace.quick == pytest.approx(REFERENCE)
        assert pace.ms == pytest.approx(REFERENCE * SLOWER["reference"])
        assert machine.nanoseconds < 10e9


def test_a_sample_waits_two_seconds_at_most_where_there_is_no_patience_left() -> None:
    machine = Machine(lambda second: second > 3)
    pace = Pace(machine.reference)
    pace.patience = 0.0
    machine.nanoseconds = round(4e9)
    network_ms(machine.runner(300.0), pace)
    assert machine.nanoseconds < 4e9 + 1.35 * 1e9 * (20 * 0.3 + 4 * 3 * 0.3 + 2.0)


def test_what_is_slow_for_long_becomes_the_pace() -> None:
    """A board that throttles: at first each sample waits, in the end it takes as many turns as at rest."""
    machine = Machine(lambda second: second > 4)
    pace, spent = Pace(machine.reference), []
    pace.patience = 0.0
    while machine.nanoseconds < 60e9:
        before = machine.nanoseconds
        difference(machine.runner(0.3), machine.runner(0.8), pace)
        spent.append(machine.nanoseconds - before)
    assert max(spent) > 5 * spent[0]
    assert spent[-1] < SLOWER["model"] * spent[0]


def test_a_slow_reference_kernel_is_run_less_often() -> None:
    for ms, runs in ((0.03, 20), (0.5, 4), (5.0, 3)):
        assert protocol.Reference(Machine(never).runner(ms, "reference")).runs == runs


def beside(
    machine: Machine,
    one: float,
    other: float,
    *,
    seconds: float = 3.0,
    rest_ms: float | None = REFERENCE,
    rest_seconds: float | None = None,
) -> Beside:
    return time_beside(
        lambda: machine.runner(one),
        lambda: machine.runner(other),
        machine.reference,
        runtime="none",
        provider="none",
        threads=1,
        seconds=seconds,
        rest_ms=rest_ms,
        rest_seconds=rest_seconds,
    )


@pytest.mark.parametrize(
    "slow",
    [never, always, in_bursts, at_random(0.6, 0.2), at_random(0.05, 0.05), lambda second: second > 2.0],
)
@pytest.mark.parametrize(("one", "other"), [(0.2, 0.5), (8.0, 60.0), (20.0, 60.0)])
@pytest.mark.parametrize("rest_ms", [REFERENCE, 0.5 * REFERENCE, None])
def test_a_share_is_the_same_on_any_machine(
    slow: Callable[[float], bool], one: float, other: float, rest_ms: float | None
) -> None:
    """Also where no pace is reached. The medians of all runs may be of two paces: 8 beside 60 ms, slow for 50 ms."""
    found = beside(Machine(slow), one, other, rest_ms=rest_ms)
    assert found.share == pytest.approx(one / other, rel=0.02)
    first, second = found.timing, found.other
    assert (first.sessions, first.at_pace, first.reference_ms) == (second.sessions, second.at_pace, second.reference_ms)
    if rest_ms and rest_ms < REFERENCE:
        assert (first.at_pace, first.stable) == (0.0, False)


def test_what_takes_turns_at_rest_is_timed_as_it_is_alone() -> None:
    machine = Machine(never)
    found, alone = beside(machine, MODEL, 0.5, rest_ms=None), machine.timing()
    assert (found.timing.p50_ms, found.timing.stable, found.timing.at_pace) == (alone.p50_ms, True, 1.0)
    assert (found.other.p50_ms, found.other.stable) == (pytest.approx(0.5), True)
    assert found.timing.runs > 2 * found.other.runs


def test_a_share_waits_for_the_pace_at_rest_as_long_as_it_is_told() -> None:
    took = []
    for rest_seconds in (None, 0.0):
        machine = Machine(always)
        beside(machine, 0.2, 0.5, seconds=1.0, rest_seconds=rest_seconds)
        took.append(machine.nanoseconds / 1e9)
    assert took[0] > protocol.REST_SECONDS > 10 > took[1] > protocol.PATIENCE
