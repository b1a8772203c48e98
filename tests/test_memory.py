"""What an agent remembers of other tasks: against the same process written out, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from search_doubles import ToyBench

from rcnas_edge.errors import InputError
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.kernel import Kernel
from rcnas_edge.search.memory import CAUTION, LEVEL, NOISE, OWN, Memory, Recall, log_cost
from rcnas_edge.space import Architecture, Gene

BENCH = CachedBench(ToyBench(("macs", 0.7)))
EVERYONE = [Architecture((1, a, b, 0, c, 1)) for a in (0, 1, 3) for b in (0, 2, 3) for c in (0, 3)]


def memory() -> Memory:
    """Two judges that judged different networks, one of them far stricter."""
    generator = np.random.default_rng(0)
    lenient = {one: 0.4 + 0.02 * generator.normal() for one in EVERYONE[:8]}
    strict = {one: 0.2 + 0.02 * generator.normal() for one in EVERYONE[6:14]}
    return Memory.of([("lenient", BENCH, lenient), ("strict", BENCH, strict)])


def test_a_memory_has_shares_of_the_teacher_costs_beside_it_and_one_number_per_judge() -> None:
    known = memory()
    assert len(known) == 16
    assert sorted(set(known.tasks)) == [0, 1]
    cost = BENCH.cost(EVERYONE[0])
    np.testing.assert_allclose(known.costs[0], np.log([cost.macs / 4500, cost.params / 4000]))
    assert known.shares[known.tasks == 0].mean() == pytest.approx(0.4 / 0.5, abs=0.03)
    assert log_cost(BENCH, EVERYONE[0], "latency") == 0.0  # not known


def test_a_network_that_a_judge_met_twice_counts_once_and_the_latest_is_remembered() -> None:
    twins = {Architecture((0, 1, 0, 0, 0, 0)): 0.3, Architecture((0, 2, 0, 0, 0, 0)): 0.35}
    known = Memory.of([("one", BENCH, twins)])
    np.testing.assert_allclose(known.shares, [0.7])


def test_recall_is_the_posterior_of_a_process_over_tasks_and_networks() -> None:
    known = memory()
    recall = Recall(known, BENCH)
    kernel = Kernel(BENCH.space.genes)
    asked = EVERYONE[12:]
    picks = np.concatenate([known.picks, [one.picks for one in asked]])
    costs = np.concatenate(
        [known.costs, [[log_cost(BENCH, one, name) for name in ("macs", "params")] for one in asked]]
    )
    tasks = np.concatenate([known.tasks, np.full(len(asked), 2)])
    same = tasks[:, None] == tasks[None]
    alike = kernel((picks, costs), (picks, costs))
    prior = ((1 - OWN) + OWN * same) * alike  # the new task's level apart
    old, new = slice(0, 16), slice(16, None)
    observed = prior[old, old] + LEVEL * same[old, old] + NOISE * np.eye(16)
    gain = prior[new, old] @ np.linalg.inv(observed)
    level = known.shares.mean()
    np.testing.assert_allclose(recall.mean(asked), level + gain @ (known.shares - level), rtol=1e-8)
    covariance = recall.variance * (prior[new, new] - gain @ prior[old, new])
    np.testing.assert_allclose(recall.covariance(asked, asked), covariance, atol=1e-10)
    expected = recall.mean(asked) - CAUTION * np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(recall.cautious(asked), expected, rtol=1e-6)


def test_the_level_of_a_task_says_nothing_of_its_networks() -> None:
    """Both judges order alike, one is stricter and judged the better networks: the order is learnt, not the level."""
    value = {one: 0.02 * sum(one.picks) for one in EVERYONE}
    order = sorted(EVERYONE, key=value.__getitem__)
    lenient = {one: 0.1 + value[one] for one in order[:10]}
    strict = {one: -0.1 + value[one] for one in order[8:]}
    recall = Recall(Memory.of([("lenient", BENCH, lenient), ("strict", BENCH, strict)]), BENCH)
    ranks = np.argsort(np.argsort(recall.mean(order)))
    assert np.corrcoef(ranks, np.arange(len(order)))[0, 1] > 0.9


def test_a_memory_survives_a_file_of_tensors_and_refuses_what_is_none() -> None:
    known = memory()
    tensors = known.to_tensors()
    again = Memory.from_tensors({**tensors, "links": torch.zeros(2)})
    assert again is not None
    np.testing.assert_array_equal(again.shares, known.shares)
    np.testing.assert_array_equal(again.picks, known.picks)
    assert Memory.from_tensors({"links": torch.zeros(2)}) is None
    with pytest.raises(InputError, match="has only picks"):
        Memory.from_tensors({"memory.picks": tensors["memory.picks"]})
    with pytest.raises(InputError, match="finite costs and shares"):
        Memory.from_tensors({**tensors, "memory.shares": torch.full((16,), float("nan"), dtype=torch.float64)})
    with pytest.raises(InputError, match=r"picks \(N, genes\)"):
        Memory.from_tensors({**tensors, "memory.tasks": torch.zeros(3)})
    with pytest.raises(InputError, match="genes of"):
        known.check([Gene("only", (1, 2))])
