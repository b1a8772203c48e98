"""The networks judged so far: each judged once, ranked, and the only source of recommendations."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.protocol import Candidate, Judge, MapJudge, map_judge
from rcnas_edge.space import Architecture, check


class Pool:
    """Candidates by deployed network. A repeat is free, and what was never judged is never recommended."""

    def __init__(self, bench: CachedBench, judge: Judge, *, map_judge: MapJudge = map_judge) -> None:
        self._bench = bench
        self._judge = judge
        self._map = map_judge
        self._prepared = False
        self._candidates: dict[Hashable, Candidate] = {}

    def __len__(self) -> int:
        return len(self._candidates)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """In the order of their judging."""
        return tuple(self._candidates.values())

    def seen(self, architecture: Architecture) -> bool:
        """Whether its network was judged, under this or another architecture, or is excluded from judging."""
        return self._bench.key(architecture) in self._candidates or self._bench.excluded(architecture)

    def judge(self, architectures: Sequence[Architecture]) -> tuple[Candidate, ...]:
        """The candidate of each architecture; only networks that are new reach the judge."""
        known = self._candidates
        fresh = {key: one for one in reversed(architectures) if (key := self._bench.key(one)) not in known}
        fresh = dict(reversed(fresh.items()))  # of two architectures of one network the first is judged
        if fresh and not self._prepared:
            self._judge.prepare()
            self._prepared = True
        scores = list(self._map(self._judge, tuple(fresh.values())))
        for (key, architecture), score in zip(fresh.items(), scores, strict=True):
            if score.judge != self._judge.digest:
                raise ValueError(f"a score carries the digest of its judge, {self._judge.digest}, got {score.judge}")
            self._candidates[key] = Candidate(
                architecture, score, self._bench.costs(architecture), self._bench.fits(architecture)
            )
        return tuple(self._candidates[self._bench.key(architecture)] for architecture in architectures)

    def best(self, k: int = 1, *, worth: Callable[[Candidate], float] | None = None) -> tuple[Architecture, ...]:
        """Up to k different networks within the budgets: most robust first, then most accurate, then cheapest.

        With `worth`, what is worth most comes first.
        """
        if k < 1:
            raise ValueError(f"one recommends at least one architecture, got k = {k}")
        fitting = [candidate for candidate in self._candidates.values() if candidate.feasible]
        if not fitting:
            raise BudgetError(
                f"a recommendation was judged and is within every budget, none of the {len(self)} judged networks is: "
                "take more steps of the search"
            )
        ranked = sorted(fitting, key=self._rank)
        if worth is not None:
            ranked.sort(key=lambda candidate: -round(worth(candidate), 12))  # equals keep their order
        return tuple(candidate.architecture for candidate in ranked[:k])

    def state_dict(self) -> dict[str, Any]:
        return {
            "judge": self._judge.digest,
            "candidates": [candidate.to_dict() for candidate in self._candidates.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["judge"] != self._judge.digest:
            raise InputError(
                f"a search resumes with the judge it began with, {state['judge']}, got {self._judge.digest}: "
                "begin a new run, or restore the data, teacher, threat and recipe of the old one"
            )
        candidates = [Candidate.from_dict(values) for values in state["candidates"]]
        for candidate in candidates:
            check(self._bench.space.genes, candidate.architecture)
        # fits is asked again: a changed budget may not let an old verdict through
        self._candidates = {
            self._bench.key(one.architecture): Candidate(
                one.architecture, one.score, one.costs, self._bench.fits(one.architecture)
            )
            for one in candidates
        }

    def _rank(self, candidate: Candidate) -> tuple[float, float, float, tuple[int, ...]]:
        tightest = max(self._bench.ratios(candidate.architecture), default=0.0)
        return -candidate.score.robust, -candidate.score.clean, tightest, candidate.architecture.picks
