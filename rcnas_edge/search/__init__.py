"""Searches by name: a dict of strategies with two errors, registered twice and not there."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.search.evolution import EvolutionSearch
from rcnas_edge.search.policy import PolicySearch
from rcnas_edge.search.protocol import Bench, Judge, Search
from rcnas_edge.search.random_search import RandomSearch
from rcnas_edge.search.reward import BUDGET, REWARDS
from rcnas_edge.search.scaling import RobustScaling, UniformScaling

STRATEGIES: dict[str, type[Any]] = {}
"""Name -> class; a class is built as `Strategy(bench, judge, config)` and carries its `Config`, which has a seed."""


def register(name: str, strategy: type[Any]) -> None:
    """Add a strategy; the contract test covers it from then on."""
    if name in STRATEGIES:
        raise InputError(
            f"a strategy is registered once, {name!r} is {STRATEGIES[name].__name__} already: choose another name"
        )
    STRATEGIES[name] = strategy


def strategy_class(name: str) -> type[Any]:
    """The class of a strategy."""
    if name not in STRATEGIES:
        raise InputError(f"no search strategy is called {name!r}; there are: {', '.join(sorted(STRATEGIES))}")
    return STRATEGIES[name]


def strategy(name: str, bench: Bench, judge: Judge, *, seed: int = 0, reward: str = BUDGET) -> Search:
    """A strategy with its default configuration, this seed and, where it learns from one, this reward.

    BudgetError if nothing fits the budgets.
    """
    chosen = strategy_class(name)
    if reward not in REWARDS:
        raise InputError(f"--reward is one of {', '.join(REWARDS)}, got {reward!r}")
    learns = any(field.name == "reward" for field in fields(chosen.Config))
    if reward != BUDGET and not learns:
        raise InputError(f"--reward {reward} is what rc-nas learns from, {name} has no reward: leave it out")
    return chosen(bench, judge, chosen.Config(seed=seed, **({"reward": reward} if learns else {})))


register(PolicySearch.name, PolicySearch)
register(RandomSearch.name, RandomSearch)
register(EvolutionSearch.name, EvolutionSearch)
register(UniformScaling.name, UniformScaling)
register(RobustScaling.name, RobustScaling)
