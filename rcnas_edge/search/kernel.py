"""How alike two networks are before either is judged: the correlations of the critic's Gaussian processes [ours]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcnas_edge.space import Gene

PICKS_LENGTH = 2.0
"""Genes that two networks differ in before their picks correlate by 1 / e."""
COST_LENGTH = 0.3
"""Of logarithms of costs: networks whose costs are a third apart correlate by 0.6."""
COST_SHARE = 0.5
"""Of the prior variance that costs explain, the rest is of the picks."""


class Kernel:
    """Half exp(-distance / 2) of the picks, with a distance of 1 per gene, and half a Gaussian of the logarithms of
    costs: networks are alike that are built alike, or that spend alike. Picks of numbers in order are the nearer the
    fewer lie between them.
    """

    def __init__(self, genes: Sequence[Gene]) -> None:
        self._ordered = np.array([_is_ordered(gene) for gene in genes])
        self._widths = np.array([max(1, len(gene.options) - 1) for gene in genes])

    def __call__(self, one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Correlations (N, M) from picks (N, genes) and (M, genes) with their logs of costs (N, Q) and (M, Q)."""
        distance = np.zeros((len(one[0]), len(other[0])))
        for place, (ordered, width) in enumerate(zip(self._ordered, self._widths, strict=True)):
            apart = np.abs(one[0][:, None, place] - other[0][None, :, place])
            distance += apart / width if ordered else apart > 0
        squares = ((one[1][:, None] - other[1][None]) ** 2).mean(axis=2)
        alike = np.exp(-distance / PICKS_LENGTH)
        return (1.0 - COST_SHARE) * alike + COST_SHARE * np.exp(-squares / (2 * COST_LENGTH**2))


def _is_ordered(gene: Gene) -> bool:
    """Whether its options are numbers in order, so that neighbouring picks are closer than distant ones."""
    options = gene.options
    if len(options) < 3 or any(isinstance(option, (str, bool)) for option in options):
        return False
    numbers = [float(option) for option in options]
    return numbers in (sorted(numbers), sorted(numbers, reverse=True))
