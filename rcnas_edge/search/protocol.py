"""What every search shares: scores, candidates, and the protocols of judge, bench and search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rcnas_edge.space import Architecture, Space

if TYPE_CHECKING:
    from rcnas_edge.cost import Budget, Cost
    from rcnas_edge.profile import Target


@dataclass(frozen=True)
class Score:
    """What one judge says of one network: robust and clean accuracy as fractions over `n` images.

    `judge` is the digest of the judge (data, teacher, threat, recipe, seed); scores of different judges are never
    mixed. `seconds` is the time the judging took.
    """

    robust: float
    clean: float
    n: int
    judge: str
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.robust <= 1.0 and 0.0 <= self.clean <= 1.0):
            raise ValueError(f"accuracies are fractions in [0, 1], got robust {self.robust} and clean {self.clean}")
        if self.n < 1:
            raise ValueError(f"a score is over at least one image, got {self.n}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Score:
        return cls(**values)


@dataclass(frozen=True)
class Candidate:
    """A judged architecture: its score, its costs, and whether it fits.

    `costs` are values in the base unit by quantity; of several targets, `latency` is that of the first and
    `latency on TARGET` that of each further one.
    """

    architecture: Architecture
    score: Score
    costs: Mapping[str, float]
    feasible: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "picks": list(self.architecture.picks),
            "score": self.score.to_dict(),
            "costs": dict(self.costs),
            "feasible": self.feasible,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        return cls(
            architecture=Architecture(tuple(int(pick) for pick in values["picks"])),
            score=Score.from_dict(values["score"]),
            costs=dict(values["costs"]),
            feasible=bool(values["feasible"]),
        )


class Judge(Protocol):
    """Says how good a network is. `prepare` may train (a supernet, say); a second call of it does nothing.

    A search calls `prepare` before the first judging and never stores the judge's state: the pipeline does.
    """

    digest: str

    def __call__(self, architecture: Architecture) -> Score: ...

    def prepare(self) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Bench(Protocol):
    """The live task as a search sees it: the space, what an architecture costs, and what it is measured against.

    Five more attributes are used where a bench has them. `features(architecture) -> float` is the empirical
    Lipschitz coefficient (LIPS); a table has none. `cheapest: Architecture` spares the search its own look for it.
    `start: Architecture` is the teacher as an architecture; without it the costliest one found stands in.
    `targets: Sequence[Target]` are where the network is to run: with several, a budget is asked against the cost on its
    own target; a bench that has one is never asked for a target, as a table. `excluded(architecture) -> bool` says
    which networks no search may judge, though they fit.
    """

    @property
    def space(self) -> Space: ...

    @property
    def budgets(self) -> Sequence[Budget]: ...

    @property
    def teacher_cost(self) -> Cost: ...

    @property
    def teacher_robust(self) -> float: ...

    @property
    def task_vector(self) -> Sequence[float]: ...

    def cost(self, architecture: Architecture, target: Target | None = None) -> Cost: ...

    def fits(self, architecture: Architecture) -> bool: ...


class Search(Protocol):
    """A strategy, built as `Strategy(bench, judge, config)`."""

    def step(self) -> Sequence[Candidate]:
        """One round; what was judged in it, and nothing at all once every network it can reach is judged."""

    def recommend(self, k: int = 1) -> Sequence[Architecture]:
        """The best k so far, different networks within every budget, the best judged first; or BudgetError."""

    def state_dict(self) -> dict[str, Any]:
        """All of it, as nested dicts and lists of numbers, strings and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken."""


MapJudge = Callable[[Judge, Sequence[Architecture]], Iterable[Score]]


def map_judge(judge: Judge, architectures: Sequence[Architecture]) -> list[Score]:
    """Judge each architecture, here and one after the other; a pool of processes may take this function's place."""
    return [judge(architecture) for architecture in architectures]
