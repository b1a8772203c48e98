"""RC-NAS: what the encoder sees, what the policy learns, and the reward."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from search_doubles import CountingJudge, ToyBench

from rcnas_edge.cost import QUANTITIES, Cost
from rcnas_edge.errors import InputError
from rcnas_edge.search import strategy
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.encoder import PolicyNetwork
from rcnas_edge.search.memory import Memory
from rcnas_edge.search.observe import Observer
from rcnas_edge.search.policy import PolicyConfig, PolicySearch
from rcnas_edge.search.random_search import RandomConfig, RandomSearch
from rcnas_edge.search.reward import compression, reward, reward_of
from rcnas_edge.space import Architecture, Gene

LIMITS = (("macs", 0.7), ("params", 0.8))


def network(bench: CachedBench, observer: Observer, seed: int = 0) -> PolicyNetwork:
    return PolicyNetwork.fresh(
        bench.space.genes,
        observer.stages,
        features=observer.features,
        costs=len(QUANTITIES),
        generator=torch.Generator().manual_seed(seed),
    )


def test_a_state_holds_stem_depth_width_flag_position_step_task_lips_and_costs() -> None:
    bench = ToyBench(*LIMITS)
    bench.features = lambda architecture: math.e - 1.0
    cached = CachedBench(bench)
    state = Observer(cached, steps=4)([Architecture((1, 2, 3, 1, 0, 1))], [3])
    end = [0.75, 0.3, -1.0]
    expected = [
        [1.0, 1.0, 0.0, 0.0, 0.0, *end],  # the stem's own row: stride 2 of 2
        [1.0, 0.6, 0.4, 1.0, 0.5, *end],
        [1.0, 1.0, 0.8, 0.0, 1.0, *end],
    ]
    torch.testing.assert_close(state.stages, torch.tensor([expected]))
    torch.testing.assert_close(state.lips, torch.tensor([[1.0]]))
    cost = bench.cost(Architecture((1, 2, 3, 1, 0, 1)))
    ratios = {"macs": cost.macs / (0.7 * 4500), "params": cost.params / (0.8 * 4000)}
    logs = [math.log(ratios[quantity]) if quantity in ratios else 0.0 for quantity in QUANTITIES]
    torch.testing.assert_close(state.cost, torch.tensor([logs]))


def test_genes_without_a_group_are_stages_and_words_are_one_hot() -> None:
    bench = ToyBench(("macs", 0.9))
    bench.space.genes = (Gene("edge0", ("none", "conv")), Gene("edge1", (16, 32)))
    bench.space.deployed = lambda architecture: architecture.picks
    bench.cost = lambda architecture: Cost(macs=1, params=1, size=1, memory=1)
    observer = Observer(CachedBench(bench), steps=1)
    assert observer.stages == ((0,), (1,))
    rows = observer([Architecture((1, 0))], [0]).stages[0, :, :3]
    torch.testing.assert_close(rows, torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 1.0]]))


def test_an_episode_starts_at_the_teacher() -> None:
    bench = ToyBench(*LIMITS)
    assert CachedBench(bench).start == Architecture((0,) * 6)  # the costliest, its flag down
    bench.start = Architecture((0, 0, 0, 1, 0, 0))
    assert CachedBench(bench).start == bench.start


def test_a_fresh_policy_is_even_over_what_is_allowed_and_links_reach_later_genes_only() -> None:
    bench = CachedBench(ToyBench(*LIMITS))
    observer = Observer(bench, steps=3)
    policy = network(bench, observer)
    state = observer([Architecture((0,) * 6)], [0])
    picks = observer.one_hot([Architecture((0, 1, 2, 0, 3, 1))])
    allowed = torch.ones(1, 20, dtype=torch.bool)
    allowed[0, 2:4] = False
    even = policy.log_probabilities(state, picks, allowed).exp().detach()[0]
    torch.testing.assert_close(even[:10], torch.tensor([0.5, 0.5, 0.0, 0.0, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]))
    with torch.no_grad():
        policy.links.normal_(generator=torch.Generator().manual_seed(0))
    changed = observer.one_hot([Architecture((0, 1, 3, 0, 3, 1))])  # stage1.width, options 6 to 9
    before = policy.log_probabilities(state, picks, torch.ones_like(allowed))
    after = policy.log_probabilities(state, changed, torch.ones_like(allowed))
    torch.testing.assert_close(before[:, :10], after[:, :10], rtol=0, atol=0)
    assert (before[:, 10:] - after[:, 10:]).abs().min() > 0


def test_every_stage_sees_the_stages_on_both_sides() -> None:
    bench = CachedBench(ToyBench(*LIMITS))
    observer = Observer(bench, steps=3)
    policy = network(bench, observer)
    state = observer([Architecture((0,) * 6)], [0])
    state.stages.requires_grad_(True)
    for encoded in policy.encoder(state):
        (gradient,) = torch.autograd.grad(encoded.sum(), state.stages, retain_graph=True)
        assert gradient[0].abs().sum(dim=1).min() > 0


def test_an_update_makes_a_good_episode_likelier_and_a_bad_one_less() -> None:
    bench = ToyBench(*LIMITS)
    search = PolicySearch(bench, CountingJudge(bench.space), PolicyConfig(entropy=0.0, replay=0))
    good = (Architecture((1, 3, 3, 0, 3, 3)),) * 3
    bad = (Architecture((1, 2, 2, 1, 2, 2)),) * 3

    def likelihood(episode: tuple[Architecture, ...]) -> float:
        picks = search._observer.one_hot(episode)
        starts = [search._bench.start, *episode[:-1]]
        masks = torch.from_numpy(np.stack(search._drawing.masks(episode)))
        with torch.no_grad():
            logs = search._network.log_probabilities(search._observer(starts, [0, 1, 2]), picks, masks)
        return float((logs * picks).sum())

    before = likelihood(good), likelihood(bad)
    search._learn([good, bad], [1.0, 0.2])
    assert likelihood(good) > before[0]
    assert likelihood(bad) < before[1]


def test_the_baseline_moves_exponentially_and_the_best_episodes_are_kept() -> None:
    bench = ToyBench(*LIMITS)
    search = PolicySearch(bench, CountingJudge(bench.space), PolicyConfig(baseline_rate=0.25, replay=2))
    episode = (Architecture((1, 3, 3, 0, 3, 3)),) * 3
    for rewards in ([0.4, 0.8], [1.0, 0.2], [0.0, 0.0]):
        search._learn([episode, episode], rewards)
    # 0.6, then 0.6 + 0.25 x 0, then 0.6 - 0.25 x 0.6
    assert search._baseline == pytest.approx(0.45)
    assert [each for each, _ in search._elites] == [1.0, 0.8]


def test_the_policy_judges_better_networks_than_chance_does() -> None:
    bench = ToyBench(("macs", 0.8))
    alone = PolicyConfig(critic=False)

    def mean(search: Any) -> float:
        for _ in range(5):  # what it learns from
            search.step()
        scores = [candidate.score.robust for _ in range(15) for candidate in search.step()]
        return sum(scores) / len(scores)

    gains = [
        mean(PolicySearch(bench, CountingJudge(bench.space), replace(alone, seed=seed)))
        - mean(RandomSearch(bench, CountingJudge(bench.space), RandomConfig(seed=seed)))
        for seed in range(4)
    ]
    assert sum(gains) / len(gains) > 0.01


def test_the_greedy_decode_takes_its_place_once_and_fits() -> None:
    bench = ToyBench(*LIMITS)
    search = PolicySearch(bench, CountingJudge(bench.space), PolicyConfig(greedy_every=1, critic=False))
    greedy = search._drawing.greedy()
    assert greedy is not None
    assert len(greedy) == 3
    first = search.step()
    assert first[0].architecture == greedy[-1]
    assert first[0].feasible


def remembered(bench: ToyBench, rule: Any, count: int = 40) -> Memory:
    """What a rule says of random networks in another task."""
    generator = np.random.default_rng(0)
    sizes = [len(gene.options) for gene in bench.space.genes]
    drawn = {Architecture(tuple(int(generator.integers(size)) for size in sizes)) for _ in range(count)}
    return Memory.of([("another judge", CachedBench(bench), {one: rule(one) for one in sorted(drawn)})])


def with_memory(bench: ToyBench, memory: Memory, seed: int) -> PolicySearch:
    search = PolicySearch(bench, CountingJudge(bench.space), PolicyConfig(seed=seed))
    search.adopt({**search.state_dict()["weights"], **memory.to_tensors()})
    return search


def test_a_memory_of_a_like_task_finds_the_best_network_at_once() -> None:
    bench = ToyBench(("macs", 0.8))
    like = remembered(bench, lambda one: 0.5 * CountingJudge(bench.space)(one).robust + 0.1, count=120)
    for seed in range(3):
        first = with_memory(bench, like, seed).step()
        assert max(candidate.score.robust for candidate in first) > 0.4 - 0.011


def test_a_misleading_memory_chooses_the_first_networks_and_is_corrected_by_what_is_judged() -> None:
    bench = ToyBench(("macs", 0.8))
    # it likes a narrow stage 2, which costs 0.09 of accuracy; the best network within the budget has 0.4
    search = with_memory(bench, remembered(bench, lambda one: 0.1 + 0.15 * (one.picks[5] == 3)), 3)
    first = search.step()
    assert all(candidate.architecture.picks[5] == 3 for candidate in first)
    scores = [candidate.score.robust for _ in range(15) for candidate in search.step()]
    assert max(scores) == pytest.approx(0.4)


def test_what_was_adopted_is_part_of_the_state() -> None:
    bench = ToyBench(*LIMITS)
    memory = remembered(bench, lambda one: CountingJudge(bench.space)(one).robust)
    search = with_memory(bench, memory, 2)
    for _ in range(3):
        search.step()
    resumed = PolicySearch(bench, CountingJudge(bench.space), PolicyConfig(seed=2))
    resumed.load_state_dict(search.state_dict())
    for _ in range(3):
        assert [one.architecture for one in resumed.step()] == [one.architecture for one in search.step()]


def test_a_policy_is_taken_over_between_spaces_of_equal_shape() -> None:
    bench = ToyBench(*LIMITS)
    taught = PolicySearch(bench, CountingJudge(bench.space), PolicyConfig(seed=1))
    for _ in range(5):
        taught.step()
    weights = taught.state_dict()["weights"]
    other = PolicySearch(ToyBench(("macs", 0.6)), CountingJudge(bench.space), PolicyConfig(seed=2))
    other.adopt(weights)
    torch.testing.assert_close(other.state_dict()["weights"], weights)
    with pytest.raises(InputError, match="genes of equal shape"):
        other.adopt({name: tensor for name, tensor in weights.items() if name != "links"})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch": 0}, "batch is at least 1"),
        ({"epsilon": 1.5}, r"epsilon is in \[0, 1\]"),
        ({"entropy": -1}, "entropy"),
    ],
)
def test_a_configuration_checks_itself(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PolicyConfig(**wrong)


def test_the_reward_is_flat_within_the_budgets_and_falls_beyond_the_binding_one() -> None:
    bench = ToyBench(("macs", 0.5), ("params", 0.25))
    teacher = [budget.ratio(Cost(macs=4500, params=4000, size=1, memory=1)) for budget in bench.budgets]
    assert teacher == [2.0, 4.0]

    def compressed(macs: int, params: int) -> float:
        cost = Cost(macs=macs, params=params, size=1, memory=1)
        return compression([budget.ratio(cost) for budget in bench.budgets], teacher)

    assert compressed(2250, 1000) == compressed(100, 10) == 1.0
    # (1 - 3375 / 4500) / (1 - 0.5) = 0.5 for MACs, (1 - 1600 / 4000) / (1 - 0.25) = 0.8 for parameters
    assert compressed(3375, 1600) == pytest.approx(0.5)
    assert compressed(4500, 4000) == 0.0
    assert compression((), ()) == 1.0
    assert reward(0.3, 0.5, 0.5) == pytest.approx(0.6 * 0.75)
    assert reward(0.3, 0.5, 1.0) == pytest.approx(0.6)


def test_the_other_rewards_are_n2n_s_and_a_linear_penalty() -> None:
    # cost / limit 0.5 and 0.9; the teacher's 2 and 3: the shares of the teacher are 0.25 and 0.3, C = 0.7
    ratios, teacher = [0.5, 0.9], [2.0, 3.0]
    assert reward_of("budget", 0.3, 0.5, ratios, teacher) == pytest.approx(0.6)
    assert reward_of("n2n", 0.3, 0.5, ratios, teacher) == pytest.approx(0.6 * 0.7 * 1.3)
    assert reward_of("linear", 0.3, 0.5, ratios, teacher) == pytest.approx(0.6 - 0.2 * 0.9)
    for kind in ("budget", "n2n", "linear"):
        assert reward_of(kind, 0.3, 0.5, [], []) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="one of budget, n2n, linear"):
        reward_of("best", 0.3, 0.5, ratios, teacher)


def test_with_n2n_s_reward_a_search_finds_the_smallest_of_equals() -> None:
    bench = ToyBench(("macs", 0.7))
    search = PolicySearch(bench, CountingJudge(bench.space, rule=lambda key: 0.3), PolicyConfig(reward="n2n", seed=1))
    for _ in range(8):
        search.step()
    assert bench.cost(search.recommend()[0]).macs == bench.cost(CachedBench(bench).cheapest).macs


def test_what_is_recommended_has_the_highest_reward() -> None:
    """The judge likes large networks a little better; N2N's reward pays more for compressing."""
    bench = ToyBench(("macs", 0.7))
    judge = CountingJudge(bench.space, rule=lambda key: 0.3 + 0.001 * sum(key[1:]))
    spent = {}
    for kind in ("budget", "n2n"):
        search = PolicySearch(bench, judge, PolicyConfig(reward=kind, seed=1))
        for _ in range(12):
            search.step()
        spent[kind] = bench.cost(search.recommend()[0]).macs
        rewards = [search._reward(candidate) for candidate in search._pool.candidates]
        best = next(one for one in search._pool.candidates if one.architecture == search.recommend()[0])
        assert search._reward(best) == pytest.approx(max(rewards))
    assert spent["n2n"] < spent["budget"]


def test_only_a_search_that_learns_takes_a_reward() -> None:
    bench = ToyBench(*LIMITS)
    with pytest.raises(InputError, match="random has no reward"):
        strategy("random", bench, CountingJudge(bench.space), reward="n2n")
    with pytest.raises(InputError, match="--reward is one of"):
        strategy("rc-nas", bench, CountingJudge(bench.space), reward="best")
    search = strategy("rc-nas", bench, CountingJudge(bench.space), reward="linear")
    assert search.config.reward == "linear"


def test_a_teacher_within_the_budget_or_unknown_leaves_nothing_to_compress() -> None:
    for teacher in (1.0, 0.7, None):
        assert compression([1.0], [teacher]) == 1.0
        assert compression([2.0], [teacher]) == 0.0


def test_the_search_itself_costs_less_than_30_ms_of_processor_per_evaluation() -> None:
    bench = ToyBench(*LIMITS)
    search = PolicySearch(bench, CountingJudge(bench.space))
    search.step()
    started = time.process_time()
    evaluations = sum(len(search.step()) for _ in range(20))
    assert (time.process_time() - started) / evaluations < 0.03
