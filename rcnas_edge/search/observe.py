"""What RC-NAS's encoder sees of an architecture: a row of numbers per stage, LIPS, and costs against the budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcnas_edge.cost import QUANTITIES
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.space import Architecture, Gene, one_hot

STEM = "stem"
LARGEST_LOG_RATIO = 3.0
"""Of cost to limit, either way: a table has networks that cost nothing, and a device may have memory in plenty."""


@dataclass(frozen=True)
class State:
    """N states: stages (N, G, F), lips (N, 1) as log(1 + LIPS), cost (N, 6) as ln(cost / limit) in [-3, 3]."""

    stages: Tensor
    lips: Tensor
    cost: Tensor


class Observer:
    """Turns architectures into states; every architecture is read once.

    A stage is a group of genes; a gene without a group is a stage of its own. Its row is, in this order:
    the stem's options (as in the paper, [stem stride, D, W, robust flag]), the stage's own options, padding to the
    longest stage, and, ours, its position in 0..1, the step of the episode in 0..1 and the task vector. A number stands
    for itself as a share of the gene's largest option where that is above 1, a flag is 0 or 1, a word is one-hot.
    A quantity without a budget has cost 0, and of two budgets on one quantity the tighter counts, so that the state has
    one shape for all budgets; a task vector has one length (`embedding.ENTRIES`), so that it has one for all teachers
    whose genes have equal shape.
    """

    def __init__(self, bench: CachedBench, *, steps: int) -> None:
        self._bench = bench
        self._steps = steps
        genes = bench.space.genes
        members: dict[str, list[int]] = {}
        for index, gene in enumerate(genes):
            members.setdefault(gene.group or f"{index} {gene.name}", []).append(index)
        self.stages = tuple(tuple(indices) for indices in members.values())
        """The genes (indices) of each stage."""
        self._codes = [_codes(gene) for gene in genes]
        self._stem = [index for index, gene in enumerate(genes) if STEM in (gene.group, gene.name.split(".")[0])]
        self._slots = max(self._width(indices) for indices in self.stages)
        self.features = self._width(self._stem) + self._slots + 2 + len(bench.task_vector)
        """Numbers per row."""
        self._known: dict[tuple[int, ...], tuple[list[list[float]], list[float]]] = {}

    def __call__(self, architectures: Sequence[Architecture], steps: Sequence[int]) -> State:
        """The states of architectures (N,) at the steps (N,) of their episodes."""
        return self._states(architectures, steps, [self._lips(architecture) for architecture in architectures])

    def finished(self, architectures: Sequence[Architecture]) -> State:
        """The states of architectures (N,) after the last step, for `PolicyNetwork.values`.

        LIPS is 0: it takes a pass through the network, and values are asked of many that are never built.
        """
        return self._states(architectures, [self._steps] * len(architectures), [0.0] * len(architectures))

    def _states(self, architectures: Sequence[Architecture], steps: Sequence[int], lips: Sequence[float]) -> State:
        known = [self._read(architecture) for architecture in architectures]
        task = list(self._bench.task_vector)
        rows = [
            [[*row, step / self._steps, *task] for row in stages]
            for (stages, _), step in zip(known, steps, strict=True)
        ]
        return State(
            torch.tensor(rows, dtype=torch.float32),
            torch.tensor(lips, dtype=torch.float32)[:, None],
            torch.tensor([cost for _, cost in known], dtype=torch.float32),
        )

    def one_hot(self, architectures: Sequence[Architecture]) -> Tensor:
        """The picks (N, options of all genes) as 0 and 1."""
        genes = self._bench.space.genes
        return torch.tensor([sum(one_hot(genes, architecture), ()) for architecture in architectures])

    def _lips(self, architecture: Architecture) -> float:
        return math.log1p(max(0.0, self._bench.features(architecture)))

    def _read(self, architecture: Architecture) -> tuple[list[list[float]], list[float]]:
        if architecture.picks not in self._known:
            self._known[architecture.picks] = (self._rows(architecture), self._log_ratios(architecture))
        return self._known[architecture.picks]

    def _rows(self, architecture: Architecture) -> list[list[float]]:
        codes = [code[pick] for code, pick in zip(self._codes, architecture.picks, strict=True)]
        stem = [number for index in self._stem for number in codes[index]]
        last = max(1, len(self.stages) - 1)
        rows = []
        for position, indices in enumerate(self.stages):
            own = [number for index in indices for number in codes[index]]
            rows.append([*stem, *own, *[0.0] * (self._slots - len(own)), position / last])
        return rows

    def _log_ratios(self, architecture: Architecture) -> list[float]:
        tightest: dict[str, float] = {}
        for budget, spent in zip(self._bench.budgets, self._bench.ratios(architecture), strict=True):
            ratio = min(LARGEST_LOG_RATIO, max(-LARGEST_LOG_RATIO, math.log(spent))) if spent else -LARGEST_LOG_RATIO
            tightest[budget.quantity] = max(ratio, tightest.get(budget.quantity, ratio))
        return [tightest.get(quantity, 0.0) for quantity in QUANTITIES]

    def _width(self, indices: Sequence[int]) -> int:
        return sum(len(self._codes[index][0]) for index in indices)


def _codes(gene: Gene) -> list[list[float]]:
    """(options, numbers): each option of the gene as numbers."""
    if any(isinstance(option, str) for option in gene.options):
        count = len(gene.options)
        return [[float(index == other) for other in range(count)] for index in range(count)]
    numbers = [float(option) for option in gene.options]
    largest = max(1.0, *(abs(number) for number in numbers))
    return [[number / largest] for number in numbers]
