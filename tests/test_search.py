"""The contract that every registered strategy keeps, and the parts they share."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from search_doubles import CountingJudge, TableBench, ToyBench, TwoDevices, table

from rcnas_edge import search
from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.search import STRATEGIES, register, strategy, strategy_class
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.derive import derive
from rcnas_edge.search.pool import Pool
from rcnas_edge.search.protocol import Candidate, Score, map_judge
from rcnas_edge.search.sampling import Sampler, draw_pick, generator_state, restore_generator
from rcnas_edge.search.scaling import ScalingSearch
from rcnas_edge.space import Architecture

EVERY = sorted(STRATEGIES)
DRAWN = [name for name in EVERY if not issubclass(STRATEGIES[name], ScalingSearch)]
"""Strategies that draw what they judge, and reach every network; the others walk a line through the space."""
LIMITS = (("macs", 0.7), ("params", 0.8))
NOTHING_FITS = (("macs", 0.1),)


def through_disk(state: Any) -> Any:
    """A state as it comes back from JSON and safetensors."""
    tensors: dict[str, torch.Tensor] = {}

    def strip(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value), path
            return {key: strip(item, f"{path}/{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [strip(item, f"{path}/{index}") for index, item in enumerate(value)]
        if isinstance(value, torch.Tensor):
            tensors[path] = value.contiguous()
            return {"at": path}
        return value

    text, blob = json.dumps(strip(state, "")), save(tensors)
    loaded = load(blob)

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return loaded[value["at"]] if set(value) == {"at"} else {key: restore(item) for key, item in value.items()}
        return [restore(item) for item in value] if isinstance(value, list) else value

    return restore(json.loads(text))


def run(built: Any, steps: int) -> list[Candidate]:
    return [candidate for _ in range(steps) for candidate in built.step()]


def picks(candidates: Sequence[Candidate]) -> list[tuple[int, ...]]:
    return [candidate.architecture.picks for candidate in candidates]


# the contract


@pytest.mark.parametrize("name", EVERY)
def test_a_recommendation_was_judged_fits_and_comes_best_first(name: str) -> None:
    bench = ToyBench(*LIMITS)
    judge = CountingJudge(bench.space)
    built = strategy(name, bench, judge, seed=3)
    with pytest.raises(BudgetError, match="take more steps"):
        built.recommend()
    candidates = run(built, 8)
    scores = {bench.space.deployed(one.architecture): one.score.robust for one in candidates if one.feasible}
    order = built.recommend(5)
    keys = [bench.space.deployed(architecture) for architecture in order]
    assert len(set(keys)) == len(keys) == min(5, len(scores)) > 0
    assert len(scores) == 16 or name not in DRAWN
    assert all(bench.fits(architecture) for architecture in order)
    assert [scores[key] for key in keys] == sorted(scores.values(), reverse=True)[:5]
    assert len(built.recommend(10_000)) == len(scores)


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_candidates_and_the_global_generators_rest(name: str) -> None:
    bench = ToyBench(*LIMITS)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    first = picks(run(strategy(name, bench, CountingJudge(bench.space), seed=5), 8))
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    torch.manual_seed(2)
    assert picks(run(strategy(name, bench, CountingJudge(bench.space), seed=5), 8)) == first
    another = picks(run(strategy(name, bench, CountingJudge(bench.space), seed=6), 8))
    assert (another != first) == (name in DRAWN)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("at", [0, 1, 9])
def test_a_resumed_run_equals_the_unbroken_one(name: str, at: int) -> None:
    bench = ToyBench(*LIMITS)
    unbroken = strategy(name, bench, CountingJudge(bench.space), seed=7)
    whole = picks(run(unbroken, 16))
    broken = strategy(name, bench, CountingJudge(bench.space), seed=7)
    begun = picks(run(broken, at))
    state = through_disk(broken.state_dict())
    run(broken, 2)  # a state is a copy: what happens afterwards does not reach it
    resumed = strategy(name, ToyBench(*LIMITS), CountingJudge(bench.space), seed=7)
    resumed.load_state_dict(state)
    assert begun + picks(run(resumed, 16 - at)) == whole
    assert resumed.recommend(5) == unbroken.recommend(5)
    ours, theirs = through_disk(resumed.state_dict()), through_disk(unbroken.state_dict())
    torch.testing.assert_close(ours.pop("weights", {}), theirs.pop("weights", {}), rtol=0, atol=0)
    torch.testing.assert_close(ours.pop("moments", {}), theirs.pop("moments", {}), rtol=0, atol=0)
    assert ours == theirs


@pytest.mark.parametrize("name", EVERY)
def test_an_impossible_budget_is_refused_before_anything_is_judged(name: str) -> None:
    bench = ToyBench(*NOTHING_FITS)
    judge = CountingJudge(bench.space)
    with pytest.raises(BudgetError, match="cheapest"):
        strategy(name, bench, judge)
    assert not judge.judged
    assert judge.prepared == 0


@pytest.mark.parametrize("name", EVERY)
def test_every_network_is_judged_once_and_the_search_ends_when_all_are(name: str) -> None:
    bench = ToyBench(("macs", 0.55))
    judge = CountingJudge(bench.space)
    built = strategy(name, bench, judge)
    every = [
        Architecture(each) for each in itertools.product(*(range(len(gene.options)) for gene in bench.space.genes))
    ]
    expected = {bench.space.deployed(one) for one in every if bench.fits(one)}
    assert len(expected) < sum(bench.fits(one) for one in every)  # there are twins
    for _ in range(len(every)):
        if not built.step():
            break
    assert set(judge.judged) <= expected
    assert set(judge.judged) == expected or name not in DRAWN
    assert set(judge.judged.values()) == {1}
    assert judge.prepared == 1
    assert built.step() == ()
    best = max(map(judge._rule, judge.judged))
    assert judge._rule(bench.space.deployed(built.recommend()[0])) == best


@pytest.mark.parametrize("name", EVERY)
def test_the_state_of_another_judge_or_configuration_is_refused(name: str) -> None:
    bench = ToyBench(*LIMITS)
    state = strategy(name, bench, CountingJudge(bench.space), seed=1).state_dict()
    other = CountingJudge(bench.space)
    other.digest = "another"
    with pytest.raises(InputError, match="resumes with the judge"):
        strategy(name, bench, other, seed=1).load_state_dict(state)
    with pytest.raises(InputError, match="resumes with the strategy and configuration"):
        strategy(name, bench, CountingJudge(bench.space), seed=2).load_state_dict(state)


@pytest.mark.parametrize("name", EVERY)
def test_another_map_may_judge(name: str) -> None:
    bench, calls = ToyBench(*LIMITS), []

    def mapped(judge: Any, architectures: Sequence[Architecture]) -> list[Score]:
        calls.append(len(architectures))
        return map_judge(judge, architectures)

    chosen = strategy_class(name)
    built = chosen(bench, CountingJudge(bench.space), chosen.Config(seed=0), map_judge=mapped)
    assert len(run(built, 3)) == sum(calls) > 0


# the registry


def test_the_registry_has_two_errors() -> None:
    with pytest.raises(InputError, match="'rc-nas' is PolicySearch already"):
        register("rc-nas", search.RandomSearch)
    with pytest.raises(InputError, match="'annealing'; there are: evolution, random, rc-nas, robust-scaling, uniform"):
        strategy_class("annealing")


# derive


def test_derive_is_the_argmax_where_that_fits_and_takes_back_the_least_loss_per_saving_where_not() -> None:
    bench = ToyBench(("macs", 1.0))
    values = [[float(-pick) for pick in range(len(gene.options))] for gene in bench.space.genes]
    values[3] = [0.0, -1.0]
    assert derive(values, bench) == Architecture((0,) * 6)
    # limit 0.9 x 4500 = 4050 MACs. Halving the stem saves 250, which is not enough; of what remains, stage 2's
    # width 0.6 saves 400 for 0.2, each other ratio costs at least 1
    bench = ToyBench(("macs", 0.9))
    values = [[0.0, -0.01], [0.0, -9.0, -9.0, -9.0], [0.0, -9.0, -9.0, -9.0], [0.0, -9.0]]
    values += [[0.0, -9.0, -9.0, -9.0], [0.0, -5.0, -0.2, -8.0]]
    assert derive(values, bench) == Architecture((1, 0, 0, 0, 0, 2))


def test_derive_always_fits_and_never_beats_the_best_by_enumeration() -> None:
    bench = ToyBench(("macs", 0.6), ("params", 0.6))
    sizes = [len(gene.options) for gene in bench.space.genes]
    every = [Architecture(each) for each in itertools.product(*map(range, sizes))]
    generator = np.random.default_rng(0)
    gaps = []
    for _ in range(25):
        values = [generator.normal(size=size).tolist() for size in sizes]
        worth = {one: sum(row[pick] for row, pick in zip(values, one.picks, strict=True)) for one in every}
        derived = derive(values, bench)
        assert bench.fits(derived)
        gaps.append(max(worth[one] for one in every if bench.fits(one)) - worth[derived])
    assert min(gaps) >= 0.0
    assert float(np.median(gaps)) < 1.0


def test_derive_ends_where_no_single_change_saves_anything() -> None:
    class Valley(ToyBench):
        """Only the architecture of last picks fits, and every step towards it costs more."""

        def cost(self, architecture: Architecture) -> Any:
            cost = super().cost(Architecture((0,) * 6))
            moved = sum(pick > 0 for pick in architecture.picks)
            macs = 10 if architecture.picks == (1, 3, 3, 1, 3, 3) else cost.macs + moved
            return type(cost)(macs=macs, params=1, size=4, memory=8)

    bench = Valley(("macs", 0.5))
    bench.cheapest = Architecture((1, 3, 3, 1, 3, 3))
    values = [[1.0] + [0.0] * (len(gene.options) - 1) for gene in bench.space.genes]
    assert derive(values, bench) == bench.cheapest


def test_derive_refuses_what_cannot_be() -> None:
    with pytest.raises(BudgetError):
        derive([[0.0] * len(gene.options) for gene in ToyBench().space.genes], ToyBench(*NOTHING_FITS))
    with pytest.raises(ValueError, match="one number per option"):
        derive([[0.0]], ToyBench(*LIMITS))


# sampling


@pytest.mark.parametrize("how", ["draw", "propose"])
def test_draws_follow_the_masked_weights(how: str) -> None:
    """Against exact arithmetic: the product over the genes of the weights on the allowed picks."""
    bench = CachedBench(ToyBench(("macs", 0.5)))
    sampler = Sampler(bench)
    weights = [np.linspace(1.0, 2.0, len(gene.options)) for gene in bench.space.genes]
    every = [Architecture(each) for each in itertools.product(*(range(len(row)) for row in weights))]
    exact = {}
    for one in every:
        if bench.fits(one):
            masked = [row * sampler.allowed(one.picks[:place]) for place, row in enumerate(weights)]
            exact[one] = float(np.prod([row[pick] / row.sum() for row, pick in zip(masked, one.picks, strict=True)]))
    assert sum(exact.values()) == pytest.approx(1.0)
    draws, generator = 4000, np.random.default_rng(0)
    counts = dict.fromkeys(exact, 0)
    for _ in range(draws):
        if how == "draw":
            drawn = sampler.draw(lambda prefix: weights[len(prefix)], lambda one: False, generator)
        else:
            drawn = sampler.propose(lambda prefix, mask: weights[len(prefix)], generator)
        counts[drawn] += 1
    for one, chance in exact.items():
        assert abs(counts[one] - draws * chance) < 5 * np.sqrt(draws * chance) + 1


def test_a_pick_is_allowed_if_its_cheapest_completion_fits() -> None:
    bench = CachedBench(ToyBench(("macs", 0.5)))
    sampler = Sampler(bench)
    for prefix in [(), (0,), (1, 3), (1, 3, 3, 0)]:
        for pick, allowed in enumerate(sampler.allowed(prefix)):
            ends = itertools.product(*(range(len(gene.options)) for gene in bench.space.genes[len(prefix) + 1 :]))
            # costs add up in the toy, so the rule is exact there
            assert allowed == any(bench.fits(Architecture((*prefix, pick, *end))) for end in ends)


def test_a_closed_sampler_survives_the_disk() -> None:
    bench = CachedBench(ToyBench(("macs", 0.45)))
    sampler = Sampler(bench)
    generator = np.random.default_rng(0)
    seen: set[Any] = set()
    while (drawn := sampler.draw(lambda prefix: np.ones(1), lambda one: bench.key(one) in seen, generator)) is not None:
        seen.add(bench.key(drawn))
    assert sampler.exhausted
    assert sampler.state_dict() == {"closed": [[]]}
    other = Sampler(bench)
    other.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert other.exhausted


def test_a_pick_is_open_and_even_where_no_weight_is_left() -> None:
    generator = np.random.default_rng(0)
    open_picks = np.array([False, True, True, False])
    weights = np.array([5.0, 0.0, 0.0, 5.0])
    drawn = [draw_pick(weights, open_picks, generator) for _ in range(200)]
    assert set(drawn) == {1, 2}
    assert 60 < drawn.count(1) < 140


def test_a_generator_survives_the_disk() -> None:
    generator = np.random.default_rng(3)
    generator.random(5)
    state = json.loads(json.dumps(generator_state(generator)))
    other = np.random.default_rng(4)
    restore_generator(other, state)
    assert other.random() == generator.random()


# the pool


def test_a_repeat_is_free_and_twins_are_one_candidate() -> None:
    bench = CachedBench(ToyBench(*LIMITS))
    judge = CountingJudge(bench.space)
    pool = Pool(bench, judge)
    twins = [Architecture((1, 1, 3, 0, 3, 3)), Architecture((1, 2, 3, 0, 3, 3))]
    first, second = pool.judge(twins)
    assert first == second
    assert first.architecture == twins[0]
    assert pool.judge(twins[1:]) == (first,)
    assert judge.judged == {bench.key(twins[0]): 1}
    assert first.costs == {"macs": 2250.0, "flops": 4500.0, "params": 2000.0, "size": 8000.0, "memory": 16000.0}


def test_a_score_of_another_judge_is_never_taken() -> None:
    bench = CachedBench(ToyBench(*LIMITS))
    pool = Pool(bench, CountingJudge(bench.space), map_judge=lambda judge, ones: [Score(0.5, 0.5, 10, "other")])
    with pytest.raises(ValueError, match="digest of its judge"):
        pool.judge([Architecture((1, 3, 3, 1, 3, 3))])


def test_a_score_checks_itself() -> None:
    with pytest.raises(ValueError, match=r"fractions in \[0, 1\]"):
        Score(float("nan"), 0.5, 10, "judge")
    with pytest.raises(ValueError, match="at least one image"):
        Score(0.5, 0.5, 0, "judge")


# several targets


def test_every_budget_is_asked_on_its_own_target() -> None:
    """Two devices that rank networks oppositely, against brute force over the whole space."""
    bench = TwoDevices(a=1.2, b=1.4)
    known = CachedBench(bench)
    fitting, worst = np.zeros(3, dtype=int), {}
    for each in itertools.product(*(range(len(gene.options)) for gene in bench.space.genes)):
        one, (first, second) = Architecture(each), bench.milliseconds(Architecture(each))
        assert known.ratios(one) == pytest.approx((first / 1.2, second / 1.4))
        assert known.excess(one) == pytest.approx(max(0, first / 1.2 - 1) + max(0, second / 1.4 - 1))
        assert known.fits(one) == (first <= 1.2 and second <= 1.4)
        assert known.costs(one)["latency on b/fp32/1"] == second
        fitting += [first <= 1.2, second <= 1.4, known.fits(one)]
        worst[each] = max(first / 1.2, second / 1.4)
    assert min(fitting[:2]) > fitting[2] > 0, "each device lets networks through that the other does not"
    assert worst[known.cheapest.picks] == min(worst.values())
    assert known.teacher_ratios == (bench.budgets[0].teacher / 1.2, None)


@pytest.mark.parametrize("name", EVERY)
def test_what_a_search_judges_fits_every_device(name: str) -> None:
    bench = TwoDevices(a=1.6, b=1.6)
    judge = CountingJudge(bench.space)
    built = strategy(name, bench, judge, seed=1)
    candidates = run(built, 6)
    assert candidates
    for candidate in candidates:
        first, second = bench.milliseconds(candidate.architecture)
        assert candidate.feasible == (first <= 1.6 and second <= 1.6)
        assert (candidate.costs["latency"], candidate.costs["latency on b/fp32/1"]) == (first, second)
    assert all(max(bench.milliseconds(one)) <= 1.6 for one in built.recommend(3))


# the table


def test_rc_nas_finds_better_networks_than_random_search_on_the_table() -> None:
    """Regret after 60 networks, in points of AutoAttack accuracy, over all four budgets and two seeds."""
    accuracy = {code: row[-1] for code, row in table().items()}
    regret = dict.fromkeys(EVERY, 0.0)
    for limit in (0.13, 0.35, 0.65, 1.10):
        bench = TableBench(limit)
        best = max(value for code, value in accuracy.items() if bench.fits(Architecture(code)))
        for name, seed in itertools.product(("rc-nas", "random"), range(2)):
            built = strategy(name, bench, CountingJudge(bench.space, rule=lambda row: row[-1]), seed=seed)
            run(built, 30)
            (found,) = built.recommend()
            assert bench.fits(found)
            regret[name] += 100 * (best - accuracy[found.picks]) / 8
    assert regret["rc-nas"] < regret["random"] - 0.3
