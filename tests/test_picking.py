"""What is said when no recommended network keeps the budgets once it is measured."""

from rcnas_edge.cost import Budget, Cost
from rcnas_edge.profile import Target
from rcnas_edge.searching import _missed


def test_only_missed_budgets_are_named_each_with_the_least_measured():
    costs = [
        Cost(macs=9_000, params=10, size=900, memory=1, latency=0.30),
        Cost(macs=8_000, params=10, size=700, memory=1, latency=0.20),
    ]
    limits = {"macs": 10_000, "latency": 0.1, "size": 800}
    budgets = [Budget(Target(), quantity, limit, str(limit)) for quantity, limit in limits.items()]
    words = _missed(costs, budgets)
    assert "macs" not in words
    assert "latency at most 0.1 ms, the least measured is 0.2 ms" in words
    assert "size at most 800 B, the least measured is 700 B" in words
