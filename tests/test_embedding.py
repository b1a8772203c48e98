"""The task vector: every entry by hand arithmetic, and one length for every teacher, budget and device."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from search_doubles import CountingJudge

from rcnas_edge.attacks import Threat
from rcnas_edge.cost import Budget, costs_of
from rcnas_edge.embedding import (
    ENTRIES,
    MEANINGS,
    attack_numbers,
    budget_numbers,
    device_numbers,
    stage_numbers,
)
from rcnas_edge.nets import family
from rcnas_edge.profile import Profile, Rate, Rates, Target, load_profile
from rcnas_edge.search.policy import PolicyConfig, PolicySearch
from rcnas_edge.setting import TaskSetting
from rcnas_edge.space import IMAGE, Layer
from rcnas_edge.task import Bench, open_task

BOARD = Target("board")


def board(**rates: Rate) -> Profile:
    return Profile("board", "Nobody", "onnxruntime", rates={"fp32/1": Rates(rates)})


def test_the_attack_is_its_ball_and_how_hard_it_tries() -> None:
    assert attack_numbers(Threat.parse("linf:16/255:10")) == {
        "attack.linf": 1.0,
        "attack.epsilon": pytest.approx(1.0),
        "attack.steps": 1.0,
        "attack.one_step": 0.0,
    }
    assert attack_numbers(Threat.parse("linf:8/255:1"))["attack.one_step"] == 1.0


def test_a_budget_is_a_log_ratio_and_the_tightest_of_several_counts() -> None:
    other = Target("other")
    numbers = budget_numbers(
        [
            Budget(BOARD, "latency", 2.0, "50%", 4.0),
            Budget(other, "latency", 1.0, "25%", 4.0),
            Budget(BOARD, "macs", 10.0, "100%", 10.0),
            Budget(BOARD, "params", 10.0, "10"),
            Budget(BOARD, "memory", 4e9, "4 GB of the device", 1e6, imposed=True),
        ]
    )
    assert numbers.pop("budget.latency") == pytest.approx(math.log(0.25))
    assert set(numbers.values()) == {0.0}
    assert len(numbers) == 5


def test_three_stages_have_places_of_their_own_and_of_seven_neighbours_share_one() -> None:
    stages: list[dict[str, Any]] = [
        {"depth": 3, "width": 32, "block": "basic"},
        {"depth": 1, "width": 64, "block": "robust"},
        {"depth": 7, "width": 1024, "block": "basic"},
    ]
    numbers = stage_numbers(stages)
    assert numbers["teacher.stages"] == 0.75
    assert numbers["teacher.stage1.depth"] == pytest.approx(0.4)  # log2(1 + 3) / 5
    assert numbers["teacher.stage1.width"] == pytest.approx(0.5)
    assert [numbers[f"teacher.stage{stage}.special"] for stage in (1, 2, 3)] == [0.0, 1.0, 0.0]
    assert numbers["teacher.stage3.width"] == pytest.approx(1.0)
    assert {numbers[f"teacher.stage4.{name}"] for name in ("depth", "width", "special")} == {0.0}
    seven = stage_numbers([{"depth": 1, "width": 2**index, "block": "basic"} for index in range(1, 8)])
    # 7 stages on 4 places: (1, 2), (3, 4), (5, 6), (7)
    assert seven["teacher.stage1.depth"] == pytest.approx(math.log2(3) / 5)
    assert [seven[f"teacher.stage{place}.width"] for place in range(1, 5)] == pytest.approx([0.2, 0.4, 0.6, 0.7])
    assert seven["teacher.stage4.depth"] == pytest.approx(0.2)


LAYERS = (
    Layer("a", "conv", (1, 10, 10), (4, 10, 10), (IMAGE,), kernel=3),  # 3,600 MACs
    Layer("b", "conv", (4, 10, 10), (10, 10, 10), (0,)),  # 4,000
    Layer("c", "conv", (10, 10, 10), (10, 10, 10), (1,), kernel=3, groups=2),  # 45,000
    Layer("d", "globalpool", (10, 10, 10), (10, 1, 1), (2,)),
    Layer("e", "linear", (10, 1, 1), (10, 1, 1), (3,)),  # 100
)


def test_a_device_is_its_latency_per_mac_by_kind_of_layer() -> None:
    profile = board(
        conv=Rate(ms_per_mmac=1000),  # 3.6 ms
        pointwise=Rate(ms_per_mmac=2000),  # 8 ms
        grouped=Rate(ms_per_mmac=4000),  # 180 ms
        linear=Rate(ms_per_mmac=8000),  # 0.8 ms
        other=Rate(ms=7.6),
    )
    assert profile.latency(LAYERS, BOARD)[0] == pytest.approx(200)
    numbers = device_numbers({BOARD: profile}, [LAYERS])
    mean = 192.4 / 52_700
    assert numbers == {
        "device.known": 1.0,
        "device.speed": pytest.approx(math.log10(200 / 0.0527)),
        "device.conv": pytest.approx(math.log10(3.6 / 3600 / mean)),
        "device.pointwise": pytest.approx(math.log10(8 / 4000 / mean)),
        "device.grouped": pytest.approx(math.log10(180 / 45_000 / mean)),
        "device.linear": pytest.approx(math.log10(0.8 / 100 / mean)),
        "device.other": pytest.approx(0.038),
    }
    # a device that is ten times as slow in everything differs in its speed alone
    slow = board(
        conv=Rate(ms_per_mmac=10_000),
        pointwise=Rate(ms_per_mmac=20_000),
        grouped=Rate(ms_per_mmac=40_000),
        linear=Rate(ms_per_mmac=80_000),
        other=Rate(ms=76),
    )
    ten = device_numbers({BOARD: slow}, [LAYERS])
    assert ten.pop("device.speed") == pytest.approx(numbers.pop("device.speed") + 1)
    assert ten == pytest.approx(numbers)
    both = device_numbers({BOARD: profile, Target("slow"): slow}, [LAYERS])
    assert both["device.speed"] == pytest.approx(math.log10(200 / 0.0527) + 0.5)


def test_a_device_without_latencies_is_not_known() -> None:
    empty = Profile("board", "Nobody", "onnxruntime")
    assert set(device_numbers({BOARD: empty}, [LAYERS]).values()) == {0.0}


@pytest.fixture(scope="module")
def bench() -> Bench:
    task = open_task(TaskSetting(subset=200, profile="raspberry-pi-5", max_macs="50%", device="cpu"))
    profiles = {task.target: load_profile("raspberry-pi-5")}
    return Bench(task, profiles, costs_of(task.teacher.layers or (), profiles), teacher_robust=0.875)


def test_the_vector_of_a_task_stands_in_the_order_of_the_entries(bench: Bench) -> None:
    told = dict(zip(ENTRIES, bench.task_vector, strict=True))
    images = len(bench.task.data.train)
    expected = {
        "attack.linf": 1.0,
        "attack.epsilon": math.log2(25.5 / 8),
        "attack.steps": 1.0,
        "data.classes": 1.0,
        "data.channels": 1 / 3,
        "data.size": 0.6,  # log2(8) / 5
        "data.examples": math.log10(images) / 5,
        "teacher.macs": math.log10(6_300_000) / 10,
        "teacher.robust": 0.875,
        "teacher.stages": 0.75,
        "teacher.stage1.depth": math.log2(3) / 5,  # WRN-16-2: two blocks a stage
        "teacher.stage3.width": 0.7,  # 128 channels
        "teacher.stage4.width": 0.0,
        "budget.macs": math.log(0.5),
        "budget.latency": 0.0,
        "device.known": 1.0,
    }
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=2e-4)
    assert all(abs(number) < 3 for number in told.values()), told
    assert len(set(ENTRIES)) == len(ENTRIES) == len(MEANINGS)


def test_every_family_has_stages_for_the_vector() -> None:
    for kind in (family("wrn"), family("resnet"), family("mobilenet")):
        network = kind.network(kind.default_network, image=(3, 32, 32), classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)
        numbers = stage_numbers(network.stages())
        assert set(numbers) == {name for name in ENTRIES if name.startswith("teacher.stage")}
        assert all(0 <= number <= 2 for number in numbers.values()), numbers


def test_a_policy_goes_from_one_teacher_budget_and_device_to_another(bench: Bench) -> None:
    """The genes have one shape and the vector one length, so that states have one width."""
    asked = TaskSetting(
        subset=200, base="wrn-22-4", attack="linf:0.05:20", profile="pixel-4-gpu", max_latency="60%", device="cpu"
    )
    task = open_task(asked)
    profiles = {task.target: load_profile("pixel-4-gpu")}
    other = Bench(task, profiles, costs_of(task.teacher.layers or (), profiles), teacher_robust=0.5)
    assert other.space.genes == bench.space.genes
    assert sum(one != two for one, two in zip(bench.task_vector, other.task_vector, strict=True)) > 10
    taught = PolicySearch(bench, CountingJudge(bench.space), PolicyConfig(seed=1))
    search = PolicySearch(other, CountingJudge(other.space), PolicyConfig(seed=2))
    search.adopt(taught.state_dict()["weights"])
    torch.testing.assert_close(search.state_dict()["weights"], taught.state_dict()["weights"])
