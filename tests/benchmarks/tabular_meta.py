"""How many networks a meta-trained RC-NAS judges until it is near the best, on a table, with the target left out.

The table is NAS-RobBench-201 (Wu et al., ICLR 2024) or one of its format. For every budget an agent is meta-trained on
the other columns under budgets that are at least a tenth larger or smaller, each drawn evenly on a logarithmic scale,
then it searches for the target column at the target budget. Beside it: the
search from scratch; the order of networks that a search starts from (`Recall.cautious`), without learning from what is
judged, which shows whether fine-tuning makes it worse; and the lookup, which
ranks networks by the mean of the columns that meta-training could see. With --hidden a share of the networks, drawn by
seed, is hidden from meta-training and from the lookup, which takes them in random order behind the others. Agents are
kept in --work, where the same command finds them again.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from machine import machine, show
from real_setting import code_of_searches
from search_doubles import CountingJudge, Table, TableBench
from tabular_search import PARAMS, asked_table, interval

from rcnas_edge.checkpoint import digest_of, file_sha256, read_state, write_state
from rcnas_edge.evaluate import Rate
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.memory import Memory, Recall
from rcnas_edge.search.meta import MetaConfig, MetaTraining, Weights
from rcnas_edge.search.policy import PolicyConfig, PolicySearch
from rcnas_edge.space import Architecture

LEFT_OUT = 1.1
"""No budget of meta-training is within this factor of the target's."""
AUTOATTACK_EPSILON = 8
"""Of the column autoattack, in 1 / 255."""


@dataclass(frozen=True)
class Asked:
    """The table and what is counted: within so many points of the best, at most so many networks."""

    rows: Table
    columns: tuple[str, ...]
    within: float
    most: int

    def bench(self, column: int, limit: float, hidden: frozenset[tuple[float, ...]] = frozenset()) -> TableBench:
        """The task of one column under one budget."""
        bench = TableBench(limit, self.rows, column)
        bench.task_vector = (*attack_numbers(self.columns[column]), *bench.task_vector)
        if hidden:
            bench.excluded = lambda architecture: self.rows[architecture.picks] in hidden
        return bench

    def judge(self, column: int) -> CountingJudge:
        """Reads the column; one digest per column, since scores of two are not mixed."""
        judge = CountingJudge(TableBench(1.0, self.rows).space, rule=lambda row: row[column])
        judge.digest = self.columns[column]
        return judge

    def enough(self, column: int, limit: float) -> float:
        """The accuracy that is near the best within the budget."""
        bench = self.bench(column, limit)
        fitting = [row[column] for code, row in self.rows.items() if bench.fits(Architecture(code))]
        return max(fitting) - self.within / 100 - 1e-9


def attack_numbers(column: str) -> tuple[float, ...]:
    """A column's name as numbers: classes of the data, attacked or not, epsilon, iterated or one step.

    `cifar10#pgd_8` is PGD at 8/255; a name of another form has zeros.
    """
    data, _, attack = column.partition("#")
    classes = re.search(r"\d+$", data)
    epsilon = re.search(r"_(\d+)$", attack)
    strength = float(epsilon[1]) if epsilon else float(AUTOATTACK_EPSILON * (attack == "autoattack"))
    iterated = attack.startswith(("pgd", "auto"))
    return (math.log10(int(classes[0])) if classes else 0.0, float(strength > 0), strength / 8, float(iterated))


def agent(
    asked: Asked, target: int, limit: float, hidden: frozenset[tuple[float, ...]], config: MetaConfig, tasks: int
) -> Weights:
    """Meta-trained on so many tasks: the other columns in turn, each under a budget of its own, drawn by the seed."""
    columns = [column for column in range(len(asked.columns)) if column != target]
    sizes = sorted(asked.bench(target, limit).cost(Architecture(code)).params / 1e6 for code in asked.rows)
    least, most = sizes[len(sizes) // 50], sizes[-1]
    generator = np.random.default_rng(config.seed)
    drawn: list[tuple[int, float]] = []
    while len(drawn) < tasks:
        budget = float(np.exp(generator.uniform(math.log(least), math.log(most))))
        if not limit / LEFT_OUT < budget < limit * LEFT_OUT:
            drawn.append((columns[len(drawn) % len(columns)], budget))
    training = MetaTraining(drawn, lambda task: (asked.bench(*task, hidden), asked.judge(task[0])), config)
    return training.run()


def kept(folder: Path | None, name: str, train: Callable[[], Weights]) -> tuple[Weights, float]:
    """An agent, and the seconds of the processor that it took; from its file in a folder if it is there.

    The name holds digests of the table, the configuration and the searches' code: another version trains its own.
    """
    path = None if folder is None else folder / f"{name}.safetensors"
    if path is not None and path.is_file():
        weights, values = read_state(path)
        return weights, values["seconds"]
    started = time.process_time()
    weights = train()
    seconds = time.process_time() - started
    if path is not None:
        write_state(path, weights, {"seconds": seconds})
    return weights, seconds


def searched(asked: Asked, target: int, limit: float, weights: Weights | None, seed: int) -> int:
    """Networks judged until one is near the best; most + 1 if none was."""
    search = PolicySearch(asked.bench(target, limit), asked.judge(target), PolicyConfig(seed=seed))
    if weights is not None:
        search.adopt(weights)
    enough, count = asked.enough(target, limit), 0
    while count < asked.most and (found := search.step()):
        for candidate in found:
            count += 1
            if candidate.score.robust >= enough:
                return count
    return asked.most + 1


def in_order(asked: Asked, target: int, limit: float, order: Iterable[tuple[int, ...]]) -> int:
    """The same for a fixed order of codes; networks that come again are free."""
    bench, enough = asked.bench(target, limit), asked.enough(target, limit)
    seen: set[tuple[float, ...]] = set()
    for code in order:
        if not bench.fits(Architecture(code)) or asked.rows[code] in seen:
            continue
        seen.add(asked.rows[code])
        if asked.rows[code][target] >= enough or len(seen) >= asked.most:
            break
    return len(seen) if asked.rows[code][target] >= enough else asked.most + 1


def by_memory(asked: Asked, target: int, limit: float, weights: Weights) -> list[tuple[int, ...]]:
    """All codes, by what the agent is sure to expect of them before it judges one."""
    memory = Memory.from_tensors(weights)
    assert memory is not None, "an agent of meta-training remembers"
    codes = list(asked.rows)
    recall = Recall(memory, CachedBench(asked.bench(target, limit)))
    expected = np.concatenate([recall.cautious([Architecture(code) for code in part]) for part in batched(codes, 500)])
    return [codes[index] for index in np.argsort(-expected, kind="stable")]


def batched(codes: Sequence[tuple[int, ...]], size: int) -> list[Sequence[tuple[int, ...]]]:
    return [codes[start : start + size] for start in range(0, len(codes), size)]


def by_lookup(asked: Asked, target: int, hidden: frozenset[tuple[float, ...]], seed: int) -> list[tuple[int, ...]]:
    """All codes, by the mean of the other columns; the hidden ones behind, in random order."""
    generator = np.random.default_rng(seed)
    chance = generator.random(len(asked.rows))

    def rank(place: int, row: tuple[float, ...]) -> tuple[int, float]:
        if row in hidden:
            return 1, chance[place]
        return 0, -statistics.fmean(value for column, value in enumerate(row) if column != target)

    ranked = sorted(enumerate(asked.rows.items()), key=lambda entry: rank(entry[0], entry[1][1]))
    return [code for _, (code, _) in ranked]


def half(rows: Table, share: float, seed: int) -> frozenset[tuple[float, ...]]:
    """A share of the different networks."""
    networks = sorted(set(rows.values()))
    generator = np.random.default_rng(seed)
    hidden = generator.choice(len(networks), size=round(share * len(networks)), replace=False)
    return frozenset(networks[index] for index in hidden)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="nas_robbench_201_cifar10.csv or a table of its format")
    parser.add_argument("--column", help="the accuracy to search for; default the last one")
    parser.add_argument("--params", type=float, nargs="+", default=PARAMS, help="budgets in million parameters")
    parser.add_argument("--targets", type=float, nargs="+", help="budgets of them that are searched; default all")
    parser.add_argument("--agents", type=int, default=4, help="agents per budget; seeds 0, 1, ...")
    parser.add_argument("--seeds", type=int, default=10, help="searches of each agent; seeds 0, 1, ...")
    parser.add_argument("--tasks", type=int, default=80, help="tasks of a meta-training")
    parser.add_argument("--evaluations", type=int, default=50, help="networks judged in each task")
    parser.add_argument("--hidden", type=float, default=0.0, help="share of the networks hidden from meta-training")
    parser.add_argument("--within", type=float, default=0.5, help="points of accuracy from the best that are near")
    parser.add_argument("--most", type=int, default=600, help="networks after which a run has failed")
    parser.add_argument("--work", type=Path, help="folder in which agents are kept")
    parser.add_argument("--only-meta", action="store_true", help="leave out the search from scratch")
    given = parser.parse_args()
    budgets = given.targets or given.params
    columns, rows, target = asked_table(parser, given.table, given.column, budgets)
    if not 0.0 <= given.hidden < 1.0:
        parser.error(f"--hidden is a share in [0, 1), got {given.hidden}")
    for name in ("agents", "seeds", "tasks", "evaluations", "most"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} is at least 1, got {getattr(given, name)}")
    if len(columns) < 2:
        parser.error("the target column is left out of meta-training: give a table of several columns")
    asked = Asked(rows, columns, given.within, given.most)
    print(machine())
    print(
        f"{given.table.name}, target {columns[target]}; agents of seeds 0 to {given.agents - 1}, each meta-trained on "
        f"{given.tasks} tasks of {given.evaluations} networks; searches of seeds 0 to {given.seeds - 1}; "
        f"{100 * given.hidden:.0f} % of the networks hidden"
    )
    digest = file_sha256(given.table)
    lines: list[list[str]] = []
    for limit in budgets:
        counts: dict[str, list[int]] = {"meta-trained": [], "its order alone": [], "lookup": [], "from scratch": []}
        spent = 0.0
        for seed in range(given.agents):
            hidden = half(rows, given.hidden, seed)
            config = MetaConfig(seed=seed, evaluations=given.evaluations)
            made_of = digest_of([digest, asdict(config), code_of_searches()])[:12]
            name = f"{target}-{limit:g}-hidden{given.hidden:g}-{given.tasks}x{given.evaluations}-{seed}-{made_of}"
            weights, seconds = kept(
                given.work,
                name,
                lambda: agent(asked, target, limit, hidden, config, given.tasks),  # noqa: B023
            )
            spent += seconds / given.agents
            found = [searched(asked, target, limit, weights, 1000 * seed + number) for number in range(given.seeds)]
            counts["meta-trained"] += found
            counts["its order alone"].append(in_order(asked, target, limit, by_memory(asked, target, limit, weights)))
            counts["lookup"].append(in_order(asked, target, limit, by_lookup(asked, target, hidden, seed)))
            print(f"{limit:g} M, agent {seed}: {found}, {counts['its order alone'][-1]} alone", file=sys.stderr)
        if not given.only_meta:
            seeds = range(given.agents * given.seeds)
            counts["from scratch"] = [searched(asked, target, limit, None, seed) for seed in seeds]
        lines += [_line(f"{limit:g} M", name, found, given.most, spent) for name, found in counts.items() if found]
    show(
        f"networks judged until within {given.within:g} points of the best that fits",
        ("budget", "", "n", "median", "95 % interval", "worst", f"not in {given.most}", "CPU s of meta-training"),
        lines,
    )


def _line(budget: str, name: str, counts: list[int], most: int, spent: float) -> list[str]:
    def number(value: float) -> str:
        return f">{most}" if value > most else f"{value:g}"

    low, high = interval(counts, 0)
    failed = Rate(sum(count > most for count in counts), len(counts))
    taught = f"{spent:.0f}" if name == "meta-trained" else ""
    cells = [budget, name, str(len(counts)), number(statistics.median(counts)), f"{number(low)} to {number(high)}"]
    return [*cells, number(max(counts)), f"{100 * failed.value:.0f} %", taught]


if __name__ == "__main__":
    main()
