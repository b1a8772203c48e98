"""The episodes of RC-NAS: revisions of the whole network that start at the teacher, drawn from the policy.

All but the last revision may overshoot the budgets, since the policy sees their cost; the last one is within them and
is the network that is judged. Ours, as the paper gives no algorithm: epsilon exploration, the greedy decode repaired by
`derive`, and revisions of an earlier episode's end by one pick.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import numpy as np
import torch

from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.derive import derive
from rcnas_edge.search.encoder import PolicyNetwork
from rcnas_edge.search.observe import Observer
from rcnas_edge.search.sampling import Prefix, Sampler, draw_pick
from rcnas_edge.space import Architecture

Episode = tuple[Architecture, ...]
"""The architecture after each step; the last one is judged."""
Weigh = Callable[[Prefix, np.ndarray], np.ndarray]
"""From the picks of the first genes and which picks (options,) of the next are open, to the weights (options,)."""


class Episodes:
    """Draws episodes of so many steps from a policy; `seen` says whether an architecture's network was judged."""

    def __init__(
        self,
        bench: CachedBench,
        network: PolicyNetwork,
        observer: Observer,
        seen: Callable[[Architecture], bool],
        *,
        steps: int,
        epsilon: float,
    ) -> None:
        self._bench, self._network, self._observer, self._seen = bench, network, observer, seen
        self._steps, self._epsilon = steps, epsilon
        self._offsets = np.cumsum([0, *network.sizes])
        self.sampler = Sampler(bench)

    @torch.no_grad()
    def begun(self, count: int, generator: np.random.Generator) -> list[tuple[Episode, Weigh]]:
        """Episodes up to their last step, and the weights of that step's picks."""
        links = self._network.link_weights().numpy()
        drawn: list[list[Architecture]] = [[] for _ in range(count)]
        current = [self._bench.start] * count
        for step in range(self._steps - 1):
            logits = self._network.logits(self._observer(current, [step] * count)).numpy() if count else ()
            current = [self._revise(self._weights(row, links), generator) for row in logits]
            for episode, architecture in zip(drawn, current, strict=True):
                episode.append(architecture)
        if not count:
            return []
        logits = self._network.logits(self._observer(current, [self._steps - 1] * count)).numpy()
        return [(tuple(episode), self._weights(row, links)) for episode, row in zip(drawn, logits, strict=True)]

    def finish(self, weigh: Weigh, taken: set[Hashable], generator: np.random.Generator) -> Architecture | None:
        """A last step: within the budgets, a new network and none of `taken` (keys); None if there is none left."""
        return self.sampler.draw(
            lambda prefix: weigh(prefix, self.sampler.allowed(prefix)),
            lambda architecture: self._seen(architecture) or self._bench.key(architecture) in taken,
            generator,
        )

    def proposals(self, begun: Episode, weigh: Weigh, count: int, generator: np.random.Generator) -> list[Episode]:
        """Up to `count` ends of a begun episode, within the budgets, whose networks were not judged."""
        ends = (self.sampler.propose(weigh, generator) for _ in range(count))
        return [(*begun, end) for end in ends if end is not None and not self._seen(end)]

    def neighbours(self, episode: Episode, trades: int, generator: np.random.Generator) -> Iterator[Episode]:
        """The episodes that go one step further and change one pick, or two in so many random trades.

        All within the budgets and not judged before. Near a budget, what one gene gets another has to give.
        """
        picks, sizes = episode[-1].picks, self._network.sizes
        singles = [(place, pick) for place, size in enumerate(sizes) for pick in range(size) if pick != picks[place]]
        changes: list[tuple[tuple[int, int], ...]] = [(single,) for single in singles]
        for first, second in generator.integers(max(1, len(singles)), size=(trades if singles else 0, 2)):
            changes.append((singles[first], singles[second]))
        for change in changes:
            changed = list(picks)
            for place, pick in change:
                changed[place] = pick
            end = Architecture(tuple(changed))
            if self._bench.fits(end) and not self._seen(end):
                yield (*episode[1:], end)

    @torch.no_grad()
    def greedy(self) -> Episode | None:
        """The likeliest picks at every step, the last repaired by `derive`; None if that network was judged."""
        links = self._network.link_weights().numpy()
        episode: list[Architecture] = []
        values: list[list[float]] = []
        for step in range(self._steps):
            current = episode[-1] if episode else self._bench.start
            logits = self._network.logits(self._observer([current], [step])).numpy()[0]
            prefix: Prefix = ()
            values = []
            for _ in self._network.sizes:
                gene = self._linked(logits, links, prefix)
                values.append((gene - gene.max()).tolist())
                prefix = (*prefix, int(gene.argmax()))
            episode.append(Architecture(prefix))
        episode[-1] = derive(values, self._bench)
        return tuple(episode) if self.reachable(episode[-1]) and not self._seen(episode[-1]) else None

    def reachable(self, architecture: Architecture) -> bool:
        """Whether the masks allow its picks one by one: they are conservative, and the rest could not be learnt."""
        picks = architecture.picks
        return all(self.sampler.reaches(picks[: place + 1]) for place in range(len(picks)))

    def masks(self, episode: Episode) -> list[np.ndarray]:
        """Which picks (options of all genes,) were allowed at each step."""
        picks = episode[-1].picks
        last = np.concatenate([self.sampler.allowed(picks[:place]) for place in range(len(picks))])
        return [np.ones_like(last)] * (len(episode) - 1) + [last]

    def _revise(self, weigh: Weigh, generator: np.random.Generator) -> Architecture:
        """A step before the last: any architecture of the space, within the budgets or not."""
        prefix: Prefix = ()
        for size in self._network.sizes:
            every = np.ones(size, dtype=bool)
            prefix = (*prefix, draw_pick(weigh(prefix, every), every, generator))
        return Architecture(prefix)

    def _weights(self, logits: np.ndarray, links: np.ndarray) -> Weigh:
        """From logits (options of all genes,) to the weights of a gene's picks, epsilon of them even."""

        def weigh(prefix: Prefix, allowed: np.ndarray) -> np.ndarray:
            gene = self._linked(logits, links, prefix)
            shares = np.exp(np.where(allowed, gene - gene[allowed].max(), -np.inf))
            return (1.0 - self._epsilon) * shares / shares.sum() + self._epsilon * allowed / allowed.sum()

        return weigh

    def _linked(self, logits: np.ndarray, links: np.ndarray, prefix: Prefix) -> np.ndarray:
        """Logits (options,) of the gene after the prefix, with what the picks of the prefix add."""
        columns = slice(self._offsets[len(prefix)], self._offsets[len(prefix) + 1])
        rows = [offset + pick for offset, pick in zip(self._offsets, prefix, strict=False)]
        return logits[columns] + links[rows, columns].sum(axis=0)
