"""Scaling rules, the baselines that judge next to nothing: a line through the space, walked from its large end.

Both know of an architecture's genes only what they are called: `stage1.depth`, `stage1.width` and so on, for any number
of stages. What is not on the line (strides, kinds of block) is as in the teacher.

`UniformScaling` is the scaling that everybody does by hand: every depth and width gene, those of a stem or head too, at
one ratio.

`RobustScaling` is the rule of Huang et al., "Revisiting Residual Networks for Adversarial Robustness", CVPR 2023 (arXiv
2212.11005). The paper's, for three stages: blocks D1 : D2 : D3 = 2 : 2 : 1, widening factors W1 : W2 : W3 = 2 : 2.5 : 1
of 16, 32 and 64 planes, sum D : sum W = 7 : 3, and the robust block in every stage (RobustResNet). Ours: which network
of a given space is meant, since the paper scales freely and a space ends at its base. Every gene takes the option
nearest to the rule. Where the base has no more blocks (a WRN-28-10 has 12, the rule wants 35 for its MACs), D stays at
its largest 2 : 2 : 1, W alone grows on in its proportions, and the 7 : 3 is given up; likewise the other way round; and
where both are at their largest all genes grow on, each until its own end. The line is walked twice, side by side, with
the robust block and with the teacher's blocks, since a teacher of basic blocks has no weights for robust ones. For
another number of stages the proportions are read off at the stage's place between first and last, and a widening factor
is the width against that of a network with 16 channels in its first stage that widens as the base does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, final

import numpy as np

from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.pool import Pool
from rcnas_edge.search.protocol import Bench, Candidate, Judge, MapJudge, map_judge
from rcnas_edge.search.resume import identity, require_own
from rcnas_edge.space import Architecture, Gene, Space

DEPTHS, WIDTHS = (2.0, 2.0, 1.0), (2.0, 2.5, 1.0)
"""Proportions of blocks and of widening factors over three stages (Huang et al., CVPR 2023)."""
DEPTH_SHARE = 0.7
"""sum D / (sum D + sum W), from 7 : 3."""
PLANES = 16
"""Channels of the first stage at widening factor 1; they double from stage to stage."""

Picks = dict[int, int]
"""Gene (index) -> pick."""


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """How many networks a step judges. The seed is for the record: nothing is drawn."""

    seed: int = 0
    batch: int = 2

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is at least 1, got {self.batch}")


class ScalingSearch(ABC):
    """Judges the networks of a line that fit the budgets, the largest first, until the line ends.

    InputError for a space without depth and width genes of stages, BudgetError where no network of the line fits.
    """

    name: ClassVar[str]
    Config: ClassVar[type[ScalingConfig]] = ScalingConfig

    def __init__(
        self, bench: Bench, judge: Judge, config: ScalingConfig | None = None, *, map_judge: MapJudge = map_judge
    ) -> None:
        self.config = config or ScalingConfig()
        self._bench = CachedBench.of(bench)
        self._pool = Pool(self._bench, judge, map_judge=map_judge)
        if not stage_genes(self._bench.space.genes):
            raise InputError(
                f"the strategy {self.name} scales the depth and width genes of stages, the space "
                f"{self._bench.space.family!r} has none: take --strategy rc-nas, evolution or random"
            )
        self._line = fitting(self._bench, self.line())
        if not self._line:
            *_, smallest = placed(self._bench, self.line())
            raise BudgetError(
                f"the strategy {self.name} needs one network of its line within every budget, the smallest has "
                f"{self._bench.times_the_limits(smallest)} its limit: take --strategy rc-nas, evolution or random, or "
                "raise a budget"
            )

    @final
    def step(self) -> Sequence[Candidate]:
        """Judge the next networks of the line; nothing at its end."""
        return self._pool.judge([one for one in self._line if not self._pool.seen(one)][: self.config.batch])

    @final
    def recommend(self, k: int = 1) -> Sequence[Architecture]:
        """The best k judged networks of the line."""
        return self._pool.best(k)

    @final
    def state_dict(self) -> dict[str, Any]:
        """Everything judged: where the line goes on follows from it."""
        return {**identity(self.name, self.config), "pool": self._pool.state_dict()}

    @final
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the state was taken; InputError for the state of another search."""
        require_own(state, self.name, self.config)
        self._pool.load_state_dict(state["pool"])

    @abstractmethod
    def line(self) -> Iterator[Picks]:
        """The picks of every network of the line, the largest first, within the budgets or not."""


class UniformScaling(ScalingSearch):
    """Every depth and width gene at the same share of its largest option."""

    name: ClassVar[str] = "uniform"

    def line(self) -> Iterator[Picks]:
        """From all options at their largest to all at their smallest."""
        return uniform_line(self._bench)


class RobustScaling(ScalingSearch):
    """Blocks 2 : 2 : 1, widening factors 2 : 2.5 : 1, sum of blocks to sum of factors 7 : 3."""

    name: ClassVar[str] = "robust-scaling"

    def line(self) -> Iterator[Picks]:
        """Each network of the rule with the robust block in every stage, then with the teacher's blocks."""
        return robust_line(self._bench)


def uniform_line(bench: CachedBench) -> Iterator[Picks]:
    """All depth and width genes at one share of their largest options, from 1 down to the smallest."""
    genes = bench.space.genes
    sizes = {place: _numbers(genes[place]) for place in size_genes(genes)}
    return walk(sizes, {place: max(values) for place, values in sizes.items()})


def narrow_line(bench: CachedBench) -> Iterator[Picks]:
    """The teacher with all widths at one share of its own, a width multiplier (Howard et al., arXiv 1704.04861)."""
    genes = bench.space.genes
    sizes = {place: _numbers(genes[place]) for place in size_genes(genes) if _what(genes[place]) == "width"}
    return walk(sizes, {place: sizes[place][bench.start.picks[place]] for place in sizes})


def robust_line(bench: CachedBench) -> Iterator[Picks]:
    """The networks of RobustScaling's rule from the largest down, each with robust blocks, then the teacher's."""
    genes = bench.space.genes
    places = stage_genes(genes)
    groups = list(dict.fromkeys(genes[place].group for place in places))
    proportions = dict(zip(("depth", "width"), robust_shares(len(groups)), strict=True))
    sizes = stage_sizes(bench.space, bench.start)
    shares = {place: proportions[_what(genes[place])][groups.index(genes[place].group)] for place in places}
    largest = {place: max(sizes[place]) / shares[place] for place in places}
    ends = {
        place: min(largest[other] for other in places if _what(genes[other]) == _what(genes[place])) for place in places
    }
    flags = {
        place: gene.options.index(True)
        for place, gene in enumerate(genes)
        if gene.name.endswith(".robust") and any(option is True for option in gene.options)
    }
    for picks in walk(sizes, shares, ends):
        yield {**picks, **flags}
        yield picks


def placed(bench: CachedBench, line: Iterable[Picks]) -> Iterator[Architecture]:
    """The networks of a line; what it does not pick is as in the teacher."""
    for changed in line:
        yield Architecture(tuple(changed.get(place, pick) for place, pick in enumerate(bench.start.picks)))


def fitting(bench: CachedBench, line: Iterable[Picks]) -> list[Architecture]:
    """The different networks of a line that are within the budgets, in its order."""
    found: dict[Hashable, Architecture] = {}
    for architecture in placed(bench, line):
        if bench.fits(architecture):
            found.setdefault(bench.key(architecture), architecture)
    return list(found.values())


def by_rule(bench: CachedBench) -> list[Architecture]:
    """The largest within the budgets of the teacher made narrower and of RobustScaling; none in a space without stages.

    The first is what pruning channels evenly comes to.
    """
    if not stage_genes(bench.space.genes):
        return []
    lines = [fitting(bench, line(bench)) for line in (narrow_line, robust_line)]
    return list({bench.key(line[0]): line[0] for line in lines if line}.values())


def size_genes(genes: Sequence[Gene]) -> tuple[int, ...]:
    """The genes (indices) that are the depth or the width of their group as a number."""
    return tuple(
        place
        for place, gene in enumerate(genes)
        if gene.group
        and gene.name in (f"{gene.group}.depth", f"{gene.group}.width")
        and all(isinstance(option, int | float) and not isinstance(option, bool) for option in gene.options)
    )


def stage_genes(genes: Sequence[Gene]) -> tuple[int, ...]:
    """Those of the size genes whose group has a depth, so that it is a stage and no stem or head."""
    deep = {genes[place].group for place in size_genes(genes) if _what(genes[place]) == "depth"}
    return tuple(place for place in size_genes(genes) if genes[place].group in deep)


def robust_shares(stages: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """D and W of each stage where sum D + sum W is 1; other numbers of stages lie between the paper's three."""
    place, places = np.linspace(0.0, 1.0, stages), np.linspace(0.0, 1.0, 3)
    depths, widths = np.interp(place, places, DEPTHS), np.interp(place, places, WIDTHS)
    depths *= DEPTH_SHARE / depths.sum()
    widths *= (1.0 - DEPTH_SHARE) / widths.sum()
    return tuple(map(float, depths)), tuple(map(float, widths))


def stage_sizes(space: Space, start: Architecture) -> dict[int, tuple[float, ...]]:
    """Blocks or widening factor for every option of each stage gene, the other genes being as in `start`.

    The network says them (`NetworkConfig.stages`) where the space has its configuration; else an option stands for
    itself.
    """
    places = stage_genes(space.genes)
    groups = list(dict.fromkeys(space.genes[place].group for place in places))
    config: Callable[[Architecture], Any] | None = getattr(space, "config", None)
    base = [] if config is None else config(start).stages()
    if config is None or len(base) != len(groups):
        return {place: _numbers(space.genes[place]) for place in places}
    sizes = {}
    for place in places:
        stage, what = groups.index(space.genes[place].group), _what(space.genes[place])
        doubled = PLANES * 2**stage if len(groups) == 3 else PLANES * base[stage]["width"] / base[0]["width"]
        unit = 1.0 if what == "depth" else doubled
        options = [
            Architecture((*start.picks[:place], pick, *start.picks[place + 1 :]))
            for pick in range(len(space.genes[place].options))
        ]
        sizes[place] = tuple(config(option).stages()[stage][what] / unit for option in options)
    return sizes


def walk(
    sizes: Mapping[int, Sequence[float]], shares: Mapping[int, float], ends: Mapping[int, float] | None = None
) -> Iterator[Picks]:
    """The picks nearest to t x share for every gene, for t from large to small: each different set of them once.

    `sizes` are numbers per option of each gene. A gene with an end waits there, at end x share, until t has reached the
    largest end; from then on all grow on from their ends in proportion. The nearest option changes half-way between two
    sizes, so between two neighbours of all those t nothing changes, and one t of each interval is enough. Of equal
    sizes the first counts.
    """
    ends = ends or dict.fromkeys(shares, 1.0)
    last = max(ends.values(), default=1.0)

    def turn(place: int, size: float) -> float:
        """The t at which a gene is wanted at a size; rounded, so that genes that turn at one t do so together."""
        scale = size / shares[place]
        return round(scale if scale <= ends[place] else scale * last / ends[place], 9)

    def wanted(place: int, t: float) -> float:
        return shares[place] * (min(t, ends[place]) if t <= last else ends[place] * t / last)

    turns = sorted(
        {turn(place, (low + high) / 2) for place, row in sizes.items() for low, high in pairwise(sorted(set(row)))}
    )
    between = [(low + high) / 2 for low, high in pairwise(turns)]
    for t in reversed([turns[0] / 2, *between, 2 * turns[-1]] if turns else [1.0]):
        yield {
            place: min(range(len(row)), key=lambda pick: abs(row[pick] - wanted(place, t)))
            for place, row in sizes.items()
        }


def _what(gene: Gene) -> str:
    """`depth` or `width`."""
    return gene.name.rpartition(".")[2]


def _numbers(gene: Gene) -> tuple[float, ...]:
    return tuple(float(option) for option in gene.options)
