"""From the summed kernels of a network to its latency: overhead, scale, and the weights that no cache holds.

Kernels are timed with their weights in the processor's cache. A network that has more weights than the cache reads the
rest from memory at every call, which takes a time per megabyte; where that begins is found from whole networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Pair = Sequence[float]
"""(ms summed over the kernels of a network, its measured ms, the MB of its weights; 0 where they are missing); what
comes behind is not looked at here."""

CACHES_MB = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""Sizes of a cache that are tried."""
LEAST_BEYOND = 4
"""Networks with more weights than a cache that it takes to believe in it."""
LEFT_OVER = 0.7
"""Share of the squared relative error that streaming leaves at most, to be believed."""


class Calibration(NamedTuple):
    """latency = overhead + scale x summed kernels + ms_per_mb x the megabytes of weights beyond cache_mb."""

    overhead: float
    scale: float
    cache_mb: float = 0.0
    ms_per_mb: float = 0.0

    def predict(self, summed: float, megabytes: float) -> float:
        """ms of a network."""
        return self.overhead + self.scale * summed + self.ms_per_mb * max(0.0, megabytes - self.cache_mb)


def fit(pairs: Sequence[Pair]) -> Calibration:
    """The calibration with the least relative error over whole networks; without streaming unless that is seen."""
    best = _fitted(pairs, None)
    error = LEFT_OVER * _error(best, pairs)
    for cache in CACHES_MB:
        if sum(_megabytes(pair) > cache for pair in pairs) >= LEAST_BEYOND:
            found = _fitted(pairs, cache)
            if found.ms_per_mb > 0 and _error(found, pairs) < error:
                best, error = found, _error(found, pairs)
    return best


def _fitted(pairs: Sequence[Pair], cache: float | None) -> Calibration:
    """Least squares of the relative error; overhead and streaming are left out where they would be negative."""
    summed, measured = (np.array([pair[column] for pair in pairs], dtype=float) for column in (0, 1))
    beyond = np.array([max(0.0, _megabytes(pair) - (cache or 0.0)) for pair in pairs])
    columns = {"scale": summed, "overhead": np.ones(len(pairs)), "ms_per_mb": beyond}
    if cache is None:
        del columns["ms_per_mb"]
    if len(pairs) < 4 or np.ptp(summed) <= 0.1 * summed.mean():
        columns = {"scale": summed}
    while True:
        features = np.stack([column / measured for column in columns.values()], axis=1)
        solution = np.linalg.lstsq(features, np.ones(len(pairs)), rcond=None)[0]
        values = dict(zip(columns, map(float, solution), strict=True))
        wrong = min((name for name in values if name != "scale"), key=values.__getitem__, default=None)
        if wrong is None or (values[wrong] >= 0 and values["scale"] > 0):
            return Calibration(values.get("overhead", 0.0), values["scale"], cache or 0.0, values.get("ms_per_mb", 0.0))
        del columns[wrong]


def _megabytes(pair: Pair) -> float:
    return pair[2] if len(pair) > 2 else 0.0


def _errors(calibration: Calibration, pairs: Sequence[Pair]) -> list[float]:
    """Of the predictions, relative."""
    return [abs(calibration.predict(pair[0], _megabytes(pair)) - pair[1]) / pair[1] for pair in pairs]


def _error(calibration: Calibration, pairs: Sequence[Pair]) -> float:
    return sum(error**2 for error in _errors(calibration, pairs))


def agreement(held: Sequence[Pair], calibration: Calibration) -> dict[str, float]:
    """What whole networks that were not used for the fit say of the predictions; the numbers of a `[validation]`."""
    errors = _errors(calibration, held)
    predicted = [calibration.predict(pair[0], _megabytes(pair)) for pair in held]
    numbers: dict[str, float] = {}
    for percent in (2, 5, 10):
        numbers[f"within_{percent}"] = sum(error <= percent / 100 for error in errors) / len(held)
    numbers |= {"mape": sum(errors) / len(held), "worst": max(errors)}
    if len(held) > 2:
        numbers["spearman"] = _rank_correlation(predicted, [float(pair[1]) for pair in held])
    return {"n": len(held), **{name: round(value, 5) for name, value in numbers.items()}}


def _rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, of values of which hardly two are equal."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
