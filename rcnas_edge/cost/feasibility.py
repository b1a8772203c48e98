"""Before a search: whether any network of a space can meet all budgets, and which comes closest."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rcnas_edge.cost import Budget, Cost, show
from rcnas_edge.errors import BudgetError
from rcnas_edge.profile import Target
from rcnas_edge.space import Architecture, Space

CostOn = Callable[[Architecture, Target | None], Cost]
"""What an architecture costs on a target, the first one if that is None."""

ENUMERABLE = 100_000
"""Architectures that are all tried where it takes that to prove that none fits."""
QUICKLY = 4096
"""Architectures that are all tried in any case."""
STARTS = 4
"""Random starts of the descent, besides the first and the last pick of every gene."""


@dataclass(frozen=True)
class Feasibility:
    """One budget before the search.

    `cheapest` is the least of its quantity that was found in the space; `closest` is what the one architecture that
    comes closest to meeting all budgets spends, and `satisfiable` whether that is within the limit. `exact`: every
    architecture was tried.
    """

    budget: Budget
    teacher: float | None
    cheapest: float
    closest: float
    satisfiable: bool
    exact: bool
    tried: int


def feasibility(space: Space, budgets: Sequence[Budget], cost: CostOn) -> tuple[tuple[Feasibility, ...], Architecture]:
    """Whether one architecture can meet all budgets, and the one with the smallest worst ratio.

    Each budget is asked against `cost` on its own target. A coordinate descent from several starts finds it; up to
    QUICKLY architectures, and up to ENUMERABLE where the descent finds none that fits, all are tried, and the answer is
    exact.
    """
    search = _Cheapest(space, budgets, cost)
    exact = search.size <= QUICKLY
    if not exact:
        search.descend_from_everywhere()
        exact = search.size <= ENUMERABLE and search.worst > 1
    if exact:
        for picks in itertools.product(*(range(len(gene.options)) for gene in space.genes)):
            search.score(picks)
    rows = tuple(
        Feasibility(budget, budget.teacher, least, spent, spent / budget.limit <= 1.0, exact, len(search.spent))
        for budget, least, spent in zip(budgets, search.least, search.spent[search.best], strict=True)
    )
    return rows, Architecture(search.best)


class _Cheapest:
    """Scores architectures by (worst ratio, sum of ratios) and remembers the best and the least of each budget."""

    def __init__(self, space: Space, budgets: Sequence[Budget], cost: CostOn) -> None:
        self.genes, self.budgets, self.cost = space.genes, budgets, cost
        self.size = math.prod(len(gene.options) for gene in space.genes)
        self.scores: dict[tuple[int, ...], tuple[float, ...]] = {}
        self.spent: dict[tuple[int, ...], tuple[float, ...]] = {}
        self.least = [math.inf] * len(budgets)
        self.best: tuple[int, ...] = ()

    @property
    def worst(self) -> float:
        return max(self.ratios(self.best), default=0.0)

    def ratios(self, picks: tuple[int, ...]) -> list[float]:
        return [spent / budget.limit for spent, budget in zip(self.spent[picks], self.budgets, strict=True)]

    def score(self, picks: tuple[int, ...]) -> tuple[float, ...]:
        if picks not in self.scores:
            one = Architecture(picks)
            spent = self.spent[picks] = tuple(budget.spent(self.cost(one, budget.target)) for budget in self.budgets)
            ratios = self.ratios(picks)
            self.least = [min(pair) for pair in zip(self.least, spent, strict=True)]
            self.scores[picks] = (max(ratios), sum(ratios)) if ratios else (float(self.cost(one, None).macs),)
            if not self.best or self.scores[picks] < self.scores[self.best]:
                self.best = picks
        return self.scores[picks]

    def descend_from_everywhere(self) -> None:
        generator = random.Random(0)
        starts = [tuple(0 for _ in self.genes), tuple(len(gene.options) - 1 for gene in self.genes)]
        starts += [tuple(generator.randrange(len(gene.options)) for gene in self.genes) for _ in range(STARTS)]
        for start in starts:
            self._descend(start, self.score)
        for place in range(len(self.budgets)):
            self._descend(self.best, partial(self._alone, place))

    def _alone(self, place: int, picks: tuple[int, ...]) -> tuple[float, ...]:
        """The score by one budget only."""
        self.score(picks)
        return (self.ratios(picks)[place],)

    def _descend(self, picks: tuple[int, ...], score: Callable[[tuple[int, ...]], tuple[float, ...]]) -> None:
        """Change one gene at a time while that strictly improves: it ends, because there are finitely many scores."""
        improved = True
        while improved:
            improved = False
            for place, gene in enumerate(self.genes):
                rivals = [(*picks[:place], option, *picks[place + 1 :]) for option in range(len(gene.options))]
                best = min(rivals, key=score)
                if score(best) < score(picks):
                    picks, improved = best, True


def require(rows: Sequence[Feasibility]) -> None:
    """Raise BudgetError unless one architecture meets every budget; it names the cheapest that was found."""
    missed = [row for row in rows if not row.satisfiable]
    if not missed:
        return
    alone = [row for row in missed if row.cheapest > row.budget.limit]
    targets = dict.fromkeys(row.budget.target for row in rows)
    parts = [
        f"{row.budget.called(several=len(targets) > 1)} "
        f"{show(row.budget.quantity, row.cheapest if row in alone else row.closest)} "
        f"(limit {show(row.budget.quantity, row.budget.limit)}, asked {row.budget.asked}, "
        f"teacher {show(row.budget.quantity, row.teacher)})"
        for row in (alone or missed)
    ]
    how = "all architectures were tried" if rows[0].exact else f"{rows[0].tried} architectures were tried, not all"
    what = "the cheapest has" if alone else "each can be met alone, the architecture closest to all has"
    raise BudgetError(
        f"one architecture of the space must meet all budgets on {', '.join(map(str, targets))}, none does: {what} "
        f"{' and '.join(parts)}; {how}: raise the limits or choose a smaller teacher"
    )
