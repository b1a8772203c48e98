"""Regularised evolution, the baseline of architecture search: the best of a few have a child, the oldest dies.

"Regularized Evolution for Image Classifier Architecture Search", Real et al., AAAI 2019 (arXiv 1802.01548), its
Algorithm 1: a population in the order of birth; a parent is the best of a sample drawn with replacement; a child is its
parent with one mutation; the child joins, the oldest leaves, however good it is. Ours: every network is within the
budgets, the first ones by the masked draws that all strategies share, a child by drawing its mutation from what fits;
the population is small, since judging is dear; and a child that was judged before, itself or as another architecture of
the same network, joins with the score that is known, for nothing, and the next child is drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.pool import Pool
from rcnas_edge.search.protocol import Bench, Candidate, Judge, MapJudge, map_judge
from rcnas_edge.search.resume import identity, require_own
from rcnas_edge.search.sampling import Sampler, draw_pick, generator_state, restore_generator
from rcnas_edge.space import Architecture


@dataclass(frozen=True, kw_only=True)
class EvolutionConfig:
    """Hyper-parameters of `EvolutionSearch`; the paper has a population of 100 and a sample of 25.

    Ours were chosen among seven settings on the tabular benchmark (`tests/benchmarks`), so that the baseline is a
    strong one for searches of tens to hundreds of networks; up to `first` networks it is random search.
    """

    seed: int = 0
    batch: int = 2
    """Networks that a step judges; the paper judges one after the other, or many by workers that do not wait."""
    population: int = 50
    first: int = 10
    """Networks drawn at random before the first child; the paper fills the whole population so."""
    tournament: int = 10
    """Members that are sampled for one parent (the paper's S)."""
    attempts: int = 200
    """Children in a row that were known before a network is drawn at random instead."""

    def __post_init__(self) -> None:
        for name in ("batch", "population", "first", "tournament", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        if self.first > self.population:
            raise ValueError(f"first is at most the population, got {self.first} for {self.population}")


class EvolutionSearch:
    """Regularised evolution over any space of genes, within the budgets from the first network on."""

    name: ClassVar[str] = "evolution"
    Config: ClassVar[type[EvolutionConfig]] = EvolutionConfig

    def __init__(
        self, bench: Bench, judge: Judge, config: EvolutionConfig | None = None, *, map_judge: MapJudge = map_judge
    ) -> None:
        self.config = config or EvolutionConfig()
        self._bench = CachedBench.of(bench)
        self._pool = Pool(self._bench, judge, map_judge=map_judge)
        self._sampler = Sampler(self._bench)
        self._generator = np.random.default_rng(self.config.seed)
        self._population: list[Architecture] = []

    def step(self) -> Sequence[Candidate]:
        """Judge a batch of new networks, which join the population; nothing when all within the budgets is judged."""
        born: dict[Hashable, Architecture] = {}
        for _ in range(self.config.batch):
            architecture = self._new(born)
            if architecture is None:
                break
            born[self._bench.key(architecture)] = architecture
        candidates = self._pool.judge(list(born.values()))
        for architecture in born.values():
            self._join(architecture)
        return candidates

    def recommend(self, k: int = 1) -> Sequence[Architecture]:
        """The best k judged networks within the budgets, dead or alive."""
        return self._pool.best(k)

    def state_dict(self) -> dict[str, Any]:
        """Everything judged, the population in the order of birth, and the generator."""
        return {
            **identity(self.name, self.config),
            "pool": self._pool.state_dict(),
            "population": [list(member.picks) for member in self._population],
            "sampler": self._sampler.state_dict(),
            "generator": generator_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; InputError for the state of another search."""
        require_own(state, self.name, self.config)
        self._pool.load_state_dict(state["pool"])
        self._population = [Architecture(tuple(map(int, picks))) for picks in state["population"]]
        self._sampler.load_state_dict(state["sampler"])
        restore_generator(self._generator, state["generator"])

    def _new(self, born: Collection[Hashable]) -> Architecture | None:
        """A network that was neither judged nor is in `born` (keys): a child, else a random one; None if none is left.

        Ends always: children are tried a bounded number of times, and a random draw ends.
        """
        if len(self._pool) + len(born) >= self.config.first and self._population:
            for _ in range(self.config.attempts):
                child = self._child()
                if child is None:
                    break
                if self._pool.seen(child):
                    self._join(child)
                elif self._bench.key(child) not in born:
                    return child
        return self._sampler.draw(
            lambda prefix: self._sampler.allowed(prefix).astype(float),
            lambda one: self._pool.seen(one) or self._bench.key(one) in born,
            self._generator,
        )

    def _child(self) -> Architecture | None:
        """A parent with another pick for one gene, within the budgets; None where every such change breaks one."""
        sample = self._generator.integers(len(self._population), size=self.config.tournament)
        parent = max((self._population[index] for index in dict.fromkeys(sample)), key=self._fitness)
        picks = parent.picks
        for place in self._generator.permutation(len(picks)):
            options = range(len(self._bench.space.genes[place].options))
            others = [Architecture((*picks[:place], pick, *picks[place + 1 :])) for pick in options]
            fits = np.array([other != parent and self._bench.fits(other) for other in others])
            if fits.any():
                return others[draw_pick(fits.astype(float), fits, self._generator)]
        return None

    def _fitness(self, architecture: Architecture) -> tuple[float, float]:
        """Robust accuracy, then clean accuracy, of a network that was judged."""
        (candidate,) = self._pool.judge([architecture])
        return candidate.score.robust, candidate.score.clean

    def _join(self, architecture: Architecture) -> None:
        """The youngest joins; the oldest leaves a population that is too large."""
        self._population = [*self._population, architecture][-self.config.population :]
