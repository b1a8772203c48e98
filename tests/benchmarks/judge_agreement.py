"""Does the judge rank networks as their full training does? Spearman's rank correlation, with its cost.

Random networks within the budget are trained in full, from the teacher's weights with its soft labels, and attacked on
test images by APGD-CE, APGD-T and Square: that is the truth. A judge is a start (weights inherited from the teacher, or
fresh ones) and a length in epochs of the same recipe, and scores by PGD-10 or by clean accuracy on held-out images;
0 epochs are the inherited weights as they are. MACs, parameters and LIPS are there for comparison. Intervals are
bootstrapped over the networks; `of the best` is the loss in true accuracy by taking the network that the judge puts
first of them. With several --truth-seeds the truth is their mean, and how well one seed's truth ranks the next one's is
printed: no judge can be expected to do better. The cost is CPU seconds for one network.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any import of torch

import numpy as np
from machine import machine, show
from real_setting import RealSetting, Trained, arguments

from rcnas_edge.cost import show as amount
from rcnas_edge.pipeline.run import Run
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.sampling import Sampler
from rcnas_edge.space import Architecture

RESAMPLES = 10_000
STARTS = ("inherited", "fresh")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--budget", default="10%", help="MACs of a network, of the teacher's")
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[0, 1, 2], help="epochs of judges with inherited weights"
    )
    parser.add_argument("--fresh-lengths", type=int, nargs="*", default=[1], help="of judges with fresh weights")
    parser.add_argument("--truth-seeds", type=int, nargs="+", default=[0], help="of the full training")
    parser.add_argument("--truth-images", type=int, default=500, help="test images of the truth")
    parser.add_argument("--seed", type=int, default=0, help="of the networks, and of the judges' trainings")
    asked = parser.parse_args()
    with Run(asked.work).locked():
        tell(RealSetting(asked), asked)


@dataclass(frozen=True)
class Proxy:
    """What a judge says of every network, and what one network costs it in seconds; None where that is not known."""

    name: str
    scored: str
    values: Sequence[float]
    seconds: float | None = None


def drawn(setting: RealSetting, budget: str, count: int, seed: int) -> list[Architecture]:
    """Different random networks within the budget, drawn gene by gene as random search does."""
    bench, generator = CachedBench.of(setting.bench(budget)), np.random.default_rng(seed)
    sampler, found = Sampler(bench), {}
    while len(found) < count:
        one = sampler.draw(
            lambda prefix: sampler.allowed(prefix).astype(float), lambda one: bench.key(one) in found, generator
        )
        if one is None:
            break
        found[bench.key(one)] = one
    return list(found.values())


def truths(setting: RealSetting, networks: Sequence[Architecture], asked: argparse.Namespace) -> list[list[Trained]]:
    """Every network after its full training, by seed."""
    return [
        [setting.trained(setting.student(one), epochs=asked.epochs, seed=seed) for one in networks]
        for seed in asked.truth_seeds
    ]


def proxies(setting: RealSetting, networks: Sequence[Architecture], asked: argparse.Namespace) -> list[Proxy]:
    """What every judge says of the networks."""
    found = []
    for start, lengths in zip(STARTS, (asked.lengths, asked.fresh_lengths), strict=True):
        for epochs in lengths:
            students = [setting.student(one, inherits=start == "inherited") for one in networks]
            judged = [setting.trained(student, epochs=epochs, seed=asked.seed) for student in students]
            name, cost = f"{start} weights, {epochs} epoch(s)", cost_of(judged)
            found.append(Proxy(name, "PGD-10", [one.robust for one in judged], cost))
            found.append(Proxy(name, "clean", [one.clean for one in judged], cost))
    bench = setting.bench(asked.budget)
    found.append(Proxy("no training", "MACs", [bench.cost(one).macs for one in networks]))
    found.append(Proxy("no training", "parameters", [bench.cost(one).params for one in networks]))
    lips = [
        setting.cells.get(
            "lips",
            {**setting.common, "teacher": setting.task.teacher.digest, "network": setting.task.space.describe(one)},
            lambda one=one: {"lips": bench.features(one)},
        )["lips"]
        for one in networks
    ]
    found.append(Proxy("no training", "- LIPS", [-value for value in lips]))
    return found


def cost_of(trained: Sequence[Trained]) -> float | None:
    """The median of the seconds of those that were not resumed."""
    known = [one.seconds for one in trained if one.seconds is not None]
    return statistics.median(known) if known else None


# statistics


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one side says the same of all."""
    from scipy import stats

    if len(set(first)) < 2 or len(set(second)) < 2:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)


def spearman_interval(
    first: Sequence[float], second: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Its 95 % bootstrap interval over the networks."""
    from scipy import stats

    generator, size = np.random.default_rng(seed), len(first)
    chosen = generator.integers(size, size=(resamples, size))
    one, other = (stats.rankdata(np.asarray(values)[chosen], axis=1) for values in (first, second))
    one, other = one - one.mean(1, keepdims=True), other - other.mean(1, keepdims=True)
    norm = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    found = np.divide((one * other).sum(1), norm, out=np.zeros(resamples), where=norm > 0)
    return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def lost(proxy: Sequence[float], truth: Sequence[float]) -> float:
    """How much less true accuracy the proxy's first network has than the best; of equal firsts the mean."""
    scores, values = np.asarray(proxy), np.asarray(truth)
    return float(values.max() - values[scores == scores.max()].mean())


# tables


def tell(setting: RealSetting, asked: argparse.Namespace) -> None:
    print(machine())
    limit = setting.bench(asked.budget).budgets[0].limit
    networks = drawn(setting, asked.budget, asked.networks, asked.seed)
    print(
        f"{setting.data.name}, {setting.threat.norm}:{setting.threat.epsilon:.4g}, {len(setting.data.train)} training "
        f"images, {len(setting.data.held_out)} held-out; teacher {setting.config.name}, n = {len(networks)} random "
        f"networks of at most {amount('macs', limit)} (seed {asked.seed})\n"
        f"truth: {setting.recipe(asked.epochs).words()}, seeds {asked.truth_seeds}; APGD-CE {asked.attack_steps} "
        f"steps, APGD-T 9 x {asked.attack_steps}, Square {asked.square_queries} queries, first {asked.truth_images} "
        f"test images; {asked.device}",
        flush=True,
    )
    judged = proxies(setting, networks, asked)  # first, since they are cheap: a cut run has something to show
    full = truths(setting, networks, asked)
    by_seed = [
        [float(setting.headline(one, images=asked.truth_images)["robust"].mean()) for one in trained]
        for trained in full
    ]
    truth = list(np.mean(by_seed, axis=0))
    show(
        "the networks",
        ("network", "M MACs", *(f"robust, seed {seed}" for seed in asked.truth_seeds)),
        [
            [one.student.name, f"{one.student.macs / 1e6:.2f}", *(f"{100 * seed[place]:.1f} %" for seed in by_seed)]
            for place, one in sorted(enumerate(full[0]), key=lambda pair: -truth[pair[0]])
        ],
    )
    held_out = list(np.mean([[one.robust for one in trained] for trained in full], axis=0))
    judged.append(Proxy("full training", "PGD-10", held_out, cost_of(full[0])))
    show(
        f"agreement with the truth, n = {len(networks)} networks",
        ("judge", "scored by", "Spearman", "95 %", "of the best, points", "CPU s"),
        [_line(proxy, truth) for proxy in judged],
    )
    for place, seed in enumerate(asked.truth_seeds[1:], start=1):
        words = f"the truth of seed {asked.truth_seeds[0]} and that of seed {seed} agree with Spearman"
        print(f"{words} {spearman(by_seed[0], by_seed[place]):.2f}")


def _line(proxy: Proxy, truth: Sequence[float]) -> list[str]:
    low, high = spearman_interval(proxy.values, truth)
    seconds = "" if proxy.seconds is None else f"{proxy.seconds:.1f}"
    cells = f"{spearman(proxy.values, truth):.2f}", f"[{low:.2f}, {high:.2f}]", f"{100 * lost(proxy.values, truth):.1f}"
    return [proxy.name, proxy.scored, *cells, seconds]


if __name__ == "__main__":
    main()
