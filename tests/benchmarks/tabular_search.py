"""How many networks a search judges until it is near the best within a budget, on a table of known accuracies.

The table is NAS-RobBench-201 (Wu et al., ICLR 2024) or one of its format: a column of codes, one digit per edge, then
columns of accuracies as fractions. Every strategy that works on plain genes runs under the same budgets, masks and
count: only a network that is new to the search counts, a repeat is free.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import machine, show
from search_doubles import CountingJudge, Table, TableBench, read_table

from rcnas_edge.evaluate import Rate
from rcnas_edge.search import strategy
from rcnas_edge.search.policy import PolicyConfig, PolicySearch
from rcnas_edge.space import Architecture

DEFAULT = ("rc-nas", "evolution", "random")
PARTS = {"rc-nas without its critic": {"critic": False}, "rc-nas with an even policy": {"learning_rate": 0.0}}
"""What is left of RC-NAS without one of its parts."""
PARAMS = (0.13, 0.35, 0.65, 1.10)
RESAMPLES = 2000


def evaluations(name: str, rows: Table, column: int, *, limit: float, within: float, most: int, seed: int) -> int:
    """Networks judged until one is within so many points of the best that fits; most + 1 if none of `most` was."""
    bench = TableBench(limit, rows, column)
    best = max(row[column] for code, row in rows.items() if bench.fits(Architecture(code)))
    judge = CountingJudge(bench.space, rule=lambda row: row[column])
    if name in PARTS:
        search = PolicySearch(bench, judge, PolicyConfig(seed=seed, **PARTS[name]))
    else:
        search = strategy(name, bench, judge, seed=seed)
    count = 0
    while count < most and (found := search.step()):
        for candidate in found:
            count += 1
            if candidate.score.robust >= best - within / 100 - 1e-9:
                return min(count, most + 1)
    return most + 1


def asked_table(
    parser: argparse.ArgumentParser, path: Path, column: str | None, params: Sequence[float]
) -> tuple[tuple[str, ...], Table, int]:
    """Columns, rows and the place of the target column; ends with one sentence where these do not go together."""
    try:
        columns, rows = read_table(path)
    except ValueError as error:
        parser.error(str(error))
    if column is not None and column not in columns:
        parser.error(f"--column is one of {', '.join(columns)}, got {column!r}")
    bench = TableBench(1.0, rows)
    least = min(bench.cost(Architecture(code)).params for code in rows) / 1e6
    for limit in params:
        if not limit >= least:
            parser.error(f"the smallest network has {least:.6g} M parameters, a budget is no less, got {limit:g}")
    return columns, rows, columns.index(column) if column else len(columns) - 1


def interval(counts: list[int], seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median over seeds."""
    generator = np.random.default_rng(seed)
    medians = np.median(generator.choice(counts, size=(RESAMPLES, len(counts))), axis=1)
    return float(np.quantile(medians, 0.025)), float(np.quantile(medians, 0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="nas_robbench_201_cifar10.csv or a table of its format")
    parser.add_argument("--column", help="the accuracy to search for; default the last one")
    parser.add_argument("--params", type=float, nargs="+", default=PARAMS, help="budgets in million parameters")
    parts = ", ".join(f"'{name}'" for name in PARTS)
    parser.add_argument("--strategies", nargs="+", default=DEFAULT, help=f"by name, or {parts}")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each; seeds 0, 1, ...")
    parser.add_argument("--within", type=float, default=0.5, help="points of accuracy from the best that are near")
    parser.add_argument("--most", type=int, default=600, help="networks after which a run has failed")
    asked = parser.parse_args()
    columns, rows, column = asked_table(parser, asked.table, asked.column, asked.params)
    known = (*DEFAULT, *PARTS)
    if unknown := [name for name in asked.strategies if name not in known]:
        parser.error(f"--strategies are of {', '.join(known)}, got {unknown[0]!r}")
    if asked.seeds < 1 or asked.most < 1:
        parser.error(f"--seeds and --most are at least 1, got {asked.seeds} and {asked.most}")

    print(machine())
    print(f"{asked.table.name}, column {columns[column]}, seeds 0 to {asked.seeds - 1}")

    def number(value: float) -> str:
        return f">{asked.most}" if value > asked.most else f"{value:g}"

    lines = []
    for limit in asked.params:
        for name in asked.strategies:
            started = time.process_time()
            counts = [
                evaluations(name, rows, column, limit=limit, within=asked.within, most=asked.most, seed=seed)
                for seed in range(asked.seeds)
            ]
            failed = Rate(sum(count > asked.most for count in counts), len(counts))
            low, high = interval(counts, 0)
            lines.append(
                [
                    f"{limit:g} M",
                    name,
                    number(statistics.median(counts)),
                    f"{number(low)} to {number(high)}",
                    f"{100 * failed.value:.0f} %",
                    f"{100 * failed.low:.0f} to {100 * failed.high:.0f} %",
                    f"{(time.process_time() - started) / len(counts):.2f}",
                ]
            )
            print(" ".join(lines[-1]), [number(count) for count in counts], file=sys.stderr, flush=True)
    show(
        f"networks judged until within {asked.within:g} points of the best that fits, n = {asked.seeds} runs of each",
        ("budget", "strategy", "median", "95 % interval", f"not in {asked.most}", "95 % interval", "CPU s per run"),
        lines,
    )


if __name__ == "__main__":
    main()
