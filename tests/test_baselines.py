"""The baselines: what evolution does at every birth, which networks the scaling rules mean."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from search_doubles import CountingJudge, TableBench, ToyBench, table

from rcnas_edge import plugins
from rcnas_edge.cost import Budget, Cost
from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.nets import Family
from rcnas_edge.nets.wrn_rows import ROBUSTRESNET, WrnConfig, rows
from rcnas_edge.profile import Target
from rcnas_edge.search import STRATEGIES, strategy
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.evolution import EvolutionConfig, EvolutionSearch
from rcnas_edge.search.memory import Memory
from rcnas_edge.search.policy import PolicyConfig, PolicySearch
from rcnas_edge.search.scaling import RobustScaling, ScalingConfig, UniformScaling, by_rule, robust_shares, walk
from rcnas_edge.space import Architecture, Gene, named

LIMITS = (("macs", 0.7), ("params", 0.8))


def distance(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(first != second for first, second in zip(one, other, strict=True))


# regularised evolution


class Watched(EvolutionSearch):
    """Remembers every birth, and which of them were children; the others are draws at random."""

    def __init__(self, bench: Any, **config: int) -> None:
        super().__init__(bench, CountingJudge(bench.space, rule=distinct), EvolutionConfig(**config))
        self.births: list[tuple[int, ...]] = []
        self.children: list[int] = []
        self._last: Architecture | None = None

    def _child(self) -> Architecture | None:
        self._last = super()._child()
        return self._last

    def _join(self, architecture: Architecture) -> None:
        if architecture is self._last:
            self.children.append(len(self.births))
        self.births.append(architecture.picks)
        super()._join(architecture)


def distinct(key: Sequence[float]) -> float:
    """An accuracy that no two networks of the toy share."""
    return sum(option / 7**place for place, option in enumerate(key)) / 4


def test_every_birth_is_one_mutation_of_the_living_and_the_oldest_dies() -> None:
    bench = ToyBench(*LIMITS)
    search = Watched(bench, seed=2, batch=1, population=12, first=6, tournament=3)
    judged = [one.architecture.picks for _ in range(100) for one in search.step()]
    births = search.births
    assert births[:6] == judged[:6]
    assert set(search.children) <= set(range(6, len(births)))
    assert len(search.children) > 80
    for index in search.children:
        assert 1 in {distance(births[index], parent) for parent in births[max(0, index - 12) : index]}
        assert bench.fits(Architecture(births[index]))
    assert search.state_dict()["population"] == [list(picks) for picks in births[-12:]]
    # what was judged before is born again, for nothing
    assert len(judged) == len(set(judged)) == 100 < len(births)
    assert set(births) >= set(judged)


def test_the_best_dies_of_age_and_is_still_recommended() -> None:
    bench = ToyBench(*LIMITS)
    best: list[Any] = []

    def rule(key: Any) -> float:
        best.append(key)
        return 0.9 if key == best[0] else 0.1

    config = EvolutionConfig(batch=1, population=5, first=5, tournament=2)
    search = EvolutionSearch(bench, CountingJudge(bench.space, rule=rule), config)
    (first,) = search.step()
    for _ in range(40):
        search.step()
    alive = {bench.space.deployed(Architecture(tuple(picks))) for picks in search.state_dict()["population"]}
    assert bench.space.deployed(first.architecture) not in alive
    assert search.recommend()[0] == first.architecture


def test_a_large_tournament_breeds_from_the_best_alone() -> None:
    bench = ToyBench(*LIMITS)
    search = Watched(bench, seed=1, batch=1, population=200, first=8, tournament=500)
    for _ in range(16):
        search.step()
    births = search.births
    assert len(search.children) > 10
    for index in search.children:
        keys = [bench.space.deployed(Architecture(picks)) for picks in births[: index + 1]]
        assert distance(keys[index], max(keys[:index], key=distinct)) <= 1  # 0 for a twin


def test_a_mutation_is_even_over_genes_and_over_what_else_fits() -> None:
    bench = ToyBench(("macs", 0.9))
    search = Watched(bench, batch=1, population=1, first=1)
    (parent,) = search.step()
    picks, sizes = parent.architecture.picks, [len(gene.options) for gene in bench.space.genes]
    exact: dict[tuple[int, ...], float] = {}
    for place, size in enumerate(sizes):
        others = [(*picks[:place], pick, *picks[place + 1 :]) for pick in range(size) if pick != picks[place]]
        fitting = [other for other in others if bench.fits(Architecture(other))]
        exact |= {other: 1 / len(sizes) / len(fitting) for other in fitting}
    assert sum(exact.values()) == pytest.approx(1.0)  # every gene can change
    draws = 3000
    counts = Counter(search._child().picks for _ in range(draws))
    assert set(counts) == set(exact)
    for other, chance in exact.items():
        assert abs(counts[other] - draws * chance) < 5 * np.sqrt(draws * chance)


def test_where_no_mutation_fits_the_next_network_is_drawn_at_random() -> None:
    class Islands(ToyBench):
        """Two networks fit, and they differ in every gene."""

        def fits(self, architecture: Architecture) -> bool:
            return architecture.picks in ((0,) * 6, (1, 3, 3, 1, 3, 3))

    bench = Islands(*LIMITS)
    bench.cheapest = Architecture((1, 3, 3, 1, 3, 3))
    search = Watched(bench, batch=1, first=1)
    assert search.step()[0].architecture == bench.cheapest
    assert search._child() is None
    assert search.step() == ()  # the masks cannot reach the other island, and that ends too


def test_evolution_finds_better_networks_than_random_search_on_the_table() -> None:
    """Regret after 120 networks, in points of AutoAttack accuracy, over all four budgets and six seeds."""
    accuracy = {code: row[-1] for code, row in table().items()}
    regret = {"evolution": 0.0, "random": 0.0}
    for limit in (0.13, 0.35, 0.65, 1.10):
        bench = TableBench(limit)
        best = max(value for code, value in accuracy.items() if bench.fits(Architecture(code)))
        for name, seed in itertools.product(regret, range(6)):
            built = strategy(name, bench, CountingJudge(bench.space, rule=lambda row: row[-1]), seed=seed)
            for _ in range(60):
                built.step()
            regret[name] += 100 * (best - accuracy[built.recommend()[0].picks]) / 24
    assert regret["evolution"] < regret["random"] - 0.15


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"population": 0}, "population is at least 1"),
        ({"first": 51}, "first is at most the population, got 51 for 50"),
        ({"tournament": 0}, "tournament is at least 1"),
    ],
)
def test_a_configuration_checks_itself(wrong: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EvolutionConfig(**wrong)
    with pytest.raises(ValueError, match="batch is at least 1"):
        ScalingConfig(batch=0)


# the rules


@pytest.mark.parametrize("name", ROBUSTRESNET)
def test_the_rule_gives_the_published_networks(name: str) -> None:
    """RobustResNet-A1 to the block; of A2 to A4, whose own sums are not at 7 : 3, every number within one."""
    published = [*ROBUSTRESNET[name][0], *ROBUSTRESNET[name][1]]
    depths, widths = robust_shares(3)
    ours = [sum(published) * share for share in (*depths, *widths)]
    assert max(abs(one - other) for one, other in zip(ours, published, strict=True)) < 1.0
    if name == "a1":
        assert [round(one) for one in ours] == published == [14, 14, 7, 5, 7, 3]


def test_the_rule_keeps_7_to_3_for_any_number_of_stages() -> None:
    for stages in range(1, 8):
        depths, widths = robust_shares(stages)
        assert len(depths) == len(widths) == stages
        assert sum(depths) == pytest.approx(0.7)
        assert sum(widths) == pytest.approx(0.3)
    # stages at 0, 1/3, 2/3 and 1: D 2, 2, 5/3, 1 and W 2, 7/3, 2, 1
    depths, widths = robust_shares(4)
    assert depths == pytest.approx([0.7 * part / (20 / 3) for part in (2, 2, 5 / 3, 1)])
    assert widths == pytest.approx([0.3 * part / (22 / 3) for part in (2, 7 / 3, 2, 1)])


@pytest.mark.parametrize("ends", [{0: 1.0, 1: 1.0, 2: 1.0}, {0: 3.0, 1: 3.0, 2: 7.0}])
def test_a_walk_meets_what_a_fine_grid_meets(ends: dict[int, float]) -> None:
    sizes = {0: (6.0, 5.0, 2.0, 1.0), 1: (3.0, 1.0), 2: (4.0, 0.5, 2.5, 2.5)}
    shares = {0: 1.0, 1: 0.7, 2: 0.3}
    met: list[dict[int, int]] = []
    last = max(ends.values())
    for t in np.linspace(20.0, 0.01, 40_000):
        picks = {}
        for place, row in sizes.items():
            wanted = shares[place] * (min(t, ends[place]) if t <= last else ends[place] * t / last)
            picks[place] = int(np.argmin([abs(size - wanted) for size in row]))
        if not met or met[-1] != picks:
            met.append(picks)
    assert list(walk(sizes, shares, ends)) == met
    assert met[0] == {0: 0, 1: 0, 2: 0}
    assert met[-1] == {0: 3, 1: 1, 2: 1}


class StageBench:
    """A bench over a space with real networks, with a budget of MACs."""

    def __init__(self, space: Any, limit: float) -> None:
        self.space = space
        self.teacher_cost = self.cost(Architecture((0,) * len(space.genes)))
        self.teacher_robust = 0.5
        self.budgets = (Budget(Target(), "macs", limit if limit > 1 else limit * self.teacher_cost.macs, f"{limit}"),)
        self.task_vector = ()

    def cost(self, architecture: Architecture) -> Cost:
        layers = self.space.layers(architecture)
        params = sum(layer.parameters for layer in layers)
        return Cost(macs=sum(layer.macs for layer in layers), params=params, size=4 * params, memory=4 * params)

    def fits(self, architecture: Architecture) -> bool:
        return self.budgets[0].met(self.cost(architecture))


def judged(search: Any) -> list[tuple[int, ...]]:
    """All that a search judges, to its end."""
    return [one.architecture.picks for found in iter(search.step, ()) for one in found]


def frame() -> dict[str, Any]:
    return {"image": (3, 32, 32), "classes": 10, "mean": (0.5,) * 3, "std": (0.25,) * 3}


class RoomySpace:
    """Three stages of 1 to 30 blocks and widening factors of 1 to 16: RobustResNet-A1 to -A4 are in it."""

    family = "roomy"
    genes = tuple(
        gene
        for stage in ("stage1", "stage2", "stage3")
        for gene in (
            Gene(f"{stage}.depth", tuple(range(30, 0, -1)), stage),
            Gene(f"{stage}.width", tuple(range(16, 0, -1)), stage),
            Gene(f"{stage}.robust", (False, True), stage),
        )
    )

    def deployed(self, architecture: Architecture) -> WrnConfig:
        options = list(named(self.genes, architecture).values())
        widths = tuple(planes * factor for planes, factor in zip((16, 32, 64), options[1::3], strict=True))
        return WrnConfig(tuple(options[0::3]), widths, tuple(options[2::3]), **frame())

    def layers(self, architecture: Architecture) -> Any:
        return rows(self.deployed(architecture))


def test_robust_scaling_at_the_macs_of_robustresnet_a1_is_robustresnet_a1() -> None:
    bench = StageBench(RoomySpace(), 5.0803e9)
    bench.cheapest = Architecture((29, 15, 0) * 3)
    bench.start = Architecture((0,) * 9)
    search = RobustScaling(bench, CountingJudge(bench.space, rule=lambda key: 0.5))
    first = bench.space.deployed(search.step()[0].architecture)
    assert (first.depths, first.widths, first.robust) == ((14, 14, 7), (80, 224, 192), (True,) * 3)


def wrn_bench(name: str, limit: float) -> StageBench:
    kind = plugins.load(plugins.FAMILIES, "wrn")
    return StageBench(kind.space(kind.network(name, **frame())), limit)


def test_robust_scaling_gives_up_7_to_3_where_the_base_has_no_more_blocks() -> None:
    bench = wrn_bench("wrn-28-10", 0.4)
    search = RobustScaling(bench, CountingJudge(bench.space, rule=lambda key: 0.5))
    configs = [bench.space.config(Architecture(picks)) for picks in judged(search)]
    # the largest that fits: all of 2 : 2 : 1 that four blocks allow, and W 7 : 8 : 3 for 2 : 2.5 : 1
    assert (configs[0].depths, configs[0].widths) == ((4, 4, 2), (112, 256, 192))
    assert {config.depths for config in configs if config.widths != (48, 96, 192)} == {(4, 4, 2)}
    assert {config.robust for config in configs} == {(False,) * 3, (True,) * 3}
    for kind in (True, False):
        macs = [sum(layer.macs for layer in rows(config)) for config in configs if config.robust == (kind,) * 3]
        assert macs == sorted(macs, reverse=True)
        assert len(macs) > 10


def test_uniform_scaling_is_the_largest_common_ratio_that_fits_then_the_next() -> None:
    bench = wrn_bench("wrn-28-10", 0.4)
    found = judged(UniformScaling(bench, CountingJudge(bench.space, rule=lambda key: 0.5)))
    uniform = [Architecture((0, *(pick, pick, 0) * 3)) for pick in range(8)]
    assert found == [one.picks for one in uniform if bench.fits(one)]
    assert bench.space.config(Architecture(found[0])).name == "wrn-22-7"  # 0.7 of 4 blocks and of 10 x 16 planes


@pytest.mark.parametrize("name", ["uniform", "robust-scaling"])
@pytest.mark.parametrize("family", [pytest.param(kind, id=name) for name, kind in plugins.load_all(plugins.FAMILIES)])
def test_every_family_can_be_scaled(family: Family, name: str) -> None:
    base = family.network(family.default_network, **frame())
    bench = StageBench(family.space(base), 0.5)
    search = strategy(name, bench, CountingJudge(bench.space, rule=lambda key: 0.5))
    found = judged(search)
    assert len(found) >= 3
    costs = [bench.cost(Architecture(picks)).macs for picks in found]
    assert max(costs) == max(costs[:2]) <= 0.5 * bench.teacher_cost.macs
    assert max(costs) > 0.2 * bench.teacher_cost.macs


def test_a_space_without_stages_is_refused_with_what_works_there() -> None:
    class Edges(ToyBench):
        def __init__(self) -> None:
            super().__init__(("macs", 0.9))
            self.space.genes = tuple(Gene(f"edge{index}", (0, 1)) for index in range(3))
            self.space.deployed = lambda architecture: architecture.picks

        def cost(self, architecture: Architecture) -> Cost:
            return Cost(macs=10 - sum(architecture.picks[:3]), params=1, size=4, memory=8)

    bench = Edges()
    for name in ("uniform", "robust-scaling"):
        with pytest.raises(InputError, match="'toy' has none: take --strategy rc-nas, evolution or random"):
            strategy(name, bench, CountingJudge(bench.space))
    for name in set(STRATEGIES) - {"uniform", "robust-scaling"}:
        assert strategy(name, bench, CountingJudge(bench.space, rule=lambda key: 0.5)).step()


class Stride(ToyBench):
    """Only the stride of the stem is paid for."""

    def cost(self, architecture: Architecture) -> Cost:
        return Cost(macs=[100, 40][architecture.picks[0]], params=1, size=4, memory=8)


def test_a_line_that_passes_all_that_fits_by_is_refused() -> None:
    bench = Stride(("macs", 0.5))
    assert CachedBench(bench).cheapest.picks[0] == 1
    for name in ("uniform", "robust-scaling"):
        with pytest.raises(BudgetError, match=f"{name} needs one network of its line .* 50%: 2 x its limit"):
            strategy(name, bench, CountingJudge(bench.space))


# what RC-NAS takes from the rules


@pytest.mark.parametrize("family", [pytest.param(kind, id=name) for name, kind in plugins.load_all(plugins.FAMILIES)])
def test_rc_nas_from_scratch_judges_what_the_rules_give_first(family: Family) -> None:
    bench = StageBench(family.space(family.network(family.default_network, **frame())), 0.4)
    scaled = RobustScaling(bench, CountingJudge(bench.space, rule=lambda key: 0.5)).step()[0].architecture
    search = PolicySearch(bench, CountingJudge(bench.space, rule=lambda key: 0.5))
    narrow, second = (one.architecture for one in search.step())
    assert second == scaled
    options, teacher = (named(bench.space.genes, one) for one in (narrow, CachedBench(bench).start))
    changed = {name for name in options if options[name] != teacher[name]}
    assert changed == {name for name in options if name.endswith(".width")}
    assert len({options[name] for name in changed}) == 1  # ratios: one for all
    wider = [pick - (gene.name in changed) for pick, gene in zip(narrow.picks, bench.space.genes, strict=True)]
    assert bench.fits(narrow)
    assert not bench.fits(Architecture(tuple(wider)))


def test_with_an_agent_one_network_is_the_rules_and_the_other_the_agents() -> None:
    """The agent remembers that the smallest networks were the best: it would never begin with the rule's."""
    bench = wrn_bench("wrn-28-10", 0.4)
    known = CachedBench(bench)
    generator = np.random.default_rng(0)
    drawn = [
        Architecture(tuple(int(generator.integers(len(gene.options))) for gene in bench.space.genes)) for _ in range(60)
    ]
    smaller = {one: 1.0 - bench.cost(one).macs / bench.cost(known.start).macs for one in drawn}
    memory = Memory.of([("another task", known, smaller)]).to_tensors()
    found = {}
    for rules in (True, False):
        search = PolicySearch(bench, CountingJudge(bench.space, rule=lambda key: 0.5), PolicyConfig(rules=rules))
        search.adopt(memory | search.state_dict()["weights"])
        found[rules] = [one.architecture for one in search.step()]
    narrow, scaled = by_rule(known)
    assert found[True][0] == narrow
    assert found[True][1] == found[False][0]
    assert not {narrow, scaled} & set(found[False])


def test_rc_nas_draws_where_no_rule_gives_a_network_or_none_is_asked() -> None:
    wrn, stride = wrn_bench("wrn-28-10", 0.4), Stride(("macs", 0.5))
    rules = by_rule(CachedBench(wrn))
    assert len(rules) == 2
    assert by_rule(CachedBench(stride)) == []
    excluding = wrn_bench("wrn-28-10", 0.4)
    excluding.excluded = rules.__contains__
    for bench, config in ((wrn, PolicyConfig(rules=False)), (stride, PolicyConfig()), (excluding, PolicyConfig())):
        search = PolicySearch(bench, CountingJudge(bench.space, rule=lambda key: 0.5), config)
        found = {one.architecture for one in search.step()}
        assert len(found) == 2
        assert not found & set(rules)
