"""The timing protocol on machines that are made up: a clock that only work moves, and a pace that changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from rcnas_edge.board.timing import Pace, Runner, Timing, difference, network_ms, time_runs
from rcnas_edge.cost import Budget
from rcnas_edge.pipeline import searching
from rcnas_edge.pipeline.searching import Searching
from rcnas_edge.profile import Target

REFERENCE, MODEL = 0.1, 0.2
SLOWER = {"reference": 1.25, "model": 1.35}


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

    def timing(self, pace_ms: float | None = None) -> Timing:
        return time_runs(
            lambda: self.runner(MODEL),
            self.reference,
            runtime="none",
            provider="none",
            threads=1,
            seconds=3.0,
            pace_ms=pace_ms,
        )


def never(second: float) -> bool:
    return False


def in_bursts(second: float) -> bool:
    """Seven tenths of the time, as a core whose other half is busy."""
    return second % 0.5 > 0.15


def test_a_machine_that_is_mostly_slow_is_timed_in_the_moments_in_which_it_is_not() -> None:
    timing = Machine(in_bursts).timing()
    assert timing.p50_ms == pytest.approx(MODEL)
    assert timing.low_ms == pytest.approx(MODEL)
    assert timing.p95_ms == pytest.approx(MODEL * SLOWER["model"]), "what is not counted is not hidden"
    assert timing.reference_ms == pytest.approx(REFERENCE)
    assert timing.stable
    assert timing.runs < Machine(never).timing().runs / 2


def test_a_timing_waits_for_the_pace_that_is_known() -> None:
    """The first five seconds are slow throughout: more than the whole timing takes."""
    assert Machine(lambda second: second < 5).timing(REFERENCE).p50_ms == pytest.approx(MODEL)
    unknown = Machine(lambda second: second < 5).timing()
    assert unknown.p50_ms == pytest.approx(MODEL * SLOWER["model"])
    assert unknown.reference_ms == pytest.approx(REFERENCE * SLOWER["reference"])


def test_without_a_known_pace_the_quickest_session_sets_it() -> None:
    assert Machine(lambda second: second < 1.7).timing().p50_ms == pytest.approx(MODEL)


@pytest.mark.parametrize("pace_ms", [REFERENCE, None])
def test_a_device_that_throttles_for_good_is_timed_as_slow_as_it_becomes(pace_ms: float | None) -> None:
    machine = Machine(lambda second: second > 2)
    assert machine.timing(pace_ms).p50_ms == pytest.approx(MODEL * SLOWER["model"])
    assert machine.nanoseconds < 15e9, "it does not wait for ever"


@pytest.mark.parametrize("slow", [never, in_bursts])
def test_kernels_and_networks_of_a_table_are_timed_at_the_same_pace(slow: Callable[[float], bool]) -> None:
    machine = Machine(slow)
    pace = Pace(machine.reference)
    assert pace.ms == pytest.approx(REFERENCE)
    found = [difference(machine.runner(0.3), machine.runner(0.8), pace) for _ in range(20)]
    assert sorted(found)[10] == pytest.approx(0.5)
    found = [network_ms(machine.runner(3.0), pace) for _ in range(20)]
    assert sorted(found)[10] == pytest.approx(3.0)


def test_a_table_that_goes_on_is_brought_to_its_former_pace() -> None:
    machine = Machine(lambda second: True)
    pace = Pace(machine.reference, ms=REFERENCE, references=[REFERENCE])
    slower = SLOWER["model"] / SLOWER["reference"]
    assert network_ms(machine.runner(3.0), pace) == pytest.approx(3.0 * slower)
    assert pace.references == pytest.approx([REFERENCE, REFERENCE * SLOWER["reference"]])
    assert pace.spread > 0.1


def test_what_is_slow_for_long_becomes_the_pace() -> None:
    """A board that throttles: at first each sample is repeated, in the end it takes as many turns as at rest."""
    machine = Machine(lambda second: second > 2)
    pace, spent = Pace(machine.reference), []
    for _ in range(100):
        before = machine.nanoseconds
        difference(machine.runner(0.3), machine.runner(0.8), pace)
        spent.append(machine.nanoseconds - before)
    assert max(spent) > 2 * spent[0]
    assert spent[-1] < SLOWER["model"] * spent[0]


@pytest.mark.parametrize(
    ("first", "second", "counts", "timings"),
    [
        (0.90, 0.95, 0.90, 1),  # far below the limit
        (0.98, 0.95, 0.98, 2),
        (0.98, 1.01, 1.01, 2),  # kept by noise
        (1.01, 0.95, 1.01, 1),  # missed: another finalist has more room
    ],
)
def test_a_finalist_close_below_its_limit_is_timed_once_more_and_the_larger_counts(
    first: float, second: float, counts: float, timings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, asked = [first, second], []
    monkeypatch.setattr(searching, "TIMING_SECONDS", 3.0)
    monkeypatch.setattr(searching, "FINAL_TIMING_SECONDS", 10.0)

    def time_here(path: Path, bench: object, *, seconds: float) -> dict[Target, SimpleNamespace]:
        asked.append(seconds)
        return {Target(): SimpleNamespace(p50_ms=2.0 * left.pop(0))}

    monkeypatch.setattr(searching, "time_here", time_here)
    budgets = [Budget(Target(), "latency", 2.0, "2ms"), Budget(Target("board"), "latency", 1.9, "1.9ms")]
    opened = SimpleNamespace(run=None, console=None, setting=None, bench=SimpleNamespace(budgets=budgets))
    found = Searching(opened)._timed(Path("model.onnx"))
    assert found[Target()].p50_ms == 2.0 * counts
    assert asked == [3.0, 10.0][:timings]
