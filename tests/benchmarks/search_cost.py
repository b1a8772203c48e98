"""What a search costs: seconds per judged network, calls of the cost model per second, and what is not the judge.

The task is the main job's, on scikit-learn's digits: the teacher that ships, 40 % of its MACs, 60 % of its latency. The
overhead is measured on the product's own loop, search.json's `seconds` and `judge_seconds`, state on disk included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any import of torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from even_judge import EvenJudge
from machine import machine, show

from rcnas_edge.pipeline.console import Silent
from rcnas_edge.pipeline.opened import Opened
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.searching import Searching
from rcnas_edge.search import STRATEGIES, strategy
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.judge import TrainedJudge
from rcnas_edge.search.protocol import Score
from rcnas_edge.search.sampling import Sampler
from rcnas_edge.setting import TaskSetting
from rcnas_edge.space import Architecture
from rcnas_edge.task import Bench, Task
from rcnas_edge.train.batches import Batches, as_float
from rcnas_edge.train.judging import SELECTION_IMAGES, SELECTION_STEPS, clean_and_robust, reestimate_statistics

COST_CALLS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=6, help="networks that every judge judges")
    parser.add_argument("--evaluations", type=int, default=6, help="networks of each search with the real judge")
    parser.add_argument("--judge-epochs", type=int, default=2, help="epochs of the judge of the searches")
    parser.add_argument("--strategies", nargs="+", default=sorted(STRATEGIES), choices=sorted(STRATEGIES))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(machine())
    print(f"digits, teacher of the package, 40 % of its MACs and 60 % of its latency, seed {asked.seed}")
    with tempfile.TemporaryDirectory() as folder:
        opened = open_task(Path(folder) / "first", asked)
        networks = drawn(opened.bench, asked.networks, asked.seed)
        show(
            f"judging one network, n = {len(networks)} networks within the budgets",
            ("judge", "median s", "least", "most", "CPU s"),
            judges(opened, networks),
        )
        show(
            f"asking of one network, n = {COST_CALLS} random architectures ({asked.networks} for LIPS)",
            ("question", "median ms", "99 %", "CPU ms", "calls per CPU second"),
            questions(opened.task, opened.bench, networks, asked.seed),
        )
        show(
            f"a search without its judge, {asked.evaluations} networks, LIPS included",
            ("strategy", "judged", "ms per network", "CPU ms"),
            [bare(name, opened, asked) for name in asked.strategies],
        )
        show(
            f"the search stage, {asked.evaluations} networks, judge of {asked.judge_epochs} epochs; target: under 5 %",
            ("strategy", "judged", "s", "s outside the judge", "share", "share of CPU"),
            [overhead(name, Path(folder) / name, asked) for name in asked.strategies],
        )


def open_task(folder: Path, asked: argparse.Namespace, **changes: Any) -> Opened:
    """The main job's task in a folder, its profile and teacher measured."""
    setting = TaskSetting(seed=asked.seed, judge_epochs=asked.judge_epochs, device="cpu", **changes)
    opened = Opened(setting, Run(folder), Silent())
    _ = opened.bench
    return opened


def drawn(bench: Bench, count: int, seed: int) -> list[Architecture]:
    """Different random networks within the budgets."""
    cached, generator = CachedBench.of(bench), np.random.default_rng(seed)
    sampler = Sampler(cached)
    found: dict[Any, Architecture] = {}
    while len(found) < count:
        one = sampler.draw(
            lambda prefix: sampler.allowed(prefix).astype(float), lambda one: cached.key(one) in found, generator
        )
        if one is None:
            break
        found[cached.key(one)] = one
    return list(found.values())


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def judges(opened: Opened, networks: Sequence[Architecture]) -> list[list[str]]:
    """Inherited weights alone, then with one and with two epochs of short training."""
    rows = []
    for epochs in (0, 1, 2):
        judge: Callable[[Architecture], Any]
        if epochs == 0:
            judge = lambda one: as_inherited(opened.task, one)  # noqa: E731
        else:
            setting = TaskSetting(**{**opened.setting.to_dict(), "judge_epochs": epochs})
            fresh = Opened(setting, Run(opened.run.folder.parent / f"epochs{epochs}"), Silent())
            judge = Searching(fresh).judge
        times = [timed(lambda one=one: judge(one)) for one in networks]  # noqa: B023
        walls = [wall for wall, _ in times]
        called = f"inherited weights, {epochs} epochs" + ("" if epochs else " (statistics re-estimated)")
        cells = (statistics.median(walls), min(walls), max(walls), statistics.median(cpu for _, cpu in times))
        rows.append([called, *(f"{cell:.2f}" for cell in cells)])
    return rows


def as_inherited(task: Task, architecture: Architecture) -> tuple[float, float]:
    """Clean and PGD-10 accuracy of the student as it was cut, as the judge measures them but without training."""
    model = task.student(architecture, seed=task.setting.seed).to(memory_format=torch.channels_last)
    reestimate_statistics(model, Batches(task.data.train, batch_size=128, augmentation="", device=task.device))
    images = as_float(torch.from_numpy(task.data.held_out.images[:SELECTION_IMAGES]))
    labels = torch.from_numpy(task.data.held_out.labels[:SELECTION_IMAGES])
    threat = replace(task.threat, steps=SELECTION_STEPS, step=task.threat.epsilon / 4)
    return clean_and_robust(model, images, labels, threat, seed=task.setting.seed)


def questions(task: Task, bench: Bench, networks: Sequence[Architecture], seed: int) -> list[list[str]]:
    """The cost model on architectures it never saw and again, budgets, and LIPS; CPU ms are the mean."""
    generator = np.random.default_rng(seed)
    sizes = [len(gene.options) for gene in bench.space.genes]
    asked = [Architecture(tuple(int(generator.integers(size)) for size in sizes)) for _ in range(COST_CALLS)]
    fresh = Bench(task, bench.profiles, bench.teacher_costs, bench.teacher_robust)
    work: dict[str, tuple[Callable[[Architecture], Any], Sequence[Architecture]]] = {
        "cost, first time": (fresh.cost, asked),
        "cost, again": (fresh.cost, asked),
        "within the budgets": (fresh.fits, asked),
        "LIPS, first time": (fresh.features, networks),
        "LIPS, again": (fresh.features, networks),
    }
    rows = []
    for called, (ask, ones) in work.items():
        times = [timed(lambda one=one: ask(one)) for one in ones]  # noqa: B023
        ms, processor = [1000 * wall for wall, _ in times], sum(cpu for _, cpu in times) / len(times)
        cells = statistics.median(ms), np.quantile(ms, 0.99), 1000 * processor
        rows.append([called, *(f"{cell:.3f}" for cell in cells), f"{1 / processor:,.0f}"])
    return rows


def bare(name: str, opened: Opened, asked: argparse.Namespace) -> list[str]:
    """The strategy's own work per network, its making included, on a bench that remembers nothing yet."""
    bench = Bench(opened.task, opened.bench.profiles, opened.bench.teacher_costs, opened.bench.teacher_robust)
    judged = 0

    def loop() -> None:
        nonlocal judged
        search = strategy(name, bench, EvenJudge(), seed=asked.seed)
        while judged < asked.evaluations and (found := search.step()):
            judged += len(found)

    wall, processor = timed(loop)
    return [name, str(judged), f"{1000 * wall / judged:.1f}", f"{1000 * processor / judged:.1f}"]


class WatchedJudge:
    """The judge of a search, with the processor time that it takes."""

    def __init__(self, judge: TrainedJudge) -> None:
        self.judge, self.digest, self.name = judge, judge.digest, judge.name
        self.prepare, self.state_dict, self.load_state_dict = judge.prepare, judge.state_dict, judge.load_state_dict
        self.processor = 0.0

    @property
    def spent(self) -> float:
        return self.judge.spent

    def __call__(self, architecture: Architecture) -> Score:
        started = time.process_time()
        score = self.judge(architecture)
        self.processor += time.process_time() - started
        return score


def overhead(name: str, folder: Path, asked: argparse.Namespace) -> list[str]:
    """The stage as the product runs it, with the real judge; processor time too, since a busy machine waits."""
    searching = Searching(open_task(folder, asked, strategy=name, evaluations=asked.evaluations))
    searching.judge = judge = WatchedJudge(searching.judge)  # type: ignore[assignment]
    found: dict[str, Any] = {}
    _, processor = timed(lambda: found.update(searching.search()))
    outside = found["seconds"] - found["judge_seconds"]
    share, processor_share = outside / found["seconds"], 1 - judge.processor / processor
    cells = f"{found['seconds']:.1f}", f"{outside:.2f}", f"{100 * share:.1f} %", f"{100 * processor_share:.1f} %"
    return [name, str(found["evaluations"]), *cells]


if __name__ == "__main__":
    main()
