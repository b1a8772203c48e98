"""The critic of RC-NAS [ours]: which of many proposals is worth judging, by a Gaussian process over architectures.

A policy gradient learns slowly from a handful of judged networks, and judging one costs a training. So the policy
proposes many, and the ones with the largest expected improvement over the best judged so far are judged (Jones,
Schonlau and Welch, Journal of Global Optimization 13, 1998). Where an agent remembers other tasks (`memory`), the
process begins with what these say, and a few networks judged here correct it instead of replacing it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.kernel import Kernel
from rcnas_edge.search.memory import LEVEL, Recall
from rcnas_edge.space import Architecture

NOISE = 0.01
"""Variance of a judgement beside that of networks: a short training scored on a few hundred images is not exact."""
SLOPE = 0.5
"""Standard deviation of what a difference of 1 between networks of other tasks is worth here, about 1."""
TRUST = 4.0
"""The deviations that an agent expects count as if so many networks had shown them."""
SMALLEST_RATIO = 1e-6
"""Of cost to limit, so that a network that costs nothing still has a logarithm."""


class Critic:
    """Expected improvement of proposals, from judged networks and their accuracies."""

    def __init__(self, bench: CachedBench, recall: Recall | None = None) -> None:
        self._bench, self._recall = bench, recall
        self._kernel = Kernel(bench.space.genes)

    def improvement(
        self,
        proposals: Sequence[Architecture],
        judged: Sequence[Architecture],
        shares: Sequence[float],
        terms: Callable[[Architecture], tuple[float, float]] = lambda architecture: (1.0, 0.0),
    ) -> np.ndarray:
        """E[max(0, reward - best)] of each proposal (N,), in units of the reward.

        `shares` (M,) are the robust accuracies of the judged networks over the teacher's. The reward of a network is
        factor * share + offset of its `terms`. Nothing judged yet, what is returned is the reward that an agent
        is sure to expect (`Recall.cautious`), or 0.
        """
        if not proposals or (not judged and self._recall is None):
            return np.zeros(len(proposals))
        factors, offsets = np.array([terms(architecture) for architecture in proposals]).T
        if not judged and self._recall is not None:
            return np.asarray(factors * self._recall.cautious(proposals) + offsets)
        observed = np.asarray(shares, dtype=float)
        if self._recall is None:
            mean, variance = self._from_scratch(proposals, judged, observed)
        else:
            mean, variance = self._from_memory(self._recall, proposals, judged, observed)
        best = max(
            factor * share + offset for share, (factor, offset) in zip(observed, map(terms, judged), strict=True)
        )
        return expected_excess(factors * mean + offsets - best, np.maximum(1e-9, factors * np.sqrt(variance)))

    def _from_scratch(
        self, proposals: Sequence[Architecture], judged: Sequence[Architecture], observed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (N,) of shares: deviations from the mean one, as large as those that were seen."""
        known, asked = self._features(judged), self._features(proposals)
        scale = float(observed.std()) + 1e-6
        mean, variance = _posterior(
            self._kernel(known, known) + NOISE * np.eye(len(judged)),
            self._kernel(known, asked),
            np.ones(len(proposals)),
            (observed - observed.mean()) / scale,
        )
        return observed.mean() + scale * mean, scale**2 * variance

    def _from_memory(
        self, recall: Recall, proposals: Sequence[Architecture], judged: Sequence[Architecture], observed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (N,) of shares: deviations from what other tasks say, whose level and slope are free."""
        told, expected = recall.mean(judged), recall.mean(proposals)
        slopes = [SLOPE * (each - told.mean()) for each in (told, expected)]
        halves = [recall.halves(each) for each in (judged, proposals)]
        free = LEVEL * recall.variance
        own = recall.covariance(judged, judged, halves[0], halves[0]) + free + np.outer(slopes[0], slopes[0])
        own += NOISE * recall.variance * np.eye(len(judged))
        across = recall.covariance(judged, proposals, *halves) + free + np.outer(*slopes)
        before = recall.variance * (1.0 - (halves[1] ** 2).sum(axis=0)) + free + slopes[1] ** 2
        residuals = observed - told
        # a task that other tasks say little of shows in larger deviations than they expect
        surprise = float(residuals @ np.linalg.solve(own, residuals))
        factor = max(1.0, (surprise + TRUST) / (len(judged) + TRUST))
        mean, variance = _posterior(own, across, before, residuals)
        return expected + mean, factor * variance

    def _features(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        """Picks (N, genes) and log(cost / limit) of each budget (N, budgets); of the teacher's MACs without any."""
        picks = np.array([architecture.picks for architecture in architectures])
        ratios = [self._bench.ratios(one) or (self._of_the_teacher(one),) for one in architectures]
        return picks, np.log(np.maximum(SMALLEST_RATIO, np.array(ratios)))

    def _of_the_teacher(self, architecture: Architecture) -> float:
        return self._bench.cost(architecture).macs / max(1, self._bench.teacher_cost.macs)


def _posterior(
    own: np.ndarray, across: np.ndarray, before: np.ndarray, residuals: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (N,) of a process with covariances own (M, M) and across (M, N), and variances before (N,)."""
    factor = np.linalg.cholesky(own)
    half = np.linalg.solve(factor, across)
    mean = half.T @ np.linalg.solve(factor, residuals)
    return mean, np.maximum(1e-9 * before, before - (half**2).sum(axis=0))


def expected_excess(gain: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """E[max(0, g)] of normal g with mean `gain`: s (u P(u) + p(u)) with u = gain / s."""
    ratio = gain / deviation
    below = 0.5 * (1.0 + torch.special.erf(torch.from_numpy(ratio / math.sqrt(2.0))).numpy())
    return np.asarray(deviation * (ratio * below + np.exp(-0.5 * ratio**2) / math.sqrt(2.0 * math.pi)))
