"""Costs against hand arithmetic, liveness against a second implementation, feasibility against brute force."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Hashable
from typing import Any

import pytest

from rcnas_edge.cost import QUANTITIES, Budget, Cost, Limit, cost_of, resolve, show
from rcnas_edge.cost.counting import FILE_BYTES, ROW_BYTES, peak_activations, stored_numbers
from rcnas_edge.cost.feasibility import feasibility, require
from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.nets.rows import RowWriter
from rcnas_edge.profile import Key, Profile, Row, Target
from rcnas_edge.space import IMAGE, Architecture, Gene, Layer

TARGET = Target()


def residual() -> tuple[Layer, ...]:
    """conv 3->8 3x3, then bn-relu-conv 8->8 3x3 plus identity, pool, linear 8->10 with bias; images 3x4x4."""
    write = RowWriter((3, 4, 4))
    stem = write.convolution("stem", IMAGE, 8, kernel=3)
    out = write.convolution("conv", write.normalised_relu("norm", "relu", stem), 8, kernel=3)
    out = write.elementwise("add", "add", out, stem)
    write.linear("linear", write.global_pool("pool", out), 10, bias=True)
    return tuple(write.rows)


# counting


def test_counts_of_a_residual_network_by_hand() -> None:
    cost = cost_of(residual(), None, TARGET)
    assert cost.macs == 3 * 8 * 9 * 16 + 8 * 8 * 9 * 16 + 8 * 10
    assert cost.flops == 2 * cost.macs
    assert cost.params == 3 * 8 * 9 + 2 * 8 + 8 * 8 * 9 + 8 * 10 + 10
    stored = 3 * 8 * 9 + 4 * 8 + 8 * 8 * 9 + 8 * 10 + 10  # the normalisation is read with the sum: not folded
    assert cost.size == 4 * stored + 7 * ROW_BYTES + FILE_BYTES
    # most is alive at the second convolution: the stem (kept for the sum), what it reads, what it writes
    assert cost.memory == 4 * (stored + 3 * 8 * 16)
    assert (cost.latency, cost.measured) == (None, 0.0)


def test_a_folded_normalisation_is_stored_as_a_bias() -> None:
    write = RowWriter((3, 4, 4))
    write.elementwise("norm", "batchnorm", write.convolution("conv", IMAGE, 8, kernel=1))
    assert stored_numbers(write.rows) == 3 * 8 + 8
    write.elementwise("again", "batchnorm", 1)  # the folded one's output is read by a second: that stays
    assert stored_numbers(write.rows) == 3 * 8 + 8 + 4 * 8


def test_slices_and_squeeze_excitation_live_as_long_as_they_are_read() -> None:
    write = RowWriter((4, 2, 2))
    first, second = write.channels("a", IMAGE, 0, 2), write.channels("b", IMAGE, 2, 2)  # 16 + 8 + 8 = 32
    joined = write.concatenate("concat", write.elementwise("relu", "relu", first), second)  # 8 + 8 + 16 = 32
    gate = write.elementwise("gate", "sigmoid", write.global_pool("pool", joined))  # 16 + 4
    write.elementwise("scale", "multiply", joined, gate)
    assert peak_activations(write.rows) == 32


def naive_peak(layers: tuple[Layer, ...]) -> int:
    """The same by sets of living tensors at every row."""
    sizes = {index: math.prod(layer.output) for index, layer in enumerate(layers)} | {
        IMAGE: math.prod(layers[0].inputs)
    }
    peak = 0
    for index, layer in enumerate(layers):
        before = {
            tensor for tensor in sizes if tensor < index and any(tensor in later.reads for later in layers[index:])
        } | ({index - 1} if index == len(layers) else set())
        after = {tensor for tensor in before if any(tensor in later.reads for later in layers[index + 1 :])}
        in_place = layer.kind not in ("conv", "linear", "slice", "concat", "avgpool", "globalpool")
        reused = in_place and any(sizes[tensor] == sizes[index] for tensor in set(layer.reads) - after)
        peak = max(peak, sum(sizes[tensor] for tensor in before) + (0 if reused else sizes[index]))
    return peak


@pytest.mark.parametrize("seed", range(20))
def test_peak_memory_agrees_with_a_second_implementation(seed: int) -> None:
    generator = random.Random(seed)
    write = RowWriter((4, 4, 4))
    live = [write.convolution("first", IMAGE, 4, kernel=1)]
    for index in range(12):
        source = live[-1]
        kind = generator.choice(["conv", "relu", "batchnorm", "add", "concat"])
        if kind == "conv":
            live.append(write.convolution(f"{index}", source, generator.choice([2, 4, 8]), kernel=1))
        elif kind in ("relu", "batchnorm"):
            live.append(write.elementwise(f"{index}", kind, source))
        elif kind == "add":
            alike = [tensor for tensor in live if write.shape(tensor) == write.shape(source)]
            live.append(write.elementwise(f"{index}", "add", source, generator.choice(alike)))
        else:
            live.append(write.concatenate(f"{index}", source, generator.choice(live)))
    assert peak_activations(write.rows) == naive_peak(tuple(write.rows))


def test_latency_comes_with_the_share_that_is_measured() -> None:
    key = Key("linear", "plain", 1, 1, 1, 1, 1)
    profile = Profile("host", "v", "onnxruntime", rows=(Row("fp32", 1, key, 8, 10, 0.25),))
    row = (Layer("linear", "linear", (8, 1, 1), (10, 1, 1), (IMAGE,)),)
    cost = cost_of(row, profile, TARGET)
    assert (cost.latency, cost.measured) == (0.25, 1.0)
    assert cost_of(row, profile, Target(threads=2)).latency is None
    assert Cost.from_dict(cost.to_dict()) == cost
    assert cost.to_dict()["flops"] == cost.get("flops") == 160


def test_costs_refuse_what_they_cannot_be() -> None:
    with pytest.raises(InputError, match="at least one layer row"):
        cost_of((), None, TARGET)
    with pytest.raises(InputError, match="not negative"):
        Cost(-1, 0, 0, 0)
    with pytest.raises(InputError, match="one of latency, macs, flops, params, size, memory, got 'energy'"):
        Cost(1, 1, 1, 1).get("energy")
    with pytest.raises(InputError, match="a cost has"):
        Cost.from_dict({"macs": 1})


# limits


@pytest.mark.parametrize(
    ("quantity", "text", "amount", "relative"),
    [
        ("latency", "2ms", 2.0, False),
        ("latency", "500us", 0.5, False),
        ("latency", "500 µs", 0.5, False),
        ("latency", "0.1s", 100.0, False),
        ("latency", "40%", 0.4, True),
        ("macs", "40M", 40e6, False),
        ("macs", "33.3%", 0.333, True),
        ("flops", "1.5G", 1.5e9, False),
        ("params", "1.5M", 1.5e6, False),
        ("params", "120000", 120e3, False),
        ("size", "500kB", 500e3, False),
        ("size", "500KiB", 512000.0, False),
        ("memory", "2MiB", 2.0 * 2**20, False),
        ("memory", "100%", 1.0, True),
    ],
)
def test_limits_are_read_and_written(quantity: str, text: str, amount: float, relative: bool) -> None:
    limit = Limit.parse(quantity, text)
    assert (limit.amount, limit.relative) == (pytest.approx(amount), relative)
    assert Limit.parse(quantity, str(limit)) == limit


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_any_limit_survives_its_text(quantity: str, seed: int) -> None:
    generator = random.Random(seed)
    for limit in (Limit(quantity, 10 ** generator.uniform(-3, 9)), Limit(quantity, generator.random(), relative=True)):
        assert Limit.parse(quantity, str(limit)) == limit


@pytest.mark.parametrize(
    ("quantity", "text", "message"),
    [
        ("latency", "2", r"a budget for latency is a number with a unit \(us, .*ms, s\) or in %, got '2'"),
        ("latency", "2kB", "got '2kB'"),
        ("size", "500", "got '500'"),
        ("macs", "forty", "got 'forty'"),
        ("macs", "1.2.3M", "got '1.2.3M'"),
        ("macs", "0", "above 0"),
        ("macs", "-4M", "above 0"),
        ("params", "120%", "at most 100%, params got 120%"),
        ("params", "0%", "above 0"),
        ("energy", "2J", "limits one of latency, macs"),
    ],
)
def test_limits_that_cannot_be_are_refused(quantity: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limit.parse(quantity, text)


def test_amounts_are_shown_with_unit_and_convention() -> None:
    assert show("flops", 12_345_678) == "12.35 M FLOPs (1 MAC = 2 FLOPs)"
    assert show("macs", 6.4e6) == "6.4 M MACs (1 MAC = 2 FLOPs)"
    assert show("latency", 0.0421) == "42.1 us"
    assert show("size", 512_000) == "512 kB"
    assert show("params", 950) == "950 parameters"
    assert show("latency", None) == "unknown"


# budgets


def test_shares_are_resolved_against_the_teacher() -> None:
    teacher = Cost(macs=1000, params=200, size=800, memory=4000, latency=2.0, measured=1.0)
    limits = [Limit.parse("latency", "40%"), Limit.parse("macs", "300"), Limit.parse("flops", "50%")]
    latency, macs, flops = resolve(limits, teacher, TARGET)
    assert (latency.limit, latency.asked, latency.teacher, latency.unit) == (pytest.approx(0.8), "40%", 2.0, "ms")
    assert (macs.limit, macs.teacher) == (300.0, 1000)
    assert flops.limit == 1000.0
    student = Cost(macs=500, params=1, size=1, memory=1, latency=0.8)
    assert latency.met(student)
    assert macs.ratio(student) == pytest.approx(5 / 3)
    assert not macs.met(student)
    assert flops.met(student)  # 1000 FLOPs: exactly the limit


def test_limits_of_the_device_are_budgets_where_the_user_gave_none() -> None:
    teacher = Cost(macs=1000, params=200, size=800, memory=4000, latency=2.0, measured=1.0)
    device = {"memory": 3e6, "size": 700.0}
    macs, memory, size = resolve([Limit.parse("macs", "300")], teacher, TARGET, device)
    assert (macs.quantity, macs.asked) == ("macs", "300")
    assert (memory.quantity, memory.limit, memory.asked, memory.teacher) == ("memory", 3e6, "3 MB of the device", 4000)
    assert (size.quantity, size.limit, size.asked) == ("size", 700.0, "700 B of the device")
    assert not size.met(teacher)
    own = resolve([Limit.parse("memory", "50%"), Limit.parse("size", "1kB")], teacher, TARGET, device)
    assert [(budget.quantity, budget.limit) for budget in own] == [("memory", 2000.0), ("size", 1000.0)]


def test_a_latency_budget_without_a_table_is_refused() -> None:
    unknown = Cost(1, 1, 1, 1)
    with pytest.raises(InputError, match=r"on host/fp32/1 .*give an absolute limit, as --max-latency 20ms"):
        resolve([Limit.parse("latency", "60%")], unknown, TARGET)
    (absolute,) = resolve([Limit.parse("latency", "2ms")], unknown, TARGET)
    assert (absolute.limit, absolute.teacher) == (2.0, None)
    with pytest.raises(InputError, match="measure it first"):
        Budget(TARGET, "latency", 2.0, "2ms").met(unknown)


class Bricks:
    """A space of numbers: MACs are the product of the picks' options, parameters fall where MACs grow."""

    family = "bricks"

    def __init__(self, genes: int, options: int) -> None:
        self.genes = tuple(Gene(f"g{place}", tuple(range(1, options + 1))) for place in range(genes))
        self.calls = 0

    def cost(self, architecture: Architecture, target: Target | None = None) -> Cost:
        self.calls += 1
        values = [pick + 1 for pick in architecture.picks]
        return Cost(macs=math.prod(values), params=100 - sum(values), size=sum(values), memory=1)

    def layers(self, architecture: Architecture) -> Any: ...

    def deployed(self, architecture: Architecture) -> Hashable: ...

    def describe(self, architecture: Architecture) -> Any: ...

    def build(self, architecture: Architecture) -> Any: ...


def budgets(**limits: float) -> tuple[Budget, ...]:
    return tuple(Budget(TARGET, quantity, limit, f"{limit:g}", 1000.0) for quantity, limit in limits.items())


def test_one_architecture_must_meet_all_budgets() -> None:
    space = Bricks(genes=3, options=4)
    asked = budgets(macs=8, params=93)
    rows, best = feasibility(space, asked, space.cost)
    worst = {
        picks: max(budget.ratio(space.cost(Architecture(picks))) for budget in asked)
        for picks in itertools.product(range(4), repeat=3)
    }
    assert worst[best.picks] == min(worst.values())
    assert all(row.satisfiable and row.exact for row in rows)
    assert [row.cheapest for row in rows] == [1, 88]
    require(rows)
    # macs <= 2 leaves a sum of at most 4, so at least 96 parameters: each can be met, not both
    rows, _ = feasibility(space, budgets(macs=2, params=93), space.cost)
    assert [row.cheapest <= row.budget.limit for row in rows] == [True, True]
    assert not all(row.satisfiable for row in rows)
    with pytest.raises(BudgetError, match=r"each can be met alone.*all architectures were tried"):
        require(rows)


def test_an_impossible_budget_names_the_cheapest() -> None:
    space = Bricks(genes=3, options=4)
    rows, _ = feasibility(space, budgets(macs=0.5, params=99), space.cost)
    with pytest.raises(BudgetError, match=r"the cheapest has macs 1 MACs .*limit 0\.5 MACs.*asked 0\.5.*teacher 1 k"):
        require(rows)
    assert BudgetError.exit_code == 3


def test_a_large_space_is_descended_and_enumerated_only_to_prove_impossibility() -> None:
    space = Bricks(genes=6, options=6)  # 46,656 architectures
    rows, best = feasibility(space, budgets(macs=20), space.cost)
    assert (rows[0].satisfiable, rows[0].exact, best.picks) == (True, False, (0,) * 6)
    assert space.calls == rows[0].tried < 1000
    space.calls = 0
    rows, _ = feasibility(space, budgets(macs=0.9), space.cost)
    assert (rows[0].satisfiable, rows[0].exact, space.calls) == (False, True, 6**6)


def test_a_huge_space_ends_and_says_that_it_is_not_exact() -> None:
    space = Bricks(genes=12, options=8)
    rows, _ = feasibility(space, budgets(macs=0.5), space.cost)
    assert (rows[0].satisfiable, rows[0].exact, rows[0].cheapest) == (False, False, 1)
    with pytest.raises(BudgetError, match=r"\d+ architectures were tried, not all"):
        require(rows)
