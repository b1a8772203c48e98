"""What a search is worth on real training: RC-NAS beside random search, RobustScaling and channel pruning.

The teacher is a WRN, the budget a tenth of its MACs. Every search judges equally many networks with one judge (the
product's: inherited weights, a short adversarial training with the teacher's soft labels, PGD-10 on held-out images),
and its best judged one is taken; RobustScaling takes the largest network of its rule that fits, pruning (Torch-Pruning:
group-wise L2 norms over all that is coupled, one ratio for every layer, whole blocks stay) cuts the teacher until it
fits, and both judge nothing. All students are then trained alike, from the teacher's weights, with one seed for all
arms, and attacked on the same test images by APGD-CE, APGD-T and Square (worst case per image): how many steps and
queries is printed. The seed is that of the search and of the final training; teacher and judge are the same for all.

Effects are paired: RC-NAS minus the other arm on the same images, with exact McNemar's p-value per seed; over seeds the
mean with two intervals, one over the images (bootstrap, these seeds), one over the seeds (Student's t, these images).
The arm with meta-training is left out, with the reason, where there is no agent.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any import of torch

import numpy as np
import torch
from even_judge import EvenJudge
from machine import machine, show
from real_setting import AGENT, CellJudge, RealSetting, Student, Trained, arguments, say
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rcnas_edge.compare import Difference
from rcnas_edge.cost import show as amount
from rcnas_edge.evaluate import RESAMPLES, Rate
from rcnas_edge.pipeline.run import Run
from rcnas_edge.search.scaling import RobustScaling, ScalingConfig
from rcnas_edge.space import Architecture

SEARCHES = ("rc-nas", AGENT, "random")
SCALING, PRUNING = "robust-scaling", "magnitude pruning"
ARMS = (*SEARCHES, SCALING, PRUNING)
STEPS, QUERIES = 100, 5000
"""Of the attack in full, as `attacks.headline` has them."""
HALVINGS = 12
"""Of the interval that the pruning ratio lies in: to a 4096th."""


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--budget", default="10%", help="MACs of a student, of the teacher's")
    parser.add_argument("--evaluations", type=int, default=16, help="networks that each search judges")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--teacher-images", type=int, default=500, help="test images that the teacher is attacked on")
    parser.add_argument(
        "--check-images", type=int, default=100, help="test images on which one student meets the attack in full, too"
    )
    asked = parser.parse_args()
    with Run(asked.work).locked():
        tell(RealSetting(asked), asked)


@dataclass(frozen=True)
class Outcome:
    """What an arm came to in one seed: the trained student, its flags on test images, and the judge's score or None."""

    trained: Trained
    flags: Mapping[str, np.ndarray]
    score: float | None
    judged: int


def outcomes(
    setting: RealSetting, asked: argparse.Namespace, arms: Sequence[str]
) -> Iterator[tuple[str, int, Outcome]]:
    """Every arm in every seed, seed by seed."""
    for seed in asked.seeds:
        for arm in arms:
            say(f"seed {seed}: {arm}")
            student, score, judged = chosen(setting, arm, seed, asked)
            trained = setting.trained(student, epochs=asked.epochs, seed=seed)
            yield arm, seed, Outcome(trained, setting.headline(trained), score, judged)


def chosen(setting: RealSetting, arm: str, seed: int, asked: argparse.Namespace) -> tuple[Student, float | None, int]:
    """The network that an arm takes, the judge's score of it if it asked one, and how many networks were judged."""
    if arm == PRUNING:
        return pruned(setting, asked.budget), None, 0
    if arm == SCALING:
        return setting.student(scaled(setting, asked.budget)), None, 0
    judge = CellJudge(setting, epochs=asked.judge_epochs)
    found = setting.searched(arm, judge, budget=asked.budget, seed=seed, evaluations=asked.evaluations)
    picks = Architecture(tuple(found["best"]))
    return setting.student(picks), max(found["scores"]), len(found["scores"])


def scaled(setting: RealSetting, budget: str) -> Architecture:
    """The largest network of RobustScaling's line that fits: its first, whatever a judge would say."""
    search = RobustScaling(setting.bench(budget), EvenJudge(), ScalingConfig(batch=1))
    return search.step()[0].architecture


# pruning


def pruned(setting: RealSetting, budget: str) -> Student:
    """The teacher with channels pruned, the most MACs within the budget; its weights are kept."""
    import torch_pruning

    limit = setting.bench(budget).budgets[0].limit
    key = {"teacher": setting.task.teacher.digest, "macs": limit, "halvings": HALVINGS}

    def make() -> dict[str, Any]:
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):  # MACs fall with the ratio
            middle = (low + high) / 2
            if macs_of(cut_channels(setting, middle), setting.data.image) > limit:
                low = middle
            else:
                high = middle
        model = cut_channels(setting, high)
        widths = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
        values = {"ratio": high, "macs": macs_of(model, setting.data.image), "channels": widths}
        return {**values, "torch-pruning": torch_pruning.__version__}

    found = setting.cells.get("pruning", key, make)
    ratio = found["ratio"]
    return Student(
        f"{setting.config.name} pruned by {100 * ratio:.0f} %",
        {"pruned": setting.task.teacher.digest, "ratio": ratio},
        found["macs"],
        lambda: cut_channels(setting, ratio),
    )


def cut_channels(setting: RealSetting, ratio: float) -> nn.Module:
    """A copy of the teacher without this share of the channels of every coupled group, the smallest norms first."""
    import torch_pruning

    model = copy.deepcopy(setting.task.teacher.model).cpu().eval()
    with torch.enable_grad():  # it follows the graph of gradients
        torch_pruning.pruner.BasePruner(
            model,
            torch.zeros(1, *setting.data.image),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[module for module in model.modules() if isinstance(module, nn.Linear)],
        ).step()
    for parameter in model.parameters():
        parameter.grad = None
    return model


def macs_of(model: nn.Module, image: Sequence[int]) -> float:
    """Multiply-accumulates of convolutions and linear layers for one image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *image))
    return counter.get_total_flops() / 2


# tables


def tell(setting: RealSetting, asked: argparse.Namespace) -> None:
    print(machine())
    best, budget = setting.teacher_best, setting.bench(asked.budget).budgets[0]
    print(
        f"{setting.data.name}, {setting.threat.norm}:{setting.threat.epsilon:.4g}, {len(setting.data.train)} training "
        f"images; teacher {setting.config.name}, {amount('macs', setting.teacher.macs)}, held-out clean "
        f"{100 * best['clean']:.1f} %, PGD-10 {100 * best['robust']:.1f} % (n = {len(setting.data.held_out)})\n"
        f"budget {asked.budget}, {amount('macs', budget.limit)}; {asked.evaluations} networks judged per search, "
        f"judge: {asked.judge_epochs} epoch(s); final training: {setting.recipe(asked.epochs).words()}\n"
        f"attack: APGD-CE {asked.attack_steps} steps, APGD-T 9 x {asked.attack_steps}, Square "
        f"{asked.square_queries} queries, n = {asked.test} test images; seeds {asked.seeds}, {asked.device}"
    )
    arms, (agent, words) = list(asked.arms), setting.agent()
    if AGENT in arms and agent is None:
        arms.remove(AGENT)
        print(f"{AGENT}: left out, {words}")
    elif AGENT in arms:
        print(words)
    found: dict[str, dict[int, Outcome]] = {arm: {} for arm in arms}
    for arm, seed, outcome in outcomes(setting, asked, arms):
        found[arm][seed] = outcome
    show(
        f"students, n = {asked.test} test images each",
        ("arm", "seed", "network", "M MACs", "judged", "judge's score", "held-out", "clean", "robust, worst case"),
        [_row(arm, seed, one) for arm in arms for seed, one in found[arm].items()],
    )
    show(
        f"over seeds {asked.seeds}",
        ("arm", "median robust", "least", "most", "median clean"),
        [_over_seeds(arm, found[arm]) for arm in arms],
    )
    first = next((arm for arm in ("rc-nas", AGENT) if arm in arms), None)
    pairs = [(first, other) for other in arms if first and other != first]
    pairs += [(AGENT, other) for other in arms if AGENT in arms and first != AGENT and other not in (first, AGENT)]
    show(
        "robust accuracy, first minus second on the same images, per seed",
        ("first", "second", "seed", "difference, points [95 %], McNemar"),
        [
            [one, other, str(seed), str(Difference.of(found[other][seed].flags["robust"], ours.flags["robust"]))]
            for one, other in pairs
            for seed, ours in found[one].items()
        ],
    )
    show(
        "the mean of these over seeds, in points",
        ("first", "second", "mean", "95 % over images", "95 % over seeds"),
        [[one, other, *_effect(found[one], found[other])] for one, other in pairs],
    )
    if asked.check_images:
        _checked(setting, asked, next(iter(found[first or arms[0]].values())).trained)
    if asked.teacher_images:
        teacher = setting.teacher
        flags = setting.attacked(
            setting.task.teacher.digest,
            lambda: teacher.build(),
            images=asked.teacher_images,
            steps=asked.attack_steps,
            queries=asked.square_queries,
        )
        print(f"\nteacher: clean {Rate.of(flags['clean'])}, robust {Rate.of(flags['robust'])}")


def _checked(setting: RealSetting, asked: argparse.Namespace, trained: Trained) -> None:
    """How much the attack in full, of `attacks.headline`, finds beyond the one that all students met."""
    count = min(asked.check_images, asked.test)
    short = setting.headline(trained)["robust"][:count]
    full = setting.headline(trained, images=count, steps=STEPS, queries=QUERIES)["robust"]
    print(
        f"\nthe attack in full (APGD of {STEPS} steps, Square of {QUERIES} queries) on {trained.student.name} leaves "
        f"{Rate.of(full)} of the first images, the attack above {Rate.of(short)}"
    )


def _row(arm: str, seed: int, one: Outcome) -> list[str]:
    trained, flags = one.trained, one.flags
    score = "" if one.score is None else f"{100 * one.score:.1f} %"
    cells = trained.student.name, f"{trained.student.macs / 1e6:.2f}", str(one.judged), score
    held_out = f"{100 * trained.robust:.1f} %"
    return [arm, str(seed), *cells, held_out, f"{100 * flags['clean'].mean():.1f} %", str(Rate.of(flags["robust"]))]


def _over_seeds(arm: str, found: Mapping[int, Outcome]) -> list[str]:
    robust = [100 * one.flags["robust"].mean() for one in found.values()]
    clean = [100 * one.flags["clean"].mean() for one in found.values()]
    numbers = statistics.median(robust), min(robust), max(robust), statistics.median(clean)
    return [arm, *(f"{number:.1f} %" for number in numbers)]


def _effect(first: Mapping[int, Outcome], second: Mapping[int, Outcome]) -> list[str]:
    each = np.stack([first[s].flags["robust"].astype(float) - second[s].flags["robust"] for s in first])
    images, seeds = over_images(each), over_seeds(each)
    return [f"{100 * each.mean():+.2f}", _interval(images), "one seed" if seeds is None else _interval(seeds)]


def over_images(differences: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of differences (seeds, n) over images drawn anew; the seeds stay."""
    means = differences.mean(axis=0)  # an image goes with all of its seeds
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(means, size=means.size).mean() for _ in range(resamples)]
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def over_seeds(differences: np.ndarray) -> tuple[float, float] | None:
    """The 95 % interval of the mean of differences (seeds, n) by Student's t over the seeds; None of one seed."""
    from scipy import stats

    means = differences.mean(axis=1)
    if len(means) < 2:
        return None
    spread = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean() - spread), float(means.mean() + spread)


def _interval(ends: tuple[float, float]) -> str:
    return f"[{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]"


if __name__ == "__main__":
    main()
