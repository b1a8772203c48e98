"""The critic of RC-NAS [ours]: which of many proposals is worth judging, by a Gaussian process over architectures.

A policy gradient learns slowly from a handful of judged networks, and judging one costs a training. So the policy
proposes many, and the ones with the largest expected improvement over the best judged so far are judged (Jones,
Schonlau and Welch, Journal of Global Optimization 13, 1998). The kernel is half exp(-distance / 2) of the picks, a
distance of 1 per gene, and half a Gaussian of the logarithms of what a network costs: networks are alike that are built
alike, or that spend alike. Where an agent brings a value for every network (`encoder.PolicyNetwork.values`), the
process is about what the reward deviates from it, so that a few judged networks correct it instead of replacing it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from rcnas_edge.search.cached import CachedBench
from rcnas_edge.space import Architecture, Gene

PICKS_LENGTH = 2.0
"""Genes that two networks differ in before their picks correlate by 1 / e."""
COST_LENGTH = 0.3
"""Of log(cost / limit): networks whose costs are a third apart correlate by 0.6."""
COST_SHARE = 0.5
"""Of the prior variance that costs explain, the rest is of the picks."""
NOISE = 0.01
"""Variance of a judgement beside that of networks: a short training scored on a few hundred images is not exact."""
VALUE_ERROR, VALUE_WEIGHT = 0.05, 4.0
"""How far off an agent's values are taken to be (standard deviation, share of the teacher's robust accuracy) before
anything is judged, and as if so many networks had said so."""
VALUE_SLOPE = 0.5
"""Standard deviation of what a difference of values of 1 is worth in rewards, about 1."""
SMALLEST_RATIO = 1e-6
"""Of cost to limit, so that a network that costs nothing still has a logarithm."""


class Critic:
    """Expected improvement of proposals, from judged networks and their rewards."""

    def __init__(self, bench: CachedBench) -> None:
        self._bench = bench
        self._ordered = np.array([_is_ordered(gene) for gene in bench.space.genes])
        self._widths = np.array([max(1, len(gene.options) - 1) for gene in bench.space.genes])

    def improvement(
        self,
        proposals: Sequence[Architecture],
        judged: Sequence[Architecture],
        rewards: Sequence[float],
        *,
        proposed_values: np.ndarray | None = None,
        judged_values: np.ndarray | None = None,
    ) -> np.ndarray:
        """E[max(0, reward - best)] of each proposal (N,), in units of the reward.

        `rewards` (M,) are of the judged networks. The values, (N,) and (M,), are an agent's; nothing judged yet, they
        are what is returned.
        """
        if not judged:
            return np.zeros(len(proposals)) if proposed_values is None else proposed_values.astype(float)
        informed = proposed_values is not None and judged_values is not None
        known_values = judged_values.astype(float) if judged_values is not None and informed else np.zeros(len(judged))
        asked_values = (
            proposed_values.astype(float) if proposed_values is not None and informed else np.zeros(len(proposals))
        )
        observed = np.asarray(rewards, dtype=float)
        residuals = observed - known_values
        centre = float(residuals.mean())
        squares, count = float(((residuals - centre) ** 2).sum()), float(len(residuals))
        if informed:
            squares, count = squares + VALUE_WEIGHT * VALUE_ERROR**2, count + VALUE_WEIGHT
        scale = math.sqrt(squares / count) + 1e-6
        # that the values rank rightly but are too far apart, or not at all right, is a slope in them
        slopes = [VALUE_SLOPE / scale * (each - known_values.mean()) for each in (known_values, asked_values)]
        known, asked = self._features(judged), self._features(proposals)
        covariance = self._kernel(known, known) + np.outer(slopes[0], slopes[0]) + NOISE * np.eye(len(judged))
        factor = np.linalg.cholesky(covariance)
        half = np.linalg.solve(factor, self._kernel(known, asked) + np.outer(*slopes))  # (M, N)
        mean = half.T @ np.linalg.solve(factor, (residuals - centre) / scale)
        variance = 1.0 + slopes[1] ** 2 - (half**2).sum(axis=0)
        deviation = scale * np.sqrt(np.maximum(1e-9, variance))
        return _expected_excess(centre + scale * mean + asked_values - observed.max(), deviation)

    def _features(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Picks (N, genes) and log(cost / limit) of each budget (N, budgets); the MACs of the teacher without any."""
        picks = np.array([architecture.picks for architecture in architectures])
        ratios = [self._bench.ratios(one) or (self._of_the_teacher(one),) for one in architectures]
        return picks, np.log(np.maximum(SMALLEST_RATIO, np.array(ratios)))

    def _of_the_teacher(self, architecture: Architecture) -> float:
        return self._bench.cost(architecture).macs / max(1, self._bench.teacher_cost.macs)

    def _kernel(self, one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Correlations (N, M) of networks."""
        apart = np.abs(one[0][:, None] - other[0][None])  # (N, M, genes)
        distance = np.where(self._ordered, apart / self._widths, apart > 0).sum(axis=2)
        squares = ((one[1][:, None] - other[1][None]) ** 2).mean(axis=2)
        alike = np.exp(-distance / PICKS_LENGTH)
        return (1.0 - COST_SHARE) * alike + COST_SHARE * np.exp(-squares / (2 * COST_LENGTH**2))


def _expected_excess(gain: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """E[max(0, g)] of normal g with mean `gain`: s (u P(u) + p(u)) with u = gain / s."""
    ratio = gain / deviation
    below = 0.5 * (1.0 + torch.special.erf(torch.from_numpy(ratio / math.sqrt(2.0))).numpy())
    return deviation * (ratio * below + np.exp(-0.5 * ratio**2) / math.sqrt(2.0 * math.pi))


def _is_ordered(gene: Gene) -> bool:
    """Whether its options are numbers in order, so that neighbouring picks are closer than distant ones."""
    options = gene.options
    if len(options) < 3 or any(isinstance(option, (str, bool)) for option in options):
        return False
    numbers = [float(option) for option in options]
    return numbers in (sorted(numbers), sorted(numbers, reverse=True))
