"""Random search, the control: new networks within the budgets, drawn evenly gene by gene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.pool import Pool
from rcnas_edge.search.protocol import Bench, Candidate, Judge, MapJudge, map_judge
from rcnas_edge.search.resume import identity, require_own
from rcnas_edge.search.sampling import Sampler, generator_state, restore_generator
from rcnas_edge.space import Architecture


@dataclass(frozen=True, kw_only=True)
class RandomConfig:
    """How many networks a step judges, and the seed."""

    seed: int = 0
    batch: int = 2

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is at least 1, got {self.batch}")


class RandomSearch:
    """Draws with the same masks as the other strategies and never repeats a network, so that it is a fair control."""

    name: ClassVar[str] = "random"
    Config: ClassVar[type[RandomConfig]] = RandomConfig

    def __init__(
        self, bench: Bench, judge: Judge, config: RandomConfig | None = None, *, map_judge: MapJudge = map_judge
    ) -> None:
        self.config = config or RandomConfig()
        self._bench = CachedBench.of(bench)
        self._pool = Pool(self._bench, judge, map_judge=map_judge)
        self._sampler = Sampler(self._bench)
        self._generator = np.random.default_rng(self.config.seed)

    def step(self) -> Sequence[Candidate]:
        """Judge a batch of new networks; nothing when all within the budgets is judged."""
        drawn: dict[Any, Architecture] = {}
        for _ in range(self.config.batch):
            architecture = self._sampler.draw(
                lambda prefix: self._sampler.allowed(prefix).astype(float),
                lambda one: self._pool.seen(one) or self._bench.key(one) in drawn,
                self._generator,
            )
            if architecture is None:
                break
            drawn[self._bench.key(architecture)] = architecture
        return self._pool.judge(list(drawn.values()))

    def recommend(self, k: int = 1) -> Sequence[Architecture]:
        """The best k judged networks within the budgets."""
        return self._pool.best(k)

    def state_dict(self) -> dict[str, Any]:
        """Everything judged, and the generator."""
        return {
            **identity(self.name, self.config),
            "pool": self._pool.state_dict(),
            "sampler": self._sampler.state_dict(),
            "generator": generator_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; InputError for the state of another search."""
        require_own(state, self.name, self.config)
        self._pool.load_state_dict(state["pool"])
        self._sampler.load_state_dict(state["sampler"])
        restore_generator(self._generator, state["generator"])
