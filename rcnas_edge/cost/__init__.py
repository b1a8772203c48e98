"""Budgets on what a network costs, all of which one network must meet, each on its target."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rcnas_edge.cost.counting import QUANTITIES, Cost, cost_of, costs_of
from rcnas_edge.errors import InputError
from rcnas_edge.profile import Target

__all__ = [
    "QUANTITIES",
    "Budget",
    "Cost",
    "Limit",
    "cost_of",
    "costs_of",
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
    a limit of the device itself, `relative` that it is a share of the teacher's.
    """

    target: Target
    quantity: str
    limit: float
    asked: str
    teacher: float | None = None
    imposed: bool = False
    relative: bool = False

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
        budgets.append(Budget(target, limit.quantity, amount, str(limit), whole, relative=limit.relative))
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
