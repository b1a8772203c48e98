"""Budgets on what a network costs, all of which one network must meet, and whether any network of a space can."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from rcnas_edge.counting import QUANTITIES, Cost, cost_of, costs_of
from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.profile import Target
from rcnas_edge.space import Architecture, Space

__all__ = [
    "QUANTITIES",
    "Budget",
    "Cost",
    "Feasibility",
    "Limit",
    "cost_of",
    "costs_of",
    "feasibility",
    "require",
    "resolve",
    "resolve_all",
    "show",
]

OF_A_DEVICE = ("latency",)
"""Quantities that differ from device to device; the others are the same everywhere."""

_COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}
_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_UNITS = {
    "latency": {"us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3},
    "macs": _COUNTS,
    "flops": _COUNTS,
    "params": _COUNTS,
    "size": _BYTES,
    "memory": _BYTES,
}
_SHOWN = {  # the unit of a value from its size in base units, largest first
    "latency": ((1e3, "s"), (0.1, "ms"), (0.0, "us")),
    "size": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0.0, "B")),
    "macs": ((1e9, "G"), (1e6, "M"), (1e3, "k"), (0.0, "")),
}

CostOn = Callable[[Architecture, Target | None], Cost]
"""What an architecture costs on a target, the first one if that is None."""

ENUMERABLE = 100_000
"""Architectures that are all tried where it takes that to prove that none fits."""
QUICKLY = 4096
"""Architectures that are all tried in any case."""
STARTS = 4
"""Random starts of the descent, besides the first and the last pick of every gene."""


def _shown_units(quantity: str) -> tuple[tuple[float, str], ...]:
    return _SHOWN.get(quantity, _SHOWN["size"] if quantity == "memory" else _SHOWN["macs"])


def show(quantity: str, value: float | None) -> str:
    """A value for people: `12.3 M FLOPs (1 MAC = 2 FLOPs)`, `0.215 ms`, `480 kB`."""
    if value is None:
        return "unknown"
    unit = next(unit for least, unit in _shown_units(quantity) if value >= least)
    number = f"{value / _UNITS[quantity][unit]:.4g} {unit}".strip()
    if QUANTITIES[quantity] in ("bytes", "ms"):
        return number
    note = " (1 MAC = 2 FLOPs)" if quantity in ("macs", "flops") else ""
    return f"{number} {QUANTITIES[quantity]}{note}"


@dataclass(frozen=True)
class Limit:
    """What the user asks of a quantity: an amount in its base unit, or a share (0 to 1) of the teacher's."""

    quantity: str
    amount: float
    relative: bool = False

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise InputError(f"a budget limits one of {', '.join(QUANTITIES)}, got {self.quantity!r}")
        if not (math.isfinite(self.amount) and self.amount > 0):
            raise InputError(f"a budget is above 0, {self.quantity} got {self.amount:g}: give what may be spent")
        if self.relative and self.amount > 1:
            raise InputError(
                f"a budget in % of the teacher is at most 100%, {self.quantity} got {100 * self.amount:g}%: "
                "compression cannot need more than the teacher does"
            )

    @classmethod
    def parse(cls, quantity: str, text: str) -> Limit:
        """`2ms`, `500us`; `40M` MACs, FLOPs or parameters; `500kB` (1000), `500KiB` (1024); `40%` of the teacher."""
        if quantity not in QUANTITIES:
            raise InputError(f"a budget limits one of {', '.join(QUANTITIES)}, got {quantity!r}")
        units = _UNITS[quantity]
        match = re.fullmatch(r"\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(%|[a-zA-Zµμ]*)\s*", text)
        if match and (match[2] == "%" or match[2] in units):
            try:
                number = float(match[1])
            except ValueError:
                number = math.nan
            if not math.isnan(number):
                relative = match[2] == "%"
                return cls(quantity, number / 100 if relative else number * units[match[2]], relative)
        known = ", ".join(unit or "a bare number" for unit in units)
        raise InputError(f"a budget for {quantity} is a number with a unit ({known}) or in %, got {text!r}")

    def __str__(self) -> str:
        """The shortest text that `parse` reads back as this limit."""
        if self.relative:
            unit, factor = "%", 0.01
        else:
            units = _UNITS[self.quantity]
            unit = next(unit for least, unit in _shown_units(self.quantity) if self.amount >= least)
            factor = units[unit]
        for digits in range(1, 18):
            text = f"{self.amount / factor:.{digits}g}{unit}"
            if "e" not in text and Limit.parse(self.quantity, text) == self:
                return text
        base = {"latency": "ms", "size": "B", "memory": "B"}.get(self.quantity, "")
        return f"{100 * self.amount!r}%" if self.relative else f"{self.amount!r}{base}"


@dataclass(frozen=True)
class Budget:
    """A limit in base units on a target.

    `asked` is what the user wrote, `teacher` what the teacher costs there (None: not known), `imposed` says that it is
    a limit of the device itself.
    """

    target: Target
    quantity: str
    limit: float
    asked: str
    teacher: float | None = None
    imposed: bool = False

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise InputError(f"a budget limits one of {', '.join(QUANTITIES)}, got {self.quantity!r}")
        if not (math.isfinite(self.limit) and self.limit > 0):
            raise InputError(f"a budget is above 0, {self.quantity} got {self.limit}: give what may be spent")

    @property
    def unit(self) -> str:
        return QUANTITIES[self.quantity]

    def called(self, *, several: bool) -> str:
        """The quantity; of several devices with the one that it is limited on, where it is not the same everywhere."""
        of_one = several and (self.quantity in OF_A_DEVICE or self.imposed)
        return f"{self.quantity} on {self.target}" if of_one else self.quantity

    def spent(self, cost: Cost) -> float:
        """What a network with this cost on the target spends; InputError for a latency that was never measured."""
        value = cost.get(self.quantity)
        if value is None:
            raise InputError(
                f"a latency budget needs a profile with measured latencies, {self.target} has none: measure it first"
            )
        return value

    def ratio(self, cost: Cost) -> float:
        """Spent / limit: at most 1 where the budget is met."""
        return self.spent(cost) / self.limit

    def met(self, cost: Cost) -> bool:
        """Whether a network with this cost on the target stays within the limit."""
        return self.ratio(cost) <= 1.0


def resolve(
    limits: Sequence[Limit], reference: Cost, target: Target, device: Mapping[str, float] | None = None
) -> tuple[Budget, ...]:
    """Budgets in base units on one target; shares are of the reference (the teacher).

    `device` is what a network may take at most there (`Profile.limits`, bytes by quantity): a budget of every quantity
    that the user limited not at all.
    """
    budgets = []
    for limit in limits:
        whole = reference.get(limit.quantity)
        amount = limit.amount
        if limit.relative:
            if whole is None:
                raise InputError(
                    f"a latency in % is of the teacher's, and on {target} the teacher's is neither measured nor can it "
                    "be predicted (a classifier of your own has no rows): give an absolute limit, as --max-latency 20ms"
                )
            amount *= whole
        budgets.append(Budget(target, limit.quantity, amount, str(limit), whole))
    asked = {limit.quantity for limit in limits}
    for quantity, most in (device or {}).items():
        if quantity not in asked:
            words = f"{show(quantity, most)} of the device"
            budgets.append(Budget(target, quantity, most, words, reference.get(quantity), imposed=True))
    return tuple(budgets)


def resolve_all(
    limits: Mapping[Target, Sequence[Limit]],
    references: Mapping[Target, Cost],
    devices: Mapping[Target, Mapping[str, float]],
) -> tuple[Budget, ...]:
    """The budgets of every target, as `resolve` has them for one.

    A quantity that is the same everywhere has one budget, the tightest, which says the target that it is from.
    """
    found: list[Budget] = []
    for target, asked in limits.items():
        for budget in resolve(asked, references[target], target, devices[target]):
            alike = [place for place, other in enumerate(found) if other.quantity == budget.quantity]
            if budget.quantity in OF_A_DEVICE or not alike:
                found.append(budget)
            elif budget.limit < found[alike[0]].limit:
                found[alike[0]] = budget
    return tuple(found)


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
