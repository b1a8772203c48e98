"""Adversarial training steps per second: `fit` beside the plain loop, same network, batches and attack, in one run.

The plain loop is what one writes first: float32, contiguous memory, denormal numbers as they come, PGD on the whole
network. `fit` trains without torch.compile, `compiled` with it, whatever it would choose by itself. Each side trains
from the same weights in processes of its own, in turn. On a CPU seconds are those of the processor, so that other work
of the machine does not count: take OMP_NUM_THREADS=1. The ratio is of steps per second after the first epoch, in which
threads start and networks are compiled, each epoch with its held-out check under PGD-10, which selects the best one.
All networks are then judged alike: held-out accuracy under PGD-10 with its Wilson interval.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any import of torch

import torch
from machine import machine, show
from torch import nn
from torch.nn import functional

from rcnas_edge.attacks import Threat
from rcnas_edge.data import Dataset, load_dataset
from rcnas_edge.evaluate import Rate
from rcnas_edge.nets import family
from rcnas_edge.train.batches import Batches
from rcnas_edge.train.fit import fit
from rcnas_edge.train.judging import SELECTION_IMAGES, SELECTION_STEPS, clean_and_robust, reestimate_statistics
from rcnas_edge.train.recipe import Recipe, recipe

SIDES = ("plain", "fit", "compiled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", type=Path, help="folder of the data, in torchvision's layout")
    parser.add_argument("--subset", type=int, help="only so many training images")
    parser.add_argument("--network", default="wrn-16-2", help="a network of the family wrn")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="trainings of each side, with seeds 0, 1, ...")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES, help="what to time; plain is the reference")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.epochs < 2:
        parser.error(f"the first epoch is not counted, so there are at least 2 --epochs, got {asked.epochs}")
    if asked.worker:
        print(json.dumps(trained(asked.worker, asked)))
        return
    print(machine())
    print(
        f"{asked.network} on {asked.dataset}, PGD-{asked.attack_steps}, batches of {asked.batch_size}, "
        f"{asked.epochs} epochs, {asked.repeats} repeats (seeds 0 to {asked.repeats - 1}), {asked.device}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    sides = [side for side in SIDES if side == "plain" or side in asked.sides]
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for seed in range(asked.repeats):
        for side in sides:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", side, "--seed", str(seed)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for side in sides:
        robust = Rate(sum(run["hits"] for run in found[side]), sum(run["total"] for run in found[side]))
        rows.append([side, *(_rates(found[side], name) for name in ("later", "whole")), str(robust)])
    heads = ["", "steps per second after epoch 1", "of the whole training", "held-out robust, PGD-10, all seeds"]
    show("adversarial training (medians and ranges)", heads, rows)
    for side in sides[1:]:
        pairs = list(zip(found["plain"], found[side], strict=True))
        later, whole = ([other[name] / one[name] for one, other in pairs] for name in ("later", "whole"))
        print(
            f"{side} is {statistics.median(later):.2f} times as fast as plain ({min(later):.2f} to {max(later):.2f}), "
            f"{statistics.median(whole):.2f} times with its start"
        )


def _rates(runs: list[dict[str, Any]], name: str) -> str:
    rates = [run[name] for run in runs]
    return f"{statistics.median(rates):.3g} ({min(rates):.3g} to {max(rates):.3g})"


def trained(side: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Train one side; its steps per second, of the whole and after the first epoch, and its held-out hits."""
    data = load_dataset(asked.dataset, root=asked.data_root, subset=asked.subset)
    threat, kind = Threat.parse(data.threat), family("wrn")
    config = kind.network(asked.network, image=data.image, classes=data.classes, mean=data.mean, std=data.std)
    torch.manual_seed(asked.seed)
    network = kind.build(config)
    how = recipe("pgd-at", epochs=asked.epochs, batch_size=asked.batch_size, attack_steps=asked.attack_steps)
    device = torch.device(asked.device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    ends: list[float] = []

    def ended(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
        ends.append(clock())

    if side == "plain":
        plain(network, data, threat, how, asked.seed, device, ended)
    else:
        fit(network, data, threat, how, seed=asked.seed, device=device, progress=ended, compiled=side == "compiled")
    ended()
    images = torch.from_numpy(data.held_out.floats()).to(device)
    labels = torch.from_numpy(data.held_out.labels).to(device)
    robust = clean_and_robust(network.eval(), images, labels, threat, seed=asked.seed)[1]
    steps = len(Batches(data.train, batch_size=asked.batch_size, augmentation="none", device=device))
    later, whole = steps * (asked.epochs - 1) / (ends[-2] - ends[0]), steps * asked.epochs / (ends[-1] - started)
    return {"later": later, "whole": whole, "hits": round(robust * len(labels)), "total": len(labels)}


def plain(
    network: nn.Module,
    data: Dataset,
    threat: Threat,
    how: Recipe,
    seed: int,
    device: torch.device,
    ended: Callable[[], None],
) -> None:
    """The loop that one writes first: PGD-AT in float32 with the recipe's schedule and weight average."""
    network.to(device)
    average = torch.optim.swa_utils.AveragedModel(
        network,
        avg_fn=lambda old, new, count: old.lerp(new, 1 - min(how.ema, (1 + float(count)) / (10 + float(count)))),
    )
    batches = Batches(data.train, batch_size=how.batch_size, augmentation=data.augmentation, device=device)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=how.learning_rate, momentum=how.momentum, weight_decay=how.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, how.learning_rate, epochs=how.epochs, steps_per_epoch=len(batches), pct_start=1 / how.epochs
    )
    for epoch in range(how.epochs):
        for images, labels in batches.epoch(seed, epoch):
            images = images.contiguous()
            adversarial = plain_pgd(network.eval(), images, labels, threat, how)
            optimiser.zero_grad()
            functional.cross_entropy(network.train()(adversarial), labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), how.clip)
            optimiser.step()
            schedule.step()
            average.update_parameters(network)
        plain_check(average.module.eval(), data, threat, device)
        ended()
    network.load_state_dict(average.module.state_dict())
    reestimate_statistics(network, batches)


def plain_check(network: nn.Module, data: Dataset, threat: Threat, device: torch.device) -> float:
    """Held-out accuracy under PGD-10, as one would select the best epoch by."""
    how = recipe("pgd-at", attack_steps=SELECTION_STEPS)
    images = torch.from_numpy(data.held_out.floats()[:SELECTION_IMAGES]).to(device)
    labels = torch.from_numpy(data.held_out.labels[:SELECTION_IMAGES]).to(device)
    right = 0
    for part, truth in zip(images.split(512), labels.split(512), strict=True):
        adversarial = plain_pgd(network, part, truth, threat, how)
        with torch.no_grad():
            right += int((network(part).argmax(1).eq(truth) & network(adversarial).argmax(1).eq(truth)).sum())
    return right / len(labels)


def plain_pgd(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, threat: Threat, how: Recipe
) -> torch.Tensor:
    """PGD in float32: images (N, C, H, W) in [0, 1], labels (N,)."""
    epsilon, step = threat.epsilon, max(how.step_ratio, 1 / how.attack_steps) * threat.epsilon
    adversarial = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
    for _ in range(how.attack_steps):
        adversarial.requires_grad_(True)
        loss = functional.cross_entropy(network(adversarial), labels)
        (gradient,) = torch.autograd.grad(loss, adversarial)
        moved = adversarial.detach() + step * gradient.sign()
        adversarial = images + (moved - images).clamp(-epsilon, epsilon)
        adversarial = adversarial.clamp(0, 1)
    return adversarial


if __name__ == "__main__":
    main()
