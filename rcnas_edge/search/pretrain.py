"""Teaches RC-NAS's encoder what networks cost, how smooth they are and how robust they came out, before it searches.

That the encoder is pre-trained is the paper's (KDD 2024, arXiv 2406.06792); how is not published, so all of it is ours.
From the rows of the stages alone (LIPS and costs are hidden from it) it predicts log MACs, log latency and LIPS of
random networks; from what was judged, the value head learns robust accuracy as a share of the teacher's. Within a task
the order of networks is what a search needs, so that the error of differences counts in full and that of the level a
tenth. The policy is held where it was, by the divergence of its picks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.encoder import PolicyNetwork
from rcnas_edge.search.observe import Observer, State
from rcnas_edge.search.reward import LEAST_TEACHER
from rcnas_edge.space import Architecture

COSTS = ("macs", "latency", "lips")
"""What the auxiliary heads predict: ln(MACs / teacher's), ln(latency / teacher's), ln(1 + LIPS)."""
LEVEL_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Hyper-parameters of `pretrain`, all ours."""

    networks: int = 24
    """Random networks of each judge's data, attack and teacher; each has to be built for its LIPS."""
    updates: int = 200
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    blur: float = 0.1
    """Standard deviation of the noise on every entry of the task vector: tasks nearby have values alike."""
    hold: float = 1.0
    """Weight of the divergence from the policy as it was."""
    costs: float = 1.0
    """Weight of the costs and LIPS that are predicted; 0 leaves them out."""

    def __post_init__(self) -> None:
        for name in ("networks", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        for name in ("updates", "learning_rate", "weight_decay", "blur", "hold", "costs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is not negative, got {getattr(self, name)}")


@dataclass(frozen=True)
class Lesson:
    """A task to learn from: its bench, and what its judge said (robust accuracy as a fraction) of architectures.

    `judge` is the digest that scores belong to: tasks that differ in budgets or device alone share it.
    """

    bench: CachedBench
    judge: str
    judged: Sequence[tuple[Architecture, float]] = ()


class Auxiliary(nn.Module):
    """The heads that are thrown away afterwards: (N, len(COSTS)) from all stages."""

    def __init__(self, stages: int, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(stages * width, len(COSTS))

    def forward(self, encoded: Sequence[Tensor]) -> Tensor:
        costs: Tensor = self.head(torch.cat(list(encoded), dim=1))
        return costs


def pretrain(
    network: PolicyNetwork, lessons: Sequence[Lesson], config: PretrainConfig, *, steps: int, seed: int
) -> dict[str, float]:
    """Teach the network in place; returns the mean losses of the last tenth of the updates.

    `steps` is the length of the searches' episodes. All lessons have genes and task vectors of one shape.
    """
    if not lessons or not config.updates:
        return {}
    observers = [Observer(lesson.bench, steps=steps) for lesson in lessons]
    random, costs, known = _random_networks(lessons, observers, config.networks, steps=steps, seed=seed)
    judged, shares, groups = _judged_networks(lessons, observers)
    vector = len(lessons[0].bench.task_vector)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auxiliary = Auxiliary(len(network.heads), network.encoder.width)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        before = network.logits(random)
    optimiser = torch.optim.AdamW(
        [*network.parameters(), *auxiliary.parameters()], lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.updates)
    kept: list[dict[str, float]] = []
    for _ in range(config.updates):
        part = torch.randint(len(costs), (config.batch,), generator=generator)
        state = _take(random, part)
        losses = {"hold": config.hold * _divergence(before[part], network.logits(state), network.sizes)}
        if config.costs:
            predicted = auxiliary(network.encoder(_hidden(state)))
            losses["costs"] = config.costs * _masked_error(predicted, costs[part], known[part])
        if len(shares):
            part = torch.randint(len(shares), (config.batch,), generator=generator)
            values = network.values(_blurred(_take(judged, part), vector, config.blur, generator))
            losses["values"] = _ordered_error(values - shares[part], groups[part])
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        schedule.step()
        kept.append({name: float(loss.detach()) for name, loss in losses.items()})
    last = kept[-max(1, len(kept) // 10) :]
    return {name: math.fsum(losses[name] for losses in last) / len(last) for name in last[0]}


def share_of_teacher(robust: float, teacher_robust: float) -> float:
    """What the value head predicts, from two fractions."""
    return robust / max(LEAST_TEACHER, teacher_robust)


def random_networks(bench: CachedBench, count: int, seed: int) -> list[Architecture]:
    """Architectures with every pick drawn evenly, within the budgets or not."""
    generator = np.random.default_rng(seed)
    sizes = [len(gene.options) for gene in bench.space.genes]
    return [Architecture(tuple(int(generator.integers(size)) for size in sizes)) for _ in range(count)]


def _random_networks(
    lessons: Sequence[Lesson], observers: Sequence[Observer], count: int, *, steps: int, seed: int
) -> tuple[State, Tensor, Tensor]:
    """States of random networks at random steps, their costs (N, len(COSTS)), and which of these are known."""
    states, rows = [], []
    for lesson, observer in zip(lessons, observers, strict=True):
        bench = lesson.bench
        networks = random_networks(bench, count, seed)
        states.append(observer(networks, [index % steps for index in range(count)]))
        whole = bench.teacher_cost
        for network in networks:
            cost = bench.cost(network)
            lips = math.log1p(max(0.0, bench.features(network)))
            rows.append((_log_share(cost.macs, whole.macs), _log_share(cost.latency, whole.latency), lips))
    known = torch.tensor([[number is not None for number in row] for row in rows])
    return _joined(states), torch.tensor([[number or 0.0 for number in row] for row in rows]), known


def _judged_networks(lessons: Sequence[Lesson], observers: Sequence[Observer]) -> tuple[State, Tensor, Tensor]:
    """Finished states of what was judged, the shares (N,) of the teacher's accuracy, and the task (N,) of each."""
    states, shares, groups = [], [], []
    for number, (lesson, observer) in enumerate(zip(lessons, observers, strict=True)):
        if lesson.judged:
            states.append(observer.finished([architecture for architecture, _ in lesson.judged]))
            shares += [share_of_teacher(robust, lesson.bench.teacher_robust) for _, robust in lesson.judged]
            groups += [number] * len(lesson.judged)
    joined = _joined(states) if states else State(torch.empty(0), torch.empty(0), torch.empty(0))
    return joined, torch.tensor(shares), torch.tensor(groups)


def _log_share(part: float | None, whole: float | None) -> float | None:
    return math.log(part / whole) if part and whole else None


def _hidden(state: State) -> State:
    """Without what is to be predicted."""
    return State(state.stages, torch.zeros_like(state.lips), torch.zeros_like(state.cost))


def _blurred(state: State, entries: int, spread: float, generator: torch.Generator) -> State:
    """With noise on the task vector, which is the end of every row and the same in all rows of a network."""
    noise = torch.zeros_like(state.stages)
    if entries:
        noise[:, :, -entries:] = spread * torch.randn((len(noise), 1, entries), generator=generator)
    return State(state.stages + noise, state.lips, state.cost)


def _take(state: State, part: Tensor) -> State:
    return State(state.stages[part], state.lips[part], state.cost[part])


def _joined(states: Sequence[State]) -> State:
    return State(
        torch.cat([state.stages for state in states]),
        torch.cat([state.lips for state in states]),
        torch.cat([state.cost for state in states]),
    )


def _masked_error(predicted: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    return ((predicted - wanted) ** 2 * known).sum() / known.sum().clamp_min(1)


def _ordered_error(error: Tensor, groups: Tensor) -> Tensor:
    """Mean square of errors (N,) around the mean of their group, and a tenth of that of the errors themselves."""
    chosen = functional.one_hot(groups, int(groups.max()) + 1).float()  # (N, groups)
    means = (chosen.T @ error) / chosen.sum(dim=0).clamp_min(1)
    return ((error - chosen @ means) ** 2).mean() + LEVEL_WEIGHT * (error**2).mean()


def _divergence(before: Tensor, after: Tensor, sizes: Sequence[int]) -> Tensor:
    """KL(before || after), summed over the genes, mean over the states."""
    total = torch.zeros(())
    for old, new in zip(before.split(list(sizes), dim=1), after.split(list(sizes), dim=1), strict=True):
        total = total + functional.kl_div(
            new.log_softmax(dim=1), old.log_softmax(dim=1), log_target=True, reduction="batchmean"
        )
    return total
