"""The dual level of RC-NAS: a policy that is trained over sampled tasks, to be fine-tuned on an unseen one.

"Reinforced Compressive Neural Architecture Search for Versatile Adversarial Robustness", KDD 2024 (arXiv 2406.06792):
meta-training over tasks, then fine-tuning in few iterations. Its algorithm is not published; ours: every task is
searched for a few evaluations from the weights so far, and its weights are taken over (a policy gradient over many
tasks), or approached (Reptile, Nichol et al., arXiv 1803.02999). All that was judged is kept and replayed: the value
head learns from it (`pretrain`), under the budgets and devices of every task with the same judge, and rehearsals
search tasks met before against the agent's memory in the place of the judge, which costs no training.

It works on any benches and judges: `open` makes them from a task when it is that task's turn.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from rcnas_edge.cost import QUANTITIES
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.encoder import PolicyNetwork
from rcnas_edge.search.memory import Memory, Recall
from rcnas_edge.search.observe import Observer
from rcnas_edge.search.policy import PolicyConfig, PolicySearch
from rcnas_edge.search.pretrain import Lesson, PretrainConfig, pretrain
from rcnas_edge.search.protocol import Bench, Candidate, Judge, Score
from rcnas_edge.search.resume import identity, require_own
from rcnas_edge.space import Architecture

Task = TypeVar("Task")
Weights = Mapping[str, torch.Tensor]
Open = Callable[[Task], tuple[Bench, Judge]]
NAME = "meta"
POLICY_GRADIENT, REPTILE = "policy-gradient", "reptile"
UPDATES = (POLICY_GRADIENT, REPTILE)


@dataclass(frozen=True, kw_only=True)
class MetaConfig:
    """Hyper-parameters of `MetaTraining`, all ours."""

    seed: int = 0
    evaluations: int = 8
    """Networks judged in a task, at least; a task ends with its batch."""
    together: int = 1
    """Tasks of a round: all of them start from the same weights and the mean of their changes counts, so that they can
    be searched at once. One is a policy gradient over tasks in sequence."""
    update: str = POLICY_GRADIENT
    reptile_rate: float = 0.3
    """How far Reptile moves towards the weights that a round found."""
    rehearsals: int = 4
    """Tasks searched against the memory after a round."""
    rehearsed: int = 16
    """Networks that the memory judges in each of them."""
    search: PolicyConfig = field(default_factory=lambda: PolicyConfig(rules=False))
    """Without the networks of scaling rules: a task is to show an agent what lies beside them."""
    start: PretrainConfig = field(default_factory=PretrainConfig)
    """Of the encoder before the first task."""
    lessons: PretrainConfig = field(default_factory=lambda: PretrainConfig(updates=80, costs=0.0))
    """Of encoder and value head after every round."""
    last: PretrainConfig = field(default_factory=lambda: PretrainConfig(updates=400, costs=0.0))
    """In its place after the last round: a search trusts the values that it starts with."""

    def __post_init__(self) -> None:
        if self.update not in UPDATES:
            raise ValueError(f"an update is one of {', '.join(UPDATES)}, got {self.update!r}")
        for name, least in (("evaluations", 1), ("together", 1), ("rehearsals", 0), ("rehearsed", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, got {getattr(self, name)}")
        if not 0.0 < self.reptile_rate <= 1.0:
            raise ValueError(f"reptile_rate is in (0, 1], got {self.reptile_rate}")


@dataclass(frozen=True)
class Studied:
    """What one task came to: the judge of its candidates, and the weights that its search ended with."""

    judge: str
    teacher_robust: float
    candidates: tuple[Candidate, ...]
    weights: Weights

    @property
    def curve(self) -> list[float]:
        """The best robust accuracy within the budgets after each evaluation, 0 before the first that fits."""
        scores = [candidate.score.robust if candidate.feasible else 0.0 for candidate in self.candidates]
        return [float(best) for best in np.maximum.accumulate(scores)] if scores else []


@dataclass(frozen=True)
class Job:
    """A task to be searched: from which weights (None: fresh ones), with which seed, for how many evaluations."""

    task: Any
    weights: Weights | None
    config: PolicyConfig
    evaluations: int


MapJobs = Callable[[Callable[[Job], Studied], Sequence[Job]], Iterable[Studied]]


def map_jobs(work: Callable[[Job], Studied], jobs: Sequence[Job]) -> list[Studied]:
    """One after the other, here; the `map` of a pool of processes may take this function's place."""
    return [work(job) for job in jobs]


def study(open_task: Open[Any], job: Job) -> Studied:
    """Search a task from weights: what a worker does."""
    return _search(*open_task(job.task), job)


def _search(bench: Bench, judge: Judge, job: Job) -> Studied:
    search = PolicySearch(bench, judge, job.config)
    if job.weights is not None:
        search.adopt(job.weights)
    candidates: list[Candidate] = []
    while len(candidates) < job.evaluations and (found := search.step()):
        candidates += found
    return Studied(judge.digest, bench.teacher_robust, tuple(candidates), search.state_dict()["weights"])


class RecallJudge:
    """Says of a network what the memory expects: a judge that trains nothing, for rehearsals."""

    digest = "memory"

    def __init__(self, recall: Recall, bench: CachedBench) -> None:
        self._recall, self._bench = recall.on(bench), bench

    def __call__(self, architecture: Architecture) -> Score:
        share = float(self._recall.mean([architecture])[0])
        robust = min(1.0, max(0.0, share * self._bench.teacher_robust))
        return Score(robust, robust, 1, self.digest)

    def prepare(self) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing."""


class MetaTraining(Generic[Task]):
    """Rounds of tasks; `agent` is what `PolicySearch.adopt` takes. The tasks have genes of one shape."""

    def __init__(
        self,
        tasks: Sequence[Task],
        open_task: Open[Task],
        config: MetaConfig | None = None,
        *,
        map_jobs: MapJobs = map_jobs,
    ) -> None:
        if not tasks:
            raise ValueError("meta-training needs at least one task")
        self.config = config or MetaConfig()
        self.tasks = tuple(tasks)
        self.weights: Weights | None = None
        """None before the first round."""
        self.studied: list[dict[str, Any]] = []
        """One record per task that was searched, in their order: judge, teacher's accuracy, candidates and curve."""
        self.losses: list[dict[str, float]] = []
        """What `pretrain` gave, before the first round and after each."""
        self._open, self._map = open_task, map_jobs
        self._opened: dict[int, tuple[CachedBench, Judge]] = {}

    @property
    def done(self) -> int:
        """Tasks that were searched."""
        return len(self.studied)

    @property
    def memory(self) -> Memory:
        """What was judged so far."""
        judged: dict[str, tuple[CachedBench, dict[Architecture, float]]] = {}
        for number, record in enumerate(self.studied):
            bench, _ = self._bench(number)
            known = judged.setdefault(record["judge"], (bench, {}))[1]
            known.update((Architecture(tuple(one["picks"])), one["score"]["robust"]) for one in record["candidates"])
        return Memory.of([(digest, bench, scores) for digest, (bench, scores) in judged.items()])

    @property
    def agent(self) -> Weights:
        """What `PolicySearch.adopt` takes: the weights, and the memory beside them."""
        return {**(self.weights or {}), **self.memory.to_tensors()}

    def step(self) -> Sequence[Studied]:
        """A round: search the next tasks, take over their weights, learn from all that was judged; () at the end."""
        if self.weights is None:
            self.weights = self._begin()
        weights, first = self.weights, self.done
        numbers = range(first, min(first + self.config.together, len(self.tasks)))
        jobs = [
            Job(self.tasks[number], weights, self._seeded(1, number), self.config.evaluations) for number in numbers
        ]
        if not jobs:
            return ()
        found = list(self._map(partial(study, self._open), jobs))
        self.weights = self._moved(weights, [one.weights for one in found])
        for one in found:
            self.studied.append(
                {
                    "judge": one.judge,
                    "teacher_robust": one.teacher_robust,
                    "candidates": [candidate.to_dict() for candidate in one.candidates],
                    "curve": one.curve,
                }
            )
        self._rehearse(weights)
        self._learn(self.config.lessons if self.done < len(self.tasks) else self.config.last)
        return found

    def run(self) -> Weights:
        """All rounds that are left; the agent."""
        while self.step():
            pass
        return self.agent

    # what a round is made of

    def _begin(self) -> Weights:
        """Fresh weights, with the encoder pre-trained on the first round's tasks."""
        bench, judge = self._bench(0)
        self.weights = PolicySearch(bench, judge, self._seeded(0, 0)).state_dict()["weights"]
        self._learn(self.config.start, list(range(min(self.config.together, len(self.tasks)))))
        return self.weights

    def _moved(self, before: Weights, after: Sequence[Weights]) -> Weights:
        """The weights with the mean change of the searches; of Reptile, with its share of that."""
        rate = 1.0 if self.config.update == POLICY_GRADIENT else self.config.reptile_rate
        return {
            name: tensor + rate * torch.stack([one[name] - tensor for one in after]).mean(dim=0)
            for name, tensor in before.items()
        }

    def _learn(self, config: PretrainConfig, numbers: Sequence[int] | None = None) -> None:
        """Teach encoder and value head; by default from all tasks so far."""
        judged: dict[str, dict[tuple[int, ...], float]] = {}
        for record in self.studied:
            known = judged.setdefault(record["judge"], {})
            known.update((tuple(one["picks"]), one["score"]["robust"]) for one in record["candidates"])
        lessons = []
        for number in range(self.done) if numbers is None else numbers:
            bench, judge = self._bench(number)
            scores = judged.get(judge.digest, {}).items()
            lessons.append(Lesson(bench, judge.digest, [(Architecture(picks), robust) for picks, robust in scores]))
        network = self._network(self.weights or {})
        steps = self.config.search.steps
        self.losses.append(pretrain(network, lessons, config, steps=steps, seed=self._seed(2, self.done)))
        self.weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def _rehearse(self, taught: Weights) -> None:
        """Search tasks met before against the memory, each from the weights of the one before.

        Nothing before the first lessons.
        """
        if self.done <= self.config.together:
            return
        recall = Recall(self.memory, self._bench(0)[0])
        config = replace(self.config.search, critic=False)
        drawn = np.random.default_rng(self._seed(3, self.done)).integers(self.done, size=self.config.rehearsals)
        for place, number in enumerate(drawn):
            bench, _ = self._bench(int(number))
            judge = RecallJudge(recall, bench)
            seeded = replace(config, seed=self._seed(4, self.done, place))
            before = self.weights or taught
            found = _search(bench, judge, Job(None, before, seeded, self.config.rehearsed))
            self.weights = self._moved(before, [found.weights])

    def _bench(self, number: int) -> tuple[CachedBench, Judge]:
        if number not in self._opened:
            bench, judge = self._open(self.tasks[number])
            self._opened[number] = CachedBench.of(bench), judge
        return self._opened[number]

    def _network(self, weights: Weights) -> PolicyNetwork:
        """A network of the tasks' shape with these weights."""
        bench, _ = self._bench(0)
        observer = Observer(bench, steps=self.config.search.steps)
        network = PolicyNetwork.fresh(
            bench.space.genes,
            observer.stages,
            features=observer.features,
            costs=len(QUANTITIES),
            generator=torch.Generator(),
        )
        network.load_state_dict(dict(weights))
        return network

    def _seed(self, *place: int) -> int:
        """A seed of its own for every place of the training, so that a resumed one goes on alike."""
        return int(np.random.SeedSequence([self.config.seed, *place]).generate_state(1)[0])

    def _seeded(self, *place: int) -> PolicyConfig:
        return replace(self.config.search, seed=self._seed(*place))

    # state

    def state_dict(self) -> dict[str, Any]:
        """Weights and records: everything else follows from the seed."""
        return {
            **identity(NAME, self.config),
            "weights": None if self.weights is None else dict(self.weights),
            "studied": copy.deepcopy(self.studied),
            "losses": copy.deepcopy(self.losses),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the state was taken, with the same tasks; InputError for another configuration."""
        require_own(state, NAME, self.config)
        self.weights = None if state["weights"] is None else dict(state["weights"])
        self.studied = copy.deepcopy(list(state["studied"]))
        self.losses = copy.deepcopy(list(state["losses"]))


def configuration(config: MetaConfig) -> dict[str, Any]:
    """Plain values, for the record."""
    return asdict(config)
