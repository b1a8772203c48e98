"""How finalists are timed, and what is said when none of them keeps the budgets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_pipeline import Remembering

from rcnas_edge.cost import Budget, Cost
from rcnas_edge.errors import BudgetError
from rcnas_edge.pipeline import searching
from rcnas_edge.pipeline.searching import Finalist, Searching, _missed
from rcnas_edge.profile import Target
from rcnas_edge.space import Architecture, Gene

TEACHER = Path("teacher.onnx")


def opened_on(budgets: list[Budget]) -> SimpleNamespace:
    """A task that has nothing but budgets and a teacher's file."""
    bench = SimpleNamespace(budgets=budgets)
    return SimpleNamespace(run=None, console=None, setting=None, bench=bench, teacher_file=lambda: TEACHER)


def test_only_missed_budgets_are_named_each_with_the_least_measured():
    costs = [
        Cost(macs=9_000, params=10, size=900, memory=1, latency=0.30),
        Cost(macs=8_000, params=10, size=700, memory=1, latency=0.20),
    ]
    limits = {"macs": 10_000, "latency": 0.1, "size": 800}
    budgets = [Budget(Target(), quantity, limit, str(limit)) for quantity, limit in limits.items()]
    words = _missed([{Target(): cost} for cost in costs], budgets, several=False)
    assert "macs" not in words
    assert "latency at most 0.1 ms, the least measured is 0.2 ms" in words
    assert "size at most 800 B, the least measured is 700 B" in words


def test_of_several_devices_a_missed_latency_says_where():
    first, second = Target("a"), Target("b")
    cost = Cost(macs=1, params=1, size=1, memory=1, latency=0.3)
    budgets = [Budget(target, "latency", 0.5, "0.5ms") for target in (first, second)]
    words = _missed([{first: cost, second: replace(cost, latency=0.7)}], budgets, several=True)
    assert words == "latency on b/fp32/1 at most 0.5 ms, the least measured is 0.7 ms"


@pytest.mark.parametrize(
    ("first", "stable", "second", "counts", "timings"),
    [
        (0.90, True, 0.95, 0.90, 1),  # far below the limit
        (0.90, False, 0.95, 0.90, 1),
        (0.95, True, 0.95, 0.95, 1),
        (0.95, False, 0.93, 0.93, 2),
        (0.98, True, 0.95, 0.98, 2),
        (0.98, True, 1.01, 1.01, 2),  # kept by noise
        (1.01, True, 0.95, 1.01, 1),  # missed: another finalist has more room
        (1.35, False, 0.95, 0.95, 2),  # missed by noise
    ],
)
def test_a_finalist_close_below_its_limit_or_unstably_above_it_is_timed_longer(
    first: float, stable: bool, second: float, counts: float, timings: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, asked = [(first, stable), (second, True)], []
    monkeypatch.setattr(searching, "TIMING_SECONDS", 3.0)
    monkeypatch.setattr(searching, "FINAL_TIMING_SECONDS", 10.0)

    def time_here(path: Path, bench: object, *, seconds: float, **settings: object) -> dict[Target, SimpleNamespace]:
        asked.append((seconds, settings.get("patient", True)))
        share, steady = left.pop(0)
        assert settings["teacher"]() == TEACHER
        return {Target(): SimpleNamespace(share=None, timing=SimpleNamespace(p50_ms=2.0 * share, stable=steady))}

    monkeypatch.setattr(searching, "time_here", time_here)
    budgets = [Budget(Target(), "latency", 2.0, "2ms"), Budget(Target("board"), "latency", 1.9, "1.9ms")]
    found = Searching(opened_on(budgets))._timed(Path("model.onnx"))
    assert found[Target()].timing.p50_ms == 2.0 * counts
    assert asked == [(3.0, False), (10.0, True)][:timings], "what is doubtful is timed patiently"


def test_one_target_that_is_close_has_every_target_timed_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = Target("a"), Target("b")
    timings = [{targets[0]: 1.0, targets[1]: 1.98}, {targets[0]: 1.1, targets[1]: 1.9}]

    def time_here(path: Path, bench: object, **settings: object) -> dict[Target, SimpleNamespace]:
        return {
            target: SimpleNamespace(share=None, timing=SimpleNamespace(p50_ms=ms, stable=True))
            for target, ms in timings.pop(0).items()
        }

    monkeypatch.setattr(searching, "time_here", time_here)
    budgets = [Budget(target, "latency", 2.0, "2ms") for target in targets]
    found = Searching(opened_on(budgets))._timed(Path("model.onnx"))
    assert [found[target].timing.p50_ms for target in targets] == [1.1, 1.98]


class Kept:
    """A run in memory: what `Run` keeps, without what it depends on."""

    def __init__(self) -> None:
        self.records: dict[str, dict] = {}

    def done(self, name: str, depends: object) -> dict | None:
        return self.records.get(name)

    def keep(self, name: str, depends: object, values: dict) -> dict:
        self.records[name] = values
        return values


class Picking(Searching):
    """Three recommended networks; `visits` says what each file takes, time after time, and whether at the pace."""

    def __init__(self, visits: dict[int, list[tuple[float, bool]]], finalists: int = 3) -> None:
        self.visits, self.order, console = visits, [], Remembering()
        space = SimpleNamespace(
            genes=(Gene("width", tuple(range(9))),), describe=lambda architecture: {"width": architecture.picks[0]}
        )
        budgets = [Budget(Target(), "latency", 2.0, "2ms")]
        bench = SimpleNamespace(budgets=budgets, targets=(Target(),), here=(Target(),), cost=None)
        family = SimpleNamespace(name="none")
        super().__init__(
            SimpleNamespace(
                run=Kept(),
                console=console,
                setting=SimpleNamespace(finalists=finalists),
                bench=bench,
                task=SimpleNamespace(family=family, space=space),
            )
        )

    def search(self) -> dict:
        return {"recommended": [[place] for place in self.visits]}

    def depends(self) -> dict:
        return {}

    def finalist(self, architecture: Architecture, *, anew: bool = False) -> Finalist:
        (place,) = architecture.picks
        self.order.append((place, anew))
        ms, at_pace = self.visits[place].pop(0)
        return Finalist(
            architecture, {Target(): Cost(macs=1, params=1, size=1, memory=1, latency=ms)}, ms <= 2.0, not at_pace
        )

    def _latencies(self, architecture: Architecture, measured: object) -> str:
        return f"network {architecture.picks[0]}"


def test_finalists_that_miss_while_the_machine_is_slow_are_timed_again_after_the_others() -> None:
    """The first one keeps its limit then; the second is over it at the machine's pace, and that counts."""
    picking = Picking({0: [(2.6, False), (1.9, True)], 1: [(2.1, True)], 2: [(1.5, True)]})
    picked = picking.pick()
    assert picked["picks"] == [0]
    assert picking.order == [(0, False), (1, False), (2, False), (0, True)]
    assert [one["met"] for one in picked["finalists"]] == [True, False, True]
    assert picked["finalists"][0]["costs"]["host/fp32/1"]["latency"] == 1.9
    assert picking.console.said == [
        "finalist 1: network 0, OVER the budgets, to be timed again: the machine was slow",
        "finalist 2: network 1, OVER the budgets",
        "finalist 3: network 2, within the budgets",
        "finalist 1, timed again: network 0, within the budgets",
    ]


def test_a_finalist_that_keeps_its_limit_on_a_slow_machine_is_not_timed_again() -> None:
    picking = Picking({0: [(1.9, False)], 1: [(2.6, False), (2.5, False)]}, finalists=2)
    assert picking.pick()["picks"] == [0]
    assert picking.order == [(0, False), (1, False), (1, True)]
    assert picking.console.said[-1].endswith("OVER the budgets, and the machine was still slow")


def test_where_every_network_is_slow_each_is_timed_once_more_before_the_search_has_failed() -> None:
    picking = Picking({place: [(2.6, False), (2.4, False)] for place in range(3)}, finalists=1)
    with pytest.raises(BudgetError, match=r"none of the 3 recommended .* the least measured is 2.4 ms"):
        picking.pick()
    assert [place for place, anew in picking.order if anew] == [0, 1, 2]
