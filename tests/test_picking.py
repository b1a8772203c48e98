"""What is said when no recommended network keeps the budgets once it is measured."""

from dataclasses import replace

from rcnas_edge.cost import Budget, Cost
from rcnas_edge.pipeline.searching import _missed
from rcnas_edge.profile import Target


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
