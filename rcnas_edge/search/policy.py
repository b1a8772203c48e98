"""RC-NAS: a policy that compresses the teacher stage by stage, learnt by REINFORCE.

"Reinforced Compressive Neural Architecture Search for Versatile Adversarial Robustness", KDD 2024 (arXiv 2406.06792).
From the paper: the stage-wise encoder, one policy head per stage, several steps per episode, vanilla policy gradient
(`encoder`, `observe`). Its algorithms and hyper-parameters are not published; ours are, all of them in this file:
an episode is three revisions of the whole network that start at the teacher, and the last one is judged; its picks are
masked to the budgets and never a network that was judged (`sampling`), while the first two may overshoot, since the
policy sees their cost; batches of two against an exponential baseline; an entropy bonus; epsilon exploration; the best
five episodes are imitated in every update; the greedy decode, repaired by `derive`, takes a place in every fifth batch.
The log-probability that is learnt from is that of the policy under the budget masks: neither epsilon nor the networks
left out because they were judged are in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from rcnas_edge.cost import QUANTITIES
from rcnas_edge.errors import InputError
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.derive import derive
from rcnas_edge.search.encoder import PolicyNetwork
from rcnas_edge.search.observe import Observer
from rcnas_edge.search.pool import Pool
from rcnas_edge.search.protocol import Bench, Candidate, Judge, MapJudge, map_judge
from rcnas_edge.search.resume import identity, require_own
from rcnas_edge.search.reward import compression, reward
from rcnas_edge.search.sampling import Prefix, Sampler, draw_pick, generator_state, restore_generator
from rcnas_edge.space import Architecture

Episode = tuple[Architecture, ...]
"""The architecture after each step; the last one is judged."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Hyper-parameters of `PolicySearch`, all ours; accuracies enter the reward as shares of the teacher's."""

    seed: int = 0
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

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "greedy_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        for name in ("baseline_rate", "discount", "epsilon"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is in [0, 1], got {getattr(self, name)}")
        for name in ("learning_rate", "entropy", "replay", "replay_weight"):
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
        self._sampler = Sampler(self._bench)
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
        self._offsets = np.cumsum([0, *self._network.sizes])
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
        """The best k judged networks within the budgets. The greedy decode is among them only once it was judged."""
        return self._pool.best(k)

    # episodes

    @torch.no_grad()
    def _episodes(self) -> list[Episode]:
        """Up to `batch` episodes that end in different networks, none judged before."""
        greedy = self._greedy() if self._updates % self.config.greedy_every == self.config.greedy_every - 1 else None
        episodes = [] if greedy is None else [greedy]
        links = self._network.link_weights().numpy()
        drawn: list[list[Architecture]] = [[] for _ in range(self.config.batch - len(episodes))]
        current = [self._bench.start] * len(drawn)
        for step in range(self.config.steps - 1):
            logits = self._network.logits(self._observer(current, [step] * len(current))).numpy() if drawn else ()
            current = [self._revise(self._weights(row, links)) for row in logits]
            for episode, architecture in zip(drawn, current, strict=True):
                episode.append(architecture)
        if drawn:
            logits = self._network.logits(self._observer(current, [self.config.steps - 1] * len(current))).numpy()
            for episode, row in zip(drawn, logits, strict=True):
                last = self._finish(self._weights(row, links), {self._bench.key(one[-1]) for one in episodes})
                if last is None:
                    break
                episodes.append((*episode, last))
        return episodes

    def _revise(self, weigh: Callable[[Prefix, np.ndarray], np.ndarray]) -> Architecture:
        """A step before the last: any architecture of the space, within the budgets or not."""
        prefix: Prefix = ()
        for size in self._network.sizes:
            every = np.ones(size, dtype=bool)
            prefix = (*prefix, draw_pick(weigh(prefix, every), every, self._generator))
        return Architecture(prefix)

    def _finish(self, weigh: Callable[[Prefix, np.ndarray], np.ndarray], taken: set[Any]) -> Architecture | None:
        """The last step: within the budgets and a new network, or None if there is none left."""
        return self._sampler.draw(
            lambda prefix: weigh(prefix, self._sampler.allowed(prefix)),
            lambda architecture: self._pool.seen(architecture) or self._bench.key(architecture) in taken,
            self._generator,
        )

    def _weights(self, logits: np.ndarray, links: np.ndarray) -> Callable[[Prefix, np.ndarray], np.ndarray]:
        """From logits (options of all genes,) to the weights of a gene's picks, epsilon of them even."""

        def weigh(prefix: Prefix, allowed: np.ndarray) -> np.ndarray:
            gene = self._linked(logits, links, prefix)
            shares = np.exp(np.where(allowed, gene - gene[allowed].max(), -np.inf))
            epsilon = self.config.epsilon
            return (1.0 - epsilon) * shares / shares.sum() + epsilon * allowed / allowed.sum()

        return weigh

    def _linked(self, logits: np.ndarray, links: np.ndarray, prefix: Prefix) -> np.ndarray:
        """Logits (options,) of the gene after the prefix, with what the picks of the prefix add."""
        columns = slice(self._offsets[len(prefix)], self._offsets[len(prefix) + 1])
        rows = [offset + pick for offset, pick in zip(self._offsets, prefix, strict=False)]
        return logits[columns] + links[rows, columns].sum(axis=0)

    @torch.no_grad()
    def _greedy(self) -> Episode | None:
        """The likeliest picks at every step, the last repaired by `derive`; None if that network was judged."""
        links = self._network.link_weights().numpy()
        episode: list[Architecture] = []
        values: list[list[float]] = []
        for step in range(self.config.steps):
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
        # the masks are conservative: what they cannot reach could not be learnt from either
        reachable = all(
            self._sampler.allowed(episode[-1].picks[:place])[pick] for place, pick in enumerate(episode[-1].picks)
        )
        return tuple(episode) if reachable and not self._pool.seen(episode[-1]) else None

    # learning

    def _reward(self, candidate: Candidate) -> float:
        compressed = compression(self._bench.ratios(candidate.architecture), self._bench.teacher_ratios)
        return reward(candidate.score.robust, self._bench.teacher_robust, compressed)

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
        allowed = torch.from_numpy(np.stack([mask for episode in replayed for mask in self._masks(episode)]))
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

    def _masks(self, episode: Episode) -> list[np.ndarray]:
        """Which picks (options of all genes,) were allowed at each step."""
        picks = episode[-1].picks
        last = np.concatenate([self._sampler.allowed(picks[:place]) for place in range(len(picks))])
        return [np.ones_like(last)] * (len(episode) - 1) + [last]

    # state

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, baseline, elites, everything judged, and the generator."""
        moments = self._optimiser.state_dict()["state"]
        return {
            **identity(self.name, self.config),
            "pool": self._pool.state_dict(),
            "sampler": self._sampler.state_dict(),
            "generator": generator_state(self._generator),
            "weights": {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()},
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
        self._sampler.load_state_dict(state["sampler"])
        restore_generator(self._generator, state["generator"])
        self.adopt(state["weights"])
        moments = {int(index): dict(values) for index, values in state["moments"].items()}
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self._baseline = state["baseline"]
        self._updates = int(state["updates"])
        self._elites = [
            (float(elite["reward"]), tuple(Architecture(tuple(map(int, picks))) for picks in elite["picks"]))
            for elite in state["elites"]
        ]

    def adopt(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over the policy of another search (`weights` in its state): the space has genes of the same shape."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self._network.state_dict().items()}
        given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if given != shapes:
            wrong = sorted(name for name in {*given, *shapes} if given.get(name) != shapes.get(name))
            raise InputError(
                f"a policy is taken over between spaces with genes of equal shape, {', '.join(wrong)} differ: "
                "search from scratch here"
            )
        self._network.load_state_dict(dict(weights))
