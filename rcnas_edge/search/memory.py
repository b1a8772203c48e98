"""What an agent remembers of the networks that were judged in other tasks, and expects of those of a new one [ours].

A Gaussian process over tasks and networks: what a network has beyond the level of its task is shared by all tasks, but
for a part that is the task's own (the intrinsic model of coregionalisation, with all tasks equally alike; Bonilla, Chai
and Williams, NeurIPS 2007).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rcnas_edge.errors import InputError
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.kernel import Kernel
from rcnas_edge.search.reward import LEAST_TEACHER
from rcnas_edge.space import Architecture, Gene

QUANTITIES = ("macs", "params")
"""Costs that are the same on every device, by which networks of different tasks are compared."""
OWN = 0.3
"""Of the variance of networks within a task, the part that other tasks say nothing of."""
NOISE = 0.01
"""Variance of a judgement beside that of networks."""
LEVEL = 10.0
"""Variance of the tasks' levels beside that of networks: they are next to free."""

CAUTION = 2.0
"""Standard deviations below what is expected at which networks compare before one is judged."""

NAMES = ("picks", "costs", "shares", "tasks")
PREFIX = "memory."
MOST = 4000
"""Judgements that are remembered; of more the latest."""


@dataclass(frozen=True, eq=False)
class Memory:
    """Judgements (N,): picks (N, genes), ln(cost / the teacher's) (N, 2), robust accuracy as a share of the teacher's
    (N,), and the number of the task (N,), the same for tasks with one judge.
    """

    picks: np.ndarray
    costs: np.ndarray
    shares: np.ndarray
    tasks: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.picks)
        shapes = [values.shape for values in (self.picks, self.costs, self.shares, self.tasks)]
        if self.picks.ndim != 2 or shapes[1:] != [(count, len(QUANTITIES)), (count,), (count,)]:
            raise InputError(
                f"a memory has picks (N, genes), costs (N, {len(QUANTITIES)}), shares (N,) and tasks (N,), got {shapes}"
            )
        if not all(np.isfinite(values).all() for values in (self.costs, self.shares)):
            raise InputError("a memory has finite costs and shares, this one has others: make the agent again")

    def __len__(self) -> int:
        return len(self.picks)

    @classmethod
    def of(cls, judged: Sequence[tuple[str, CachedBench, Mapping[Architecture, float]]]) -> Memory:
        """From tasks with the digest of their judge, their bench and the robust accuracy of architectures there."""
        numbers: dict[str, int] = {}
        rows: dict[tuple[int, Any], tuple[list[int], list[float], float, int]] = {}
        genes = 0
        for digest, bench, scores in judged:
            task, genes = numbers.setdefault(digest, len(numbers)), len(bench.space.genes)
            teacher = max(LEAST_TEACHER, bench.teacher_robust)
            for architecture, robust in scores.items():
                costs = [log_cost(bench, architecture, quantity) for quantity in QUANTITIES]
                key = task, bench.key(architecture)
                rows[key] = (list(architecture.picks), costs, robust / teacher, task)
        kept = list(rows.values())[-MOST:]
        return cls(
            np.array([row[0] for row in kept], dtype=np.int64).reshape(len(kept), genes),
            np.array([row[1] for row in kept], dtype=np.float64).reshape(len(kept), len(QUANTITIES)),
            np.array([row[2] for row in kept], dtype=np.float64),
            np.array([row[3] for row in kept], dtype=np.int64),
        )

    def to_tensors(self) -> dict[str, torch.Tensor]:
        """For a file of tensors, beside others."""
        return {PREFIX + name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in NAMES}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Memory | None:
        """The opposite of `to_tensors`; None where there is none of it, InputError where something is missing."""
        known = [name for name in NAMES if PREFIX + name in tensors]
        if not known:
            return None
        if len(known) < len(NAMES):
            raise InputError(f"a memory has {', '.join(NAMES)}, this one has only {', '.join(known)}: make it again")
        return cls(**{name: tensors[PREFIX + name].numpy() for name in NAMES})

    def check(self, genes: Sequence[Gene]) -> None:
        """InputError if these are judgements of networks of another shape."""
        sizes = [len(gene.options) for gene in genes]
        if self.picks.shape[1] != len(sizes) or (self.picks < 0).any() or (self.picks >= np.array(sizes)).any():
            raise InputError(
                f"a memory is of networks with genes of {sizes} options, this one of others: search from scratch here"
            )


def log_cost(bench: CachedBench, architecture: Architecture, quantity: str) -> float:
    """ln(cost / the teacher's), at least -10."""
    value, whole = bench.cost(architecture).get(quantity), bench.teacher_cost.get(quantity)
    return max(-10.0, math.log(value / whole)) if value and whole else 0.0


class Recall:
    """What a memory says of the networks of a bench, before one of them is judged.

    `mean` and `covariance` are of robust accuracies as shares of the teacher's, without the level of the new task.
    """

    def __init__(self, memory: Memory, bench: CachedBench) -> None:
        memory.check(bench.space.genes)
        self._bench, self._kernel = bench, Kernel(bench.space.genes)
        self._known = memory.picks, memory.costs
        same = memory.tasks[:, None] == memory.tasks[None]
        centred = memory.shares - _means(memory.shares, memory.tasks)
        self.variance = float((centred**2).mean()) + 1e-6
        """Of networks within a task."""
        correlation = ((1.0 - OWN) + OWN * same) * self._kernel(self._known, self._known)
        correlation += LEVEL * same + NOISE * np.eye(len(memory))
        self._factor = np.linalg.cholesky(correlation)
        self._level = float(memory.shares.mean())
        self._weights = _solve(self._factor, _solve(self._factor, memory.shares - self._level), transposed=True)

    def on(self, bench: CachedBench) -> Recall:
        """The same memory for the networks of another bench, whose genes are alike."""
        other = copy(self)
        other._bench = bench
        return other

    def mean(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """(N,): what is expected."""
        shared = (1.0 - OWN) * self._kernel(self._known, self._features(architectures))
        return np.asarray(self._level + shared.T @ self._weights)

    def cautious(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """(N,): `CAUTION` standard deviations less than what is expected.

        The largest expectation of many is too large, most of all among networks that no task has judged, nor any like
        them; the first network to be judged is not to be one of those.
        """
        left = 1.0 - (self.halves(architectures) ** 2).sum(axis=0)
        return self.mean(architectures) - CAUTION * np.sqrt(self.variance * np.maximum(0.0, left))

    def halves(self, architectures: Sequence[Architecture]) -> np.ndarray:
        """(judgements, N): the products of two of these are what is known already of their covariance."""
        return _solve(self._factor, (1.0 - OWN) * self._kernel(self._known, self._features(architectures)))

    def covariance(
        self,
        one: Sequence[Architecture],
        other: Sequence[Architecture],
        half: np.ndarray | None = None,
        other_half: np.ndarray | None = None,
    ) -> np.ndarray:
        """(N, M): what remains unknown of networks of the new task, in squares of the shares; with their `halves`."""
        prior = self._kernel(self._features(one), self._features(other))
        half = self.halves(one) if half is None else half
        other_half = self.halves(other) if other_half is None else other_half
        return np.asarray(self.variance * (prior - half.T @ other_half))

    def _features(self, architectures: Sequence[Architecture]) -> tuple[np.ndarray, np.ndarray]:
        picks = np.array([architecture.picks for architecture in architectures], dtype=np.int64)
        costs = [[log_cost(self._bench, one, quantity) for quantity in QUANTITIES] for one in architectures]
        return picks, np.array(costs)


def _means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(N,): of each value, the mean of its group."""
    _, place = np.unique(groups, return_inverse=True)
    return np.asarray((np.bincount(place, values) / np.bincount(place))[place])


def _solve(factor: np.ndarray, right: np.ndarray, *, transposed: bool = False) -> np.ndarray:
    """The solution of L x = right, or of L^T x = right, for a lower triangle L."""
    lower = torch.from_numpy(factor.T if transposed else factor)
    columns = torch.from_numpy(np.ascontiguousarray(right.reshape(len(right), -1)))
    found: np.ndarray = torch.linalg.solve_triangular(lower, columns, upper=transposed).numpy()
    return found.reshape(right.shape)
