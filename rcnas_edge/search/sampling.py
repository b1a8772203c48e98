"""Draw architectures gene by gene, always within the budgets and never a network that was drawn before."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rcnas_edge.search.cached import CachedBench
from rcnas_edge.space import Architecture

Prefix = tuple[int, ...]
Weigh = Callable[[Prefix], np.ndarray]
"""From the picks of the first genes to the weights (options,) of the next gene's picks, none negative."""


class Sampler:
    """Draws within the budgets, by masking while drawing instead of repairing afterwards.

    A pick is allowed if the network of the picks so far, this pick, and the picks of the cheapest architecture for
    the genes to come fits the budgets. So at least one pick is always allowed, every draw ends, and what it returns
    fits. The rule is conservative: where the costs of the genes do not simply add up, a pick may be refused although
    some completion other than the cheapest architecture's would fit.

    No network comes twice, though several architectures may be the same one: a leaf that was met before is closed
    and the draw starts again; a prefix closes with the last of its picks. Every fresh start closes one leaf, so this
    ends too, and when the root is closed all has been seen. What a closed pick would have got goes to its siblings,
    gene by gene: draws move on to the neighbours of what was seen, and are not the exact distribution over the rest.
    """

    def __init__(self, bench: CachedBench) -> None:
        self._bench = bench
        self._sizes = [len(gene.options) for gene in bench.space.genes]
        self._masks: dict[Prefix, np.ndarray] = {}
        self._reaches: dict[Prefix, bool] = {}
        self._closed: set[Prefix] = set()

    @property
    def exhausted(self) -> bool:
        """Whether every network it can reach has been seen."""
        return () in self._closed

    def allowed(self, prefix: Prefix) -> np.ndarray:
        """Which picks (options,) of the gene after the prefix keep the budgets within reach."""
        if prefix not in self._masks:
            picks = range(self._sizes[len(prefix)])
            self._masks[prefix] = np.array([self.reaches((*prefix, pick)) for pick in picks])
        return self._masks[prefix]

    def reaches(self, prefix: Prefix) -> bool:
        """Whether the cheapest completion of these picks keeps the budgets."""
        if prefix not in self._reaches:
            rest = self._bench.cheapest.picks[len(prefix) :]
            self._reaches[prefix] = self._bench.fits(Architecture((*prefix, *rest)))
        return self._reaches[prefix]

    def propose(
        self, weigh: Callable[[Prefix, np.ndarray], np.ndarray], generator: np.random.Generator
    ) -> Architecture | None:
        """One architecture drawn by the weights within the budgets, seen or not; None where a gene has no pick left.

        As `draw`, but few costs are computed: the masks are asked for the first pick only that cannot be afforded,
        which is found by halves: a longer prefix with the cheapest rest costs more.
        """
        picks: list[int] = []
        while True:
            for place in range(len(picks), len(self._sizes)):
                every = np.ones(self._sizes[place], dtype=bool)
                picks.append(draw_pick(weigh(tuple(picks), every), every, generator))
            if self.reaches(tuple(picks)):
                return Architecture(tuple(picks))
            place = bisect_left(range(len(picks)), True, key=lambda last: not self.reaches(tuple(picks[: last + 1])))
            prefix = tuple(picks[:place])
            mask = self.allowed(prefix)
            if not mask.any():
                return None
            every = np.ones(len(mask), dtype=bool)
            picks = [*prefix, draw_pick(weigh(prefix, every), mask, generator)]

    def draw(
        self, weigh: Weigh, seen: Callable[[Architecture], bool], generator: np.random.Generator
    ) -> Architecture | None:
        """One architecture drawn by the weights, whose network was not seen; None when there is none left."""
        while not self.exhausted:
            prefix: Prefix = ()
            while len(prefix) < len(self._sizes):
                prefix = (*prefix, draw_pick(weigh(prefix), self._open(prefix), generator))
            architecture = Architecture(prefix)
            if not seen(architecture):
                return architecture
            self._close(prefix)
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"closed": [list(prefix) for prefix in sorted(self._closed)]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._closed = {tuple(int(pick) for pick in prefix) for prefix in state["closed"]}

    def _open(self, prefix: Prefix) -> np.ndarray:
        """Which picks (options,) are allowed and not closed."""
        mask = self.allowed(prefix)
        return mask & np.array([(*prefix, pick) not in self._closed for pick in range(len(mask))])

    def _close(self, leaf: Prefix) -> None:
        self._closed.add(leaf)
        for length in range(len(leaf) - 1, -1, -1):
            prefix = leaf[:length]
            if self._open(prefix).any():
                return
            # the prefix now speaks for its picks: the closed set stays as small as the tree's open edge
            self._closed.difference_update([(*prefix, pick) for pick in range(self._sizes[length])])
            self._closed.add(prefix)


def draw_pick(weights: np.ndarray, open_picks: np.ndarray, generator: np.random.Generator) -> int:
    """One open index drawn by the weights (options,); evenly over the open ones where no weight is left on them."""
    weights = weights * open_picks
    if not weights.sum() > 0.0:
        weights = open_picks.astype(float)
    bounds = np.cumsum(weights)
    drawn = int(np.searchsorted(bounds, generator.random() * bounds[-1], side="right"))
    return min(drawn, int(np.flatnonzero(weights)[-1]))  # rounding may lift the number onto the last bound


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """A numpy generator as JSON values; its 128-bit numbers as text, since not every JSON reader holds them."""
    return {
        name: {key: str(number) for key, number in value.items()} if isinstance(value, dict) else value
        for name, value in generator.bit_generator.state.items()
    }


def restore_generator(generator: np.random.Generator, state: Mapping[str, Any]) -> None:
    """The opposite of `generator_state`, into a generator of the same kind."""
    generator.bit_generator.state = {
        name: {key: int(number) for key, number in value.items()} if isinstance(value, Mapping) else value
        for name, value in state.items()
    }
