"""Adversarial training steps per second: `fit` beside the plain loop, same network, batches and attack, in one run.

The plain loop is what one writes first: float32, contiguous memory, denormal numbers as they come, PGD on the whole
network. Each side trains from the same weights in processes of its own, in turn, so that a busy machine slows both;
the ratio is of steps per second of whole trainings, for `fit` with its held-out check after every epoch included.
Both networks are then judged alike: held-out accuracy under PGD-10 with its Wilson interval.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
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
from rcnas_edge.train.judging import clean_and_robust, reestimate_statistics
from rcnas_edge.train.recipe import Recipe, recipe

SIDES = ("plain", "fit")


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
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        print(json.dumps(trained(asked.worker, asked)))
        return
    print(machine())
    print(
        f"{asked.network} on {asked.dataset}, PGD-{asked.attack_steps}, batches of {asked.batch_size}, "
        f"{asked.epochs} epochs, {asked.repeats} repeats (seeds 0 to {asked.repeats - 1}), {asked.device}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in range(asked.repeats):
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", side, "--seed", str(seed)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[side].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for side in SIDES:
        rates = [run["steps"] / run["seconds"] for run in found[side]]
        robust = Rate(sum(run["hits"] for run in found[side]), sum(run["total"] for run in found[side]))
        rows.append([side, f"{statistics.median(rates):.2f}", f"{min(rates):.2f} to {max(rates):.2f}", str(robust)])
    show("adversarial training", ["", "steps per second (median)", "range", "held-out robust, PGD-10, all seeds"], rows)
    pairs = zip(found["plain"], found["fit"], strict=True)
    ratios = [one["seconds"] / one["steps"] / (other["seconds"] / other["steps"]) for one, other in pairs]
    print(f"fit is {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")


def trained(side: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Train one side; its steps, seconds and held-out hits."""
    data = load_dataset(asked.dataset, root=asked.data_root, subset=asked.subset)
    threat, kind = Threat.parse(data.threat), family("wrn")
    config = kind.network(asked.network, image=data.image, classes=data.classes, mean=data.mean, std=data.std)
    torch.manual_seed(asked.seed)
    network = kind.build(config)
    how = recipe("pgd-at", epochs=asked.epochs, batch_size=asked.batch_size, attack_steps=asked.attack_steps)
    device = torch.device(asked.device)
    started = time.perf_counter()
    if side == "fit":
        fit(network, data, threat, how, seed=asked.seed, device=device)
    else:
        plain(network, data, threat, how, asked.seed, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    images = torch.from_numpy(data.held_out.floats()).to(device)
    labels = torch.from_numpy(data.held_out.labels).to(device)
    robust = clean_and_robust(network.eval(), images, labels, threat, seed=asked.seed)[1]
    batches = len(Batches(data.train, batch_size=asked.batch_size, augmentation="none", device=device))
    total = len(labels)
    return {"steps": batches * asked.epochs, "seconds": seconds, "hits": round(robust * total), "total": total}


def plain(network: nn.Module, data: Dataset, threat: Threat, how: Recipe, seed: int, device: torch.device) -> None:
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
    network.load_state_dict(average.module.state_dict())
    reestimate_statistics(network, batches)


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
