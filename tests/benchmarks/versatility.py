"""Do other attacks and budgets lead to other networks, and does meta-training find them earlier? Two pictures.

`versatility-stages.png`: the depth and width of each stage, as shares of the teacher's, that RC-NAS recommends for
clean accuracy, PGD and AutoAttack's kind of attack under two budgets, as Fig. 1 of "Reinforced Compressive Neural
Architecture Search for Versatile Adversarial Robustness" (KDD 2024, arXiv 2406.06792). For the clean target the judge's
short training is clean too; the other two share it, and are scored on held-out images by PGD-10, and by APGD-CE, APGD-T
and a little of Square. Bars are the best judged network, dots the two after it: where they disagree, the judge does
not tell the difference.

`versatility-curves.png`: the best robust accuracy by the judge (PGD-10) against evaluations, with and without
meta-training and of random search, as its Fig. 3: median over seeds, and each seed as a thin line. These searches begin
without the networks of scaling rules, which would be the first ones with and without an agent alike.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any import of torch

import numpy as np
from machine import machine, show
from real_setting import AGENT, CellJudge, RealSetting, arguments, curve, say

from rcnas_edge.pipeline.run import Run
from rcnas_edge.space import Architecture

TARGETS = ("clean", "PGD", "AutoAttack")
SEARCHES = ("rc-nas", AGENT, "random")
NO_BALL = 1e-6
"""The epsilon of a training on clean images: the same code, in a ball that no pixel of 8 bits can feel."""
COLOURS = {"rc-nas": "#0b6e99", AGENT: "#c2410c", "random": "#6b7280"}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--budgets", nargs="+", default=["10%", "20%"], help="MACs of a student, of the teacher's")
    parser.add_argument("--evaluations", type=int, default=10, help="networks judged for each target and budget")
    parser.add_argument("--judge-images", type=int, default=300, help="held-out images that the target AutoAttack asks")
    parser.add_argument("--judge-attack-steps", type=int, default=5, help="of its APGD")
    parser.add_argument("--curve-evaluations", type=int, default=16, help="of the curves, as in real_search.py")
    parser.add_argument("--curve-budget", default="10%")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the curves; the first is the bars'")
    parser.add_argument("--out", type=Path, help="folder of the pictures; by default that of the cells")
    asked = parser.parse_args()
    with Run(asked.work).locked():
        tell(RealSetting(asked), asked)


def judge(setting: RealSetting, target: str, asked: argparse.Namespace) -> CellJudge:
    """The judge of a target: how it trains, and what it counts."""
    if target == "clean":
        still = replace(setting.threat, epsilon=NO_BALL, step=NO_BALL)
        return CellJudge(setting, epochs=asked.judge_epochs, name="clean", threat=still, score=lambda one: one.clean)
    if target == "PGD":
        return CellJudge(setting, epochs=asked.judge_epochs)
    steps, images = asked.judge_attack_steps, min(asked.judge_images, len(setting.data.held_out))

    def attacked(one: Any) -> float:
        found = setting.attacked(one.digest, one.load, images=images, steps=steps, queries=20, split="held_out")
        return float(found["robust"].mean())

    return CellJudge(setting, epochs=asked.judge_epochs, name=f"apgd {steps} on {images}", score=attacked)


def best_three(found: Mapping[str, Any]) -> list[Architecture]:
    """The networks judged best, first by score, then by their order."""
    order = sorted(range(len(found["scores"])), key=lambda place: (-found["scores"][place], place))
    rest = [found["picks"][place] for place in order if found["picks"][place] != found["best"]]
    return [Architecture(tuple(picks)) for picks in [found["best"], *rest[:2]]]


def shares(setting: RealSetting, architecture: Architecture) -> dict[str, list[Any]]:
    """Depth and width of every stage as shares of the teacher's, and whether its blocks are robust ones."""
    stages = setting.family.config(setting.task.space.describe(architecture)).stages()
    whole = setting.config.stages()
    return {
        "depth": [one["depth"] / all_["depth"] for one, all_ in zip(stages, whole, strict=True)],
        "width": [one["width"] / all_["width"] for one, all_ in zip(stages, whole, strict=True)],
        "words": [f"{one['depth']}x{one['width']}" for one in stages],
        "robust": [one["block"] == "robust" for one in stages],
    }


def tell(setting: RealSetting, asked: argparse.Namespace) -> None:
    print(machine())
    arms, (agent, words) = list(SEARCHES), setting.agent()
    if agent is None:
        arms.remove(AGENT)
    print(
        f"{setting.data.name}, {setting.threat.norm}:{setting.threat.epsilon:.4g}, {len(setting.data.train)} training "
        f"images, {len(setting.data.held_out)} held-out; teacher {setting.config.name}; judge of {asked.judge_epochs} "
        f"epoch(s); AutoAttack's judge: APGD of {asked.judge_attack_steps} steps, {asked.judge_images} images\n"
        f"{asked.evaluations} networks judged per target and budget, seed {asked.seeds[0]}; curves: "
        f"{asked.curve_evaluations} networks, {asked.curve_budget}, without scaling rules, seeds {asked.seeds}; "
        f"{asked.device}\n"
        f"{AGENT}: {words if agent else f'left out, {words}'}",
        flush=True,
    )
    found: dict[tuple[str, str], list[Architecture]] = {}
    rows = []
    for budget in asked.budgets:
        for target in TARGETS:
            say(f"{target} at {budget}")
            searched = setting.searched(
                "rc-nas",
                judge(setting, target, asked),
                budget=budget,
                seed=asked.seeds[0],
                evaluations=asked.evaluations,
            )
            found[budget, target] = best_three(searched)
            student = setting.student(found[budget, target][0])
            score = f"{100 * max(searched['scores']):.1f} %"
            rows.append([budget, target, student.name, f"{student.macs / 1e6:.2f}", score])
    show("the best judged network", ("budget", "target", "network", "M MACs", "judge's score"), rows)
    out = asked.out or asked.work
    draw_stages(setting, asked.budgets, found, out / "versatility-stages.png")
    curves = {
        arm: np.stack(
            [
                curve(
                    setting.searched(
                        arm,
                        judge(setting, "PGD", asked),
                        budget=asked.curve_budget,
                        seed=seed,
                        evaluations=asked.curve_evaluations,
                        rules=False,
                    )["scores"]
                )
                for seed in asked.seeds
            ]
        )
        for arm in arms
    }
    shown = [place for place in (1, 2, 4, 8, 12, 16, 24, 32, 64) if place <= asked.curve_evaluations]
    show(
        f"best score of the judge after so many evaluations, median over seeds {asked.seeds} [least, most]",
        ("search", *map(str, shown)),
        [[arm, *(_spread(values[:, place - 1]) for place in shown)] for arm, values in curves.items()],
    )
    draw_curves(curves, asked, setting, out / "versatility-curves.png")
    print(f"\npictures: {out / 'versatility-stages.png'}, {out / 'versatility-curves.png'}")


def _spread(values: np.ndarray) -> str:
    return f"{100 * np.median(values):.1f} [{100 * values.min():.1f}, {100 * values.max():.1f}]"


# pictures


def draw_stages(
    setting: RealSetting, budgets: Sequence[str], found: Mapping[tuple[str, str], Sequence[Architecture]], path: Path
) -> None:
    """A row per budget, a column per target, in each two bars per stage."""
    plt = _pyplot()
    size = (3.1 * len(TARGETS), 2.5 * len(budgets) + 0.5)
    figure, grid = plt.subplots(len(budgets), len(TARGETS), figsize=size, sharey=True, squeeze=False)
    for row, budget in enumerate(budgets):
        for column, target in enumerate(TARGETS):
            axes, networks = grid[row][column], [shares(setting, one) for one in found[budget, target]]
            places = np.arange(len(networks[0]["depth"]))
            for side, (what, colour) in enumerate((("depth", "#0b6e99"), ("width", "#e0a458"))):
                x = places + 0.38 * (side - 0.5)
                bars = axes.bar(x, networks[0][what], 0.36, color=colour, label=what, zorder=2)
                for bar, robust in zip(bars, networks[0]["robust"], strict=True):
                    bar.set_hatch("///" if robust else "")
                    bar.set_edgecolor("white")
                for nudge, other in zip((-0.07, 0.07), networks[1:], strict=False):
                    axes.plot(x + nudge, other[what], "o", color="#1f2937", markersize=3.2, zorder=3)
            labels = [f"stage {place + 1}\n{words}" for place, words in enumerate(networks[0]["words"])]
            axes.set_xticks(places, labels)
            axes.set_ylim(0, 1.08)
            axes.set_title(f"{target}, {budget} of the MACs", fontsize=10)
            if column == 0:
                axes.set_ylabel("share of the teacher's")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in ("#0b6e99", "#e0a458")]
    handles.append(plt.Rectangle((0, 0), 1, 1, facecolor="#9ca3af", edgecolor="white", hatch="///"))
    handles.append(plt.Line2D([], [], marker="o", linestyle="", color="#1f2937", markersize=4))
    names = ["depth (blocks)", "width (channels)", "robust blocks", "second and third best"]
    figure.legend(handles, names, loc="lower center", ncols=4, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    _save(plt, figure, path)


def draw_curves(curves: Mapping[str, np.ndarray], asked: argparse.Namespace, setting: RealSetting, path: Path) -> None:
    """The best so far of every search: the median over seeds, and each seed as a thin line."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 3.8))
    for arm, values in curves.items():
        places = np.arange(1, values.shape[1] + 1)
        axes.step(places, 100 * np.median(values, axis=0), where="post", color=COLOURS[arm], label=arm, linewidth=2)
        for one in values if len(values) > 1 else ():
            axes.step(places, 100 * one, where="post", color=COLOURS[arm], linewidth=0.8, alpha=0.45)
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axes.set_xlabel("networks judged")
    axes.set_ylabel("best robust accuracy, judge, %")
    seeds = f"{len(asked.seeds)} seeds" if len(asked.seeds) > 1 else f"seed {asked.seeds[0]}"
    words = f"{setting.data.name}, {setting.config.name}, {asked.curve_budget} of its MACs, no scaling rules, {seeds}"
    axes.set_title(words, fontsize=10)
    figure.legend(frameon=False, loc="lower center", ncols=len(curves))
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    _save(plt, figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "grid.color": "#e5e7eb",
            "font.size": 9,
            "figure.dpi": 150,
        }
    )
    return pyplot


def _save(plt: Any, figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
