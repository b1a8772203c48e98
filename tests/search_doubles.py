"""Small doubles for the tests of searches: a toy space with twins, a counting judge, and the tabular benchmark."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from rcnas_edge.cost import Budget, Cost
from rcnas_edge.profile import Target
from rcnas_edge.search.protocol import Score
from rcnas_edge.space import Architecture, Gene, named

RATIOS = (1.0, 0.8, 0.6, 0.4)


class ToySpace:
    """Two stages and a stem; depth ratios 0.8 and 0.6 are the same network, so every network has twins."""

    family = "toy"
    genes = (
        Gene("stem.stride", (1, 2), "stem"),
        Gene("stage1.depth", RATIOS, "stage1"),
        Gene("stage1.width", RATIOS, "stage1"),
        Gene("stage1.robust", (False, True), "stage1"),
        Gene("stage2.depth", RATIOS, "stage2"),
        Gene("stage2.width", RATIOS, "stage2"),
    )

    def deployed(self, architecture: Architecture) -> Hashable:
        return tuple(
            0.8 if name.endswith("depth") and option == 0.6 else option
            for name, option in named(self.genes, architecture).items()
        )


class ToyBench:
    """Costs add up over the genes; the teacher is the architecture of first picks."""

    def __init__(self, *limits: tuple[str, float]) -> None:
        self.space = ToySpace()
        self.teacher_cost = self.cost(Architecture((0,) * 6))
        self.teacher_robust = 0.5
        self.budgets = tuple(
            Budget(
                Target(), name, share * self.teacher_cost.get(name), f"{100 * share:g}%", self.teacher_cost.get(name)
            )
            for name, share in limits
        )
        self.task_vector = (0.3, -1.0)

    def cost(self, architecture: Architecture) -> Cost:
        stride, depth1, width1, robust, depth2, width2 = self.space.deployed(architecture)
        macs = round(1000 * (0.5 / stride + depth1 + width1 + 0.1 * robust + depth2 + width2))
        params = round(1000 * (depth1 + 3 * width2))
        return Cost(macs=macs, params=params, size=4 * params, memory=8 * params)

    def fits(self, architecture: Architecture) -> bool:
        cost = self.cost(architecture)
        return all(budget.met(cost) for budget in self.budgets)


class TwoDevices(ToyBench):
    """Device a minds stage 1, device b stage 2; on b the teacher's latency is not known. Limits in ms."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.targets = (Target("a"), Target("b"))
        teacher = self.cost(Architecture((0,) * 6)).latency
        self.budgets = (
            Budget(self.targets[0], "latency", a, f"{a}ms", teacher),
            Budget(self.targets[1], "latency", b, f"{b}ms"),
        )

    def milliseconds(self, architecture: Architecture) -> tuple[float, float]:
        stride, depth1, width1, robust, depth2, width2 = self.space.deployed(architecture)
        return (depth1 + width1 + 0.2 * robust) / stride, depth2 + width2 + 0.3 * (stride - 1)

    def cost(self, architecture: Architecture, target: Target | None = None) -> Cost:
        first, second = self.milliseconds(architecture)
        return replace(super().cost(architecture), latency=second if target == Target("b") else first, measured=1.0)

    def fits(self, architecture: Architecture) -> bool:
        return all(budget.met(self.cost(architecture, budget.target)) for budget in self.budgets)


class CountingJudge:
    """Scores by a fixed rule (or a table) and counts how often each network was judged."""

    def __init__(self, space: Any, rule: Any = None) -> None:
        self.digest = "counting"
        self.space = space
        self.judged: Counter[Hashable] = Counter()
        self.prepared = 0
        self._rule = rule or toy_accuracy

    def __call__(self, architecture: Architecture) -> Score:
        key = self.space.deployed(architecture)
        self.judged[key] += 1
        return Score(self._rule(key), 0.9, 1000, self.digest)

    def prepare(self) -> None:
        self.prepared += 1

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def toy_accuracy(key: Sequence[float]) -> float:
    """More of everything helps, stage 2 most; the robust block helps a narrow stage 1."""
    stride, depth1, width1, robust, depth2, width2 = key
    return 0.5 * (
        0.1 / stride + 0.15 * depth1 + 0.15 * width1 + 0.1 * robust * (1 - width1) + 0.2 * depth2 + 0.3 * width2
    )


TABLE = "nas_robbench_201_cifar10.csv"
OPERATIONS = ("none", "skip", "1x1", "3x3", "avg")
Table = Mapping[tuple[int, ...], tuple[float, ...]]


@cache
def table() -> Table:
    """NAS-RobBench-201, CIFAR-10 columns: code -> accuracies; skips without RCNAS_DATA."""
    import pytest

    path = Path(os.environ.get("RCNAS_DATA", "")) / TABLE
    if "RCNAS_DATA" not in os.environ or not path.is_file():
        pytest.skip(f"needs {TABLE} in the folder that RCNAS_DATA names")
    return read_table(path)[1]


def read_table(path: Path) -> tuple[tuple[str, ...], Table]:
    """The names of the columns of accuracies, and the accuracies (fractions) by code; ValueError for anything else."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"a table is a CSV file with a header, {path} cannot be read as one: {error}") from error
    rows = {_code(line, path): _accuracies(line, header, path) for line in lines if line}
    every = len(OPERATIONS) ** 6
    if len(header) < 2 or len(rows) < every:
        raise ValueError(
            f"a table has a column of codes, one or more of accuracies and a row for each of the {every} codes, "
            f"{path} has {len(header)} columns and {len(rows)} codes"
        )
    return tuple(header[1:]), rows


def _code(line: Sequence[str], path: Path) -> tuple[int, ...]:
    if len(line[0]) != 6 or not set(line[0]) <= set("01234"):
        raise ValueError(f"a code has a digit from 0 to 4 for each of six edges, {path} has {line[0]!r}")
    return tuple(map(int, line[0]))


def _accuracies(line: Sequence[str], header: Sequence[str], path: Path) -> tuple[float, ...]:
    try:
        found = tuple(map(float, line[1:]))
    except ValueError:
        found = ()
    if len(line) != len(header) or not all(0.0 <= value <= 1.0 for value in found) or not found:
        raise ValueError(
            f"accuracies are fractions from 0 to 1, one for each of {', '.join(header[1:])}; {path} has "
            f"{', '.join(line[1:]) or 'none'} for {line[0]}"
        )
    return found


class TableSpace:
    """Six edges without a group. Two codes with equal rows are the same network."""

    family = "table"
    genes = tuple(Gene(f"edge{index}", OPERATIONS) for index in range(6))

    def __init__(self, rows: Table) -> None:
        self.rows = rows

    def deployed(self, architecture: Architecture) -> Hashable:
        return self.rows[architecture.picks]


class TableBench:
    """Parameters and MACs of a code by the benchmark's published arithmetic; limit in million parameters."""

    def __init__(self, limit: float, rows: Table | None = None, column: int = -1) -> None:
        self.space = TableSpace(rows or table())
        self.teacher_cost = self.cost(Architecture((3,) * 6))
        self.teacher_robust = self.space.rows[(3,) * 6][column]
        self.budgets = (Budget(Target(), "params", 1e6 * limit, f"{limit}M", self.teacher_cost.params),)
        self.task_vector = (math.log(1e6 * limit / self.teacher_cost.params),)

    def cost(self, architecture: Architecture) -> Cost:
        wide, narrow = architecture.picks.count(3), architecture.picks.count(2)
        params = 73_306 + 243_040 * wide + 28_000 * narrow
        macs = 7_780_000 + 35_389_000 * wide + 3_930_000 * narrow
        return Cost(macs=macs, params=params, size=4 * params, memory=4 * params)

    def fits(self, architecture: Architecture) -> bool:
        return self.budgets[0].met(self.cost(architecture))
