"""The critic of RC-NAS: its expectations against a second Gaussian process, and what it changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from search_doubles import CountingJudge, ToyBench
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel

from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.critic import NOISE, Critic, expected_excess
from rcnas_edge.search.kernel import COST_LENGTH, COST_SHARE, PICKS_LENGTH
from rcnas_edge.search.memory import Memory, Recall
from rcnas_edge.search.policy import PolicyConfig, PolicySearch
from rcnas_edge.space import Architecture, Gene

GENERATOR = np.random.default_rng(0)
BENCH = CachedBench(ToyBench(("macs", 0.7), ("params", 0.8)))


def drawn(count: int) -> list[Architecture]:
    sizes = [len(gene.options) for gene in BENCH.space.genes]
    found = {tuple(int(GENERATOR.integers(size)) for size in sizes) for _ in range(4 * count)}
    return [Architecture(picks) for picks in sorted(found)[:count]]


class Alike(Kernel):
    """The documented kernel, written once more: architectures by their index."""

    def __init__(self, everyone: Sequence[Architecture]) -> None:
        self.everyone = everyone

    def __call__(self, X, Y=None, eval_gradient=False):  # type: ignore[no-untyped-def]
        return np.array([[self._of(int(a[0]), int(b[0])) for b in (X if Y is None else Y)] for a in X])

    def _of(self, a: int, b: int) -> float:
        one, other = self.everyone[a], self.everyone[b]
        apart = 0.0
        for gene, left, right in zip(BENCH.space.genes, one.picks, other.picks, strict=True):
            # ratios are in order, a stride and a flag have two options
            apart += abs(left - right) / 3 if len(gene.options) == 4 else float(left != right)
        logs = [np.log(BENCH.ratios(each)) for each in (one, other)]
        squares = float(((logs[0] - logs[1]) ** 2).mean())
        by_cost = math.exp(-squares / (2 * COST_LENGTH**2))
        return (1 - COST_SHARE) * math.exp(-apart / PICKS_LENGTH) + COST_SHARE * by_cost

    def diag(self, X):  # type: ignore[no-untyped-def]
        return np.ones(len(X))

    def is_stationary(self) -> bool:
        return False


def test_the_expected_improvement_is_that_of_a_gaussian_process() -> None:
    everyone = drawn(30)
    judged, proposals = everyone[:12], everyone[12:]
    rewards = GENERATOR.normal(0.7, 0.1, len(judged))
    process = GaussianProcessRegressor(Alike(everyone), alpha=NOISE, optimizer=None)
    process.fit(np.arange(12)[:, None], (rewards - rewards.mean()) / rewards.std())
    mean, deviation = process.predict(np.arange(12, 30)[:, None], return_std=True)
    mean, deviation = rewards.mean() + rewards.std() * mean, rewards.std() * deviation
    expected = []
    for m, s in zip(mean, deviation, strict=True):
        reward = np.linspace(m - 8 * s, m + 8 * s, 20001)
        density = np.exp(-0.5 * ((reward - m) / s) ** 2) / (s * math.sqrt(2 * math.pi))
        expected.append(np.trapezoid(np.maximum(0.0, reward - rewards.max()) * density, reward))
    found = Critic(BENCH).improvement(proposals, judged, rewards)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)


def test_a_memory_ranks_while_nothing_is_judged_and_leads_what_is_expected() -> None:
    everyone = drawn(60)
    truth = {one: 0.2 + 0.05 * sum(one.picks) / 16 + 0.02 * one.picks[2] for one in everyone}
    recall = Recall(Memory.of([("other", BENCH, dict(list(truth.items())[::2]))]), BENCH)
    critic, asked = Critic(BENCH, recall), everyone[1::2]
    np.testing.assert_array_equal(critic.improvement(asked, [], []), recall.cautious(asked))
    # the new task is 0.3 harder and orders alike: what was never judged in either is ranked by the other task
    judged, proposals = asked[:6], asked[6:]
    found = critic.improvement(proposals, judged, [2.0 * truth[one] - 0.3 for one in judged])
    best = max(proposals, key=truth.__getitem__)
    assert best in [proposals[place] for place in np.argsort(found)[-3:]]


def test_a_sure_gain_is_expected_in_full_and_a_sure_loss_not_at_all() -> None:
    found = expected_excess(np.array([0.5, -0.5]), np.array([1e-3, 1e-3]))
    np.testing.assert_allclose(found, [0.5, 0.0], atol=1e-9)
    assert expected_excess(np.array([0.0]), np.array([2.0]))[0] == pytest.approx(2.0 / math.sqrt(2 * math.pi))


def test_numbers_in_order_are_near_words_and_flags_are_not() -> None:
    bench = ToyBench()
    bench.space.genes = (Gene("a", (1.0, 0.8, 0.6)), Gene("b", ("x", "y", "z")), Gene("c", (3, 1, 2)))
    bench.space.deployed = lambda architecture: architecture.picks
    bench.cost = lambda architecture: ToyBench().teacher_cost
    kernel, critic = {}, Critic(CachedBench(bench))
    start = critic._features([Architecture((0, 0, 0))])
    for picks in ((1, 0, 0), (2, 0, 0), (0, 1, 0), (0, 0, 1)):
        kernel[picks] = float(critic._kernel(start, critic._features([Architecture(picks)]))[0, 0])
    assert kernel[1, 0, 0] > kernel[2, 0, 0] == kernel[0, 1, 0] == kernel[0, 0, 1]


def test_the_critic_saves_judgements() -> None:
    """To the best network of the toy within its budget: the median of seven seeds, with and without the critic."""
    bench = ToyBench(("macs", 0.7))
    sizes = [range(len(gene.options)) for gene in bench.space.genes]
    every = [Architecture(picks) for picks in np.ndindex(*[len(size) for size in sizes])]
    judge = CountingJudge(bench.space)
    best = max(judge(one).robust for one in every if bench.fits(one))

    def needed(seed: int, *, critic: bool) -> int:
        search = PolicySearch(bench, CountingJudge(bench.space), PolicyConfig(seed=seed, critic=critic))
        scores: list[float] = []
        while max(scores, default=0.0) < best - 1e-9:
            scores += [candidate.score.robust for candidate in search.step()]
        return len(scores)

    with_it, without = ([needed(seed, critic=critic) for seed in range(7)] for critic in (True, False))
    assert np.median(with_it) < 0.6 * np.median(without)
