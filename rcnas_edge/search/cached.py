"""A bench that remembers: costs and fits are asked once per architecture, since a search asks for them very often."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import cached_property, partial
from typing import TypeVar

from rcnas_edge.cost import QUANTITIES, Cost
from rcnas_edge.cost.feasibility import feasibility, require
from rcnas_edge.errors import BudgetError
from rcnas_edge.profile import Target
from rcnas_edge.search.protocol import Bench
from rcnas_edge.space import Architecture, Gene

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class CachedBench:
    """A `Bench` around another one that asks it once per architecture, and knows the two ends of the space.

    Costs are remembered by picks, not by deployed network: a table may count dead edges, so that twins differ in cost.

    Made only where some architecture fits: BudgetError otherwise, before anything is judged or trained.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.space = bench.space
        self.budgets = tuple(bench.budgets)
        self.teacher_cost = bench.teacher_cost
        self.teacher_robust = bench.teacher_robust
        self.task_vector = tuple(bench.task_vector)
        self.targets: tuple[Target, ...] = tuple(getattr(bench, "targets", ()))
        self._keys: dict[tuple[int, ...], Hashable] = {}
        self._costs: dict[Target | None, dict[tuple[int, ...], Cost]] = {None: {}, **{one: {} for one in self.targets}}
        self._ratios: dict[tuple[int, ...], tuple[float, ...]] = {}
        self._fits: dict[tuple[int, ...], bool] = {}
        self._features: dict[Hashable, float] = {}
        self.cheapest = self._find_cheapest()

    @classmethod
    def of(cls, bench: Bench) -> CachedBench:
        """The bench itself where it remembers already."""
        return bench if isinstance(bench, cls) else cls(bench)

    def key(self, architecture: Architecture) -> Hashable:
        """What the network really is (`space.deployed`)."""
        return _once(self._keys, architecture.picks, self.space.deployed, architecture)

    def cost(self, architecture: Architecture, target: Target | None = None) -> Cost:
        """What the network costs on a target; the first one if none is given, or if there is one only."""
        if target is None or len(self.targets) < 2:
            return _once(self._costs[None], architecture.picks, self._bench.cost, architecture)
        ask = partial(self._bench.cost, target=target)
        return _once(self._costs[target], architecture.picks, ask, architecture)

    def ratios(self, architecture: Architecture) -> tuple[float, ...]:
        """Spent / limit of each budget, at most 1 where it is met."""
        return _once(self._ratios, architecture.picks, self._spent, architecture)

    def _spent(self, architecture: Architecture) -> tuple[float, ...]:
        return tuple(budget.ratio(self.cost(architecture, budget.target)) for budget in self.budgets)

    @cached_property
    def teacher_ratios(self) -> tuple[float | None, ...]:
        """The teacher's cost / limit of each budget; None where the cost is not known."""
        return tuple(None if budget.teacher is None else budget.teacher / budget.limit for budget in self.budgets)

    def fits(self, architecture: Architecture) -> bool:
        return _once(self._fits, architecture.picks, self._bench.fits, architecture)

    def excluded(self, architecture: Architecture) -> bool:
        """Whether no search may judge the network, though it fits."""
        excluded = getattr(self._bench, "excluded", None)
        return excluded is not None and bool(excluded(architecture))

    def features(self, architecture: Architecture) -> float:
        """The empirical Lipschitz coefficient of the network; 0 where the bench has none, as a table."""
        measure = getattr(self._bench, "features", None)
        return 0.0 if measure is None else float(_once(self._features, self.key(architecture), measure, architecture))

    def costs(self, architecture: Architecture) -> dict[str, float]:
        """Every known quantity of the network, in its base unit, as `Candidate` has them."""
        cost = self.cost(architecture)
        known = {quantity: cost.get(quantity) for quantity in QUANTITIES}
        known |= {f"latency on {target}": self.cost(architecture, target).latency for target in self.targets[1:]}
        return {quantity: float(value) for quantity, value in known.items() if value is not None}

    def excess(self, architecture: Architecture) -> float:
        """By how much the network is over its budgets: the sum over them of max(0, cost / limit - 1)."""
        return math.fsum(max(0.0, ratio - 1.0) for ratio in self.ratios(architecture))

    def times_the_limits(self, architecture: Architecture) -> str:
        """What the network spends of each budget, in words: "40%: 1.2 x"."""
        pairs = zip(self.budgets, self.ratios(architecture), strict=True)
        return ", ".join(f"{budget.asked}: {ratio:.3g} x" for budget, ratio in pairs)

    @cached_property
    def start(self) -> Architecture:
        """Where an episode starts: the teacher, else the costliest architecture found with every flag at its first."""
        given = getattr(self._bench, "start", None)
        if given is not None:
            return given
        genes = self.space.genes
        picks = [0] * len(genes)
        for _ in range(2):  # the second sweep sees the other genes at their costliest
            for position, gene in enumerate(genes):
                if not _is_flag(gene):
                    picks[position] = self._costliest_pick(picks, position)
        return Architecture(tuple(picks))

    def _costliest_pick(self, picks: list[int], position: int) -> int:
        tries = [
            Architecture((*picks[:position], pick, *picks[position + 1 :]))
            for pick in range(len(self.space.genes[position].options))
        ]
        costs = [self.cost(architecture) for architecture in tries]
        return max(range(len(tries)), key=lambda pick: (costs[pick].macs, costs[pick].params))

    def _find_cheapest(self) -> Architecture:
        given = getattr(self._bench, "cheapest", None)
        if given is not None and self.fits(given):
            return given
        rows, cheapest = feasibility(self.space, self.budgets, self.cost)
        require(rows)
        if not self.fits(cheapest):
            raise BudgetError(
                "a search needs one architecture within every budget, the cheapest found has "
                f"{self.times_the_limits(cheapest)} its limit: "
                "raise a budget or drop one"
            )
        return cheapest


def _once(known: dict[Key, Value], key: Key, ask: Callable[[Architecture], Value], architecture: Architecture) -> Value:
    if key not in known:
        known[key] = ask(architecture)
    return known[key]


def _is_flag(gene: Gene) -> bool:
    return all(isinstance(option, bool) for option in gene.options)
