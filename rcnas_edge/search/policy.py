"""RC-NAS: a policy that compresses the teacher stage by stage, learnt by REINFORCE.

"Reinforced Compressive Neural Architecture Search for Versatile Adversarial Robustness", KDD 2024 (arXiv 2406.06792).
From the paper: the stage-wise encoder, one policy head per stage, several steps per episode, vanilla policy gradient
(`encoder`, `observe`). Its algorithms and hyper-parameters are not published; ours are, all of them in this file:
an episode is three revisions of the whole network that start at the teacher, and the last one is judged (`episodes`);
its picks are masked to the budgets and never a network that was judged (`sampling`); the first batch is what scaling
rules give (`scaling`), or half of it with an agent, which expects something itself; then a critic chooses among many
episodes that are proposed, and among changes to the best ones by one pick (`critic`); batches of two against an
exponential baseline; an entropy bonus; epsilon exploration; the best five episodes are imitated in every update.
The log-probability that is learnt from is that of the policy under the budget masks: neither epsilon, nor the critic's
choice, nor the networks left out because they were judged are in it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from rcnas_edge.cost import QUANTITIES
from rcnas_edge.errors import InputError
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.critic import Critic
from rcnas_edge.search.encoder import PolicyNetwork
from rcnas_edge.search.episodes import Episode, Episodes
from rcnas_edge.search.memory import PREFIX, Memory, Recall
from rcnas_edge.search.observe import Observer
from rcnas_edge.search.pool import Pool
from rcnas_edge.search.protocol import Bench, Candidate, Judge, MapJudge, map_judge
from rcnas_edge.search.resume import identity, require_own
from rcnas_edge.search.reward import BUDGET, LEAST_TEACHER, REWARDS, reward_terms
from rcnas_edge.search.sampling import generator_state, restore_generator
from rcnas_edge.search.scaling import by_rule
from rcnas_edge.space import Architecture

ENUMERABLE = 20_000
"""Architectures of a space that is small enough to ask a memory of each of them."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Hyper-parameters of `PolicySearch`, all ours; accuracies enter the reward as shares of the teacher's."""

    seed: int = 0
    reward: str = BUDGET
    """One of `REWARDS`."""
    steps: int = 3
    batch: int = 2
    learning_rate: float = 0.02
    baseline_rate: float = 0.1
    """How far the baseline moves towards the mean reward of a batch."""
    discount: float = 0.5
    """Per step between a pick and the judging: the first revisions matter less to the network that is judged."""
    entropy: float = 0.01
    epsilon: float = 0.05
    """The share of picks drawn evenly from the allowed ones."""
    replay: int = 5
    replay_weight: float = 1.0
    greedy_every: int = 5
    """Batches per greedy decode."""
    rules: bool = True
    """Whether a search with its critic judges first what scaling rules give (`scaling.by_rule`): from scratch in its
    whole first batch, from an agent in half of it."""
    critic: bool = True
    """Whether a critic chooses among proposals; without one every draw of the policy is judged."""
    proposals: int = 64
    """Last steps of one episode, drawn for every batch, that the critic chooses from."""
    revised: int = 3
    """Of the best episodes judged, and of the proposals that most is expected of, whose changes by one pick are
    proposals too."""
    trades: int = 16
    """Changes of each of them by two picks, drawn at random: one gene gets what another gives."""
    climbs: int = 5
    """How often the latter are changed at most before anything is judged, where an agent's memory leads; then once."""

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise ValueError(f"reward is one of {', '.join(REWARDS)}, got {self.reward!r}")
        for name in ("steps", "batch", "greedy_every", "proposals"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        for name in ("baseline_rate", "discount", "epsilon"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is in [0, 1], got {getattr(self, name)}")
        for name in ("learning_rate", "entropy", "replay", "replay_weight", "revised", "climbs", "trades"):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f"{name} is not negative, got {getattr(self, name)}")


class PolicySearch:
    """RC-NAS's search over any space of genes."""

    name: ClassVar[str] = "rc-nas"
    Config: ClassVar[type[PolicyConfig]] = PolicyConfig

    def __init__(
        self, bench: Bench, judge: Judge, config: PolicyConfig | None = None, *, map_judge: MapJudge = map_judge
    ) -> None:
        self.config = config or PolicyConfig()
        self._bench = CachedBench.of(bench)
        self._pool = Pool(self._bench, judge, map_judge=map_judge)
        self._observer = Observer(self._bench, steps=self.config.steps)
        self._generator = np.random.default_rng(self.config.seed)
        self._network = PolicyNetwork.fresh(
            self._bench.space.genes,
            self._observer.stages,
            features=self._observer.features,
            costs=len(QUANTITIES),
            generator=torch.Generator().manual_seed(self.config.seed),
        )
        self._optimiser = torch.optim.Adam(self._network.parameters(), lr=self.config.learning_rate)
        self._drawing = Episodes(
            self._bench,
            self._network,
            self._observer,
            self._pool.seen,
            steps=self.config.steps,
            epsilon=self.config.epsilon,
        )
        self._critic = Critic(self._bench)
        self._memory: Memory | None = None
        self._recall: Recall | None = None
        self._baseline: float | None = None
        self._updates = 0
        self._elites: list[tuple[float, Episode]] = []

    def step(self) -> Sequence[Candidate]:
        """A batch of episodes, judged, and one policy-gradient update; nothing when all that fits is judged."""
        episodes = self._episodes()
        if not episodes:
            return ()
        candidates = self._pool.judge([episode[-1] for episode in episodes])
        rewards = [self._reward(candidate) for candidate in candidates]
        self._learn(episodes, rewards)
        return candidates

    def recommend(self, k: int = 1) -> Sequence[Architecture]:
        """The k judged networks of the highest reward within the budgets; by the default one, the most robust."""
        return self._pool.best(k, worth=self._reward)

    # episodes

    def _episodes(self) -> list[Episode]:
        """Up to `batch` episodes that end in different networks, none judged before."""
        return self._screened() if self.config.critic else self._unscreened()

    def _unscreened(self) -> list[Episode]:
        """As the policy draws them; every fifth batch has the greedy decode."""
        greedy = self._greedy_if_due()
        return self._drawn([] if greedy is None else [greedy])

    def _greedy_if_due(self) -> Episode | None:
        due = self._updates % self.config.greedy_every == self.config.greedy_every - 1
        return self._drawing.greedy() if due else None

    def _drawn(self, episodes: list[Episode]) -> list[Episode]:
        """These episodes, and further ones up to `batch`, as the policy draws them."""
        for begun, weigh in self._drawing.begun(self.config.batch - len(episodes), self._generator):
            last = self._drawing.finish(weigh, {self._bench.key(one[-1]) for one in episodes}, self._generator)
            if last is None:
                break
            episodes.append((*begun, last))
        return episodes

    def _by_rule(self) -> list[Episode]:
        """Of the networks that scaling rules give those that a first batch has, held from the first step on."""
        if len(self._pool) or not self.config.rules:
            return []
        ends = [end for end in by_rule(self._bench) if self._drawing.reachable(end) and not self._pool.seen(end)]
        room = self.config.batch if self._memory is None else self.config.batch // 2
        return [(end,) * self.config.steps for end in ends[:room]]

    def _screened(self) -> list[Episode]:
        """The proposals that the critic expects most of; as the policy draws them where it has nothing to go by."""
        chosen = self._by_rule()
        if not len(self._pool) and self._memory is None:
            return self._drawn(chosen)
        proposals = self._proposals()
        expected = self._expected(proposals)
        climbed: set[Hashable] = set()
        led = 0 if self._memory is None else 1 if len(self._pool) else self.config.climbs
        for _ in range(led):
            best = sorted(proposals, key=expected.__getitem__, reverse=True)[: self.config.revised]
            if climbed.issuperset(best):
                break
            climbed.update(best)
            around = [one for each in best for one in self._neighbours(proposals[each])]
            fresh = {key: one for key, one in self._keyed(around).items() if key not in proposals}
            proposals |= fresh
            expected |= self._expected(fresh)
        ruled = {self._bench.key(episode[-1]) for episode in chosen}
        for key in sorted(proposals, key=expected.__getitem__, reverse=True):
            if key not in ruled and len(chosen) < self.config.batch and self._drawing.reachable(proposals[key][-1]):
                chosen.append(proposals[key])
        return self._drawn(chosen)

    def _proposals(self) -> dict[Hashable, Episode]:
        """Episodes by the network (key) that they end in: draws, the greedy decode, changes to the best by one pick."""
        ((begun, weigh),) = self._drawing.begun(1, self._generator)
        found = self._drawing.proposals(begun, weigh, self.config.proposals, self._generator)
        greedy = self._greedy_if_due()
        found += [] if greedy is None else [greedy]
        for _, episode in self._elites[: self.config.revised]:
            found += self._neighbours(episode)
        found += [(*begun, end) for end in self._remembered if not self._pool.seen(end)]
        return self._keyed(found)

    @cached_property
    def _remembered(self) -> list[Architecture]:
        """The networks of a small space that the memory expects most of, within the budgets; none of a large one."""
        sizes = self._network.sizes
        if self._recall is None or math.prod(sizes) > ENUMERABLE:
            return []
        every = [Architecture(tuple(map(int, picks))) for picks in np.ndindex(*sizes)]
        fitting = [architecture for architecture in every if self._bench.fits(architecture)]
        parts = [fitting[start : start + 1000] for start in range(0, len(fitting), 1000)]
        expected = np.concatenate([self._recall.mean(part) for part in parts])
        best = [fitting[index] for index in np.argsort(-expected, kind="stable")]
        kept = {
            self._bench.key(architecture): architecture for architecture in reversed(best[: 4 * self.config.proposals])
        }
        return list(reversed(kept.values()))[: self.config.proposals]

    def _neighbours(self, episode: Episode) -> Iterator[Episode]:
        return self._drawing.neighbours(episode, self.config.trades, self._generator)

    def _keyed(self, episodes: Iterable[Episode]) -> dict[Hashable, Episode]:
        return {self._bench.key(episode[-1]): episode for episode in episodes}

    def _expected(self, proposals: Mapping[Hashable, Episode]) -> dict[Hashable, float]:
        """The improvement that the critic expects of each proposal."""
        if not proposals:
            return {}
        ends = [episode[-1] for episode in proposals.values()]
        candidates = self._pool.candidates
        judged = [candidate.architecture for candidate in candidates]
        teacher = max(LEAST_TEACHER, self._bench.teacher_robust)
        shares = [candidate.score.robust / teacher for candidate in candidates]
        improvement = self._critic.improvement(ends, judged, shares, self._terms)
        return dict(zip(proposals, improvement.tolist(), strict=True))

    # learning

    def _reward(self, candidate: Candidate) -> float:
        factor, offset = self._terms(candidate.architecture)
        return factor * candidate.score.robust / max(LEAST_TEACHER, self._bench.teacher_robust) + offset

    def _terms(self, architecture: Architecture) -> tuple[float, float]:
        return reward_terms(self.config.reward, self._bench.ratios(architecture), self._bench.teacher_ratios)

    def _learn(self, episodes: Sequence[Episode], rewards: Sequence[float]) -> None:
        """One REINFORCE update on the fresh episodes, with the best earlier ones imitated beside them."""
        config = self.config
        mean = sum(rewards) / len(rewards)
        baseline = mean if self._baseline is None else self._baseline
        weights = [(each - baseline) / len(rewards) for each in rewards]
        # as the baseline nears the elites they lose their pull, and the entropy bonus opens the policy again
        weights += [config.replay_weight * max(0.0, each - baseline) / len(self._elites) for each, _ in self._elites]
        replayed = [*episodes, *(episode for _, episode in self._elites)]

        starts = [architecture for episode in replayed for architecture in (self._bench.start, *episode[:-1])]
        steps = list(range(config.steps)) * len(replayed)
        picks = self._observer.one_hot([architecture for episode in replayed for architecture in episode])
        allowed = torch.from_numpy(np.stack([mask for episode in replayed for mask in self._drawing.masks(episode)]))
        discounts = [config.discount ** (config.steps - 1 - step) for step in range(config.steps)]
        credit = torch.tensor([weight * discount for weight in weights for discount in discounts])
        # (episodes x steps, options of all genes)
        log_probabilities = self._network.log_probabilities(self._observer(starts, steps), picks, allowed)
        fresh = log_probabilities[: len(episodes) * config.steps]
        entropy = -(fresh.exp() * fresh).sum(dim=1).mean()
        loss = -(credit * (log_probabilities * picks).sum(dim=1)).sum() - config.entropy * entropy
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()

        self._baseline = baseline + config.baseline_rate * (mean - baseline)
        self._updates += 1
        ranked = sorted([*self._elites, *zip(rewards, episodes, strict=True)], key=lambda pair: -pair[0])
        self._elites = ranked[: config.replay]

    # state

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, baseline, elites, everything judged, and the generator."""
        moments = self._optimiser.state_dict()["state"]
        return {
            **identity(self.name, self.config),
            "pool": self._pool.state_dict(),
            "sampler": self._drawing.sampler.state_dict(),
            "generator": generator_state(self._generator),
            "weights": {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()},
            "memory": None if self._memory is None else self._memory.to_tensors(),
            "moments": {
                str(index): {name: tensor.detach().clone() for name, tensor in values.items()}
                for index, values in moments.items()
            },
            "baseline": self._baseline,
            "updates": self._updates,
            "elites": [
                {"reward": each, "picks": [list(architecture.picks) for architecture in episode]}
                for each, episode in self._elites
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; InputError for the state of another search."""
        require_own(state, self.name, self.config)
        self._pool.load_state_dict(state["pool"])
        self._drawing.sampler.load_state_dict(state["sampler"])
        restore_generator(self._generator, state["generator"])
        self._remember(None if state["memory"] is None else Memory.from_tensors(state["memory"]))
        self._load(state["weights"])
        moments = {int(index): dict(values) for index, values in state["moments"].items()}
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self._baseline = state["baseline"]
        self._updates = int(state["updates"])
        self._elites = [
            (float(elite["reward"]), tuple(Architecture(tuple(map(int, picks))) for picks in elite["picks"]))
            for elite in state["elites"]
        ]

    def adopt(self, agent: Mapping[str, torch.Tensor]) -> None:
        """Begin with the policy of another search (`weights` in its state) and with what the agent remembers.

        An agent is the weights with its memory's tensors (`Memory.to_tensors`) beside them. The space has genes of the
        same shape, InputError otherwise.
        """
        memory = Memory.from_tensors(agent)
        self._load({name: tensor for name, tensor in agent.items() if not name.startswith(PREFIX)})
        self._remember(memory)

    def _remember(self, memory: Memory | None) -> None:
        self._memory = memory if memory is None or len(memory) else None
        self._recall = None if self._memory is None else Recall(self._memory, self._bench)
        self._critic = Critic(self._bench, self._recall)
        self.__dict__.pop("_remembered", None)

    def _load(self, weights: Mapping[str, torch.Tensor]) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in self._network.state_dict().items()}
        given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if given != shapes:
            wrong = sorted(name for name in {*given, *shapes} if given.get(name) != shapes.get(name))
            raise InputError(
                f"a policy is taken over between spaces with genes of equal shape, {', '.join(wrong)} differ: "
                "search from scratch here"
            )
        self._network.load_state_dict(dict(weights))
