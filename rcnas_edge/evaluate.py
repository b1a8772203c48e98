"""Rates that know their n: Wilson intervals, the worst case per example over attacks, and differences in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Z_95 = 1.959963984540054
RESAMPLES = 10_000
"""How often a bootstrap draws the examples anew."""


@dataclass(frozen=True)
class Rate:
    """`hits` out of `total`, with its 95 % interval (Wilson 1927), as fractions in [0, 1]."""

    hits: int
    total: int

    def __post_init__(self) -> None:
        if self.total < 1 or not 0 <= self.hits <= self.total:
            raise ValueError(f"a rate has 0 <= hits <= total and total >= 1, got {self.hits} of {self.total}")

    @classmethod
    def of(cls, flags: np.ndarray) -> Rate:
        """The share of true values in flags (N,)."""
        return cls(int(np.count_nonzero(flags)), int(flags.size))

    @property
    def value(self) -> float:
        return self.hits / self.total

    @property
    def low(self) -> float:
        return self._wilson(-1.0)

    @property
    def high(self) -> float:
        return self._wilson(+1.0)

    def _wilson(self, side: float) -> float:
        n, p, z = self.total, self.value, Z_95
        centre = p + z * z / (2 * n)
        spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return min(1.0, max(0.0, (centre + side * spread) / (1 + z * z / n)))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.total}"


@dataclass(frozen=True)
class Interval:
    """The two ends of an interval, as fractions."""

    low: float
    high: float


def worst_case(still_right: Mapping[str, np.ndarray]) -> np.ndarray:
    """Per example, whether it stays right under every attack: the AND of the flags (N,) of each attack."""
    if not still_right:
        raise ValueError("the worst case is over at least one attack, got none")
    return np.logical_and.reduce([np.asarray(flags, dtype=bool) for flags in still_right.values()])


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Mean of first - second over the same examples (flags (N,)), with a 95 % interval.

    The interval is the normal one for paired proportions with one pseudo-observation in each discordant cell
    (Agresti and Min 2005), so that it does not collapse to a point when no example differs.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired flags have one shape, got {first.shape} and {second.shape}")
    n = first.size
    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(~first & second))
    value = (only_first - only_second) / n
    b, c, m = only_first + 0.5, only_second + 0.5, n + 2
    centre = (b - c) / m
    spread = Z_95 * math.sqrt(max(b + c - (b - c) ** 2 / m, 0.0)) / m
    return value, centre - spread, centre + spread


def paired_bootstrap(first: np.ndarray, second: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The 95 % percentile interval of the mean of first - second over resampled examples (flags (N,)).

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 13.3. The mean knows of an example only
    whether it is +1, -1 or 0, so N examples drawn with replacement are one draw of a multinomial: the same bootstrap,
    without N x resamples draws.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired flags have one shape, got {first.shape} and {second.shape}")
    n = first.size
    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(~first & second))
    shares = np.array([only_first, only_second, n - only_first - only_second]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, (0.025, 0.975))
    return Interval(float(low), float(high))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided McNemar p-value that two classifiers err equally often on the same examples (flags (N,))."""
    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(~first & second))
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    smaller = min(only_first, only_second)
    tail = sum(math.comb(discordant, k) for k in range(smaller + 1)) / 2**discordant
    return min(1.0, 2 * tail)
