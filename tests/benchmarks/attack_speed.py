"""The headline beside torchattacks' AutoAttack: seconds and robust accuracy, same model and same images, in one run.

`as shipped` is torchattacks.AutoAttack: 10 steps of APGD and FAB, and Square with its schedule stretched. `corrected`
is what a careful user of torchattacks writes: APGD-CE of 100 steps, APGDT of 9 x 100 and Square of 5000 queries without
rescaling, one after the other on what is left. `ours` is `rcnas_edge.attacks.headline` with the same numbers. Robust
accuracy is of the returned points, by one more forward pass. On a CPU seconds are those of the processor, so that other
work of the machine does not count; denormal numbers are flushed for all three. `--sides` without all of them saves
time, `--threat` changes the epsilon.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any import of torch

import torch
import torchattacks
from machine import machine, show
from torch import Tensor, nn

from rcnas_edge.attacks import Threat, headline
from rcnas_edge.data import load_dataset
from rcnas_edge.evaluate import Rate
from rcnas_edge.process import prepare_process
from rcnas_edge.teacher import open_teacher

STEPS, TARGETS, QUERIES = 100, 9, 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", type=Path, help="folder of the data, in torchvision's layout")
    parser.add_argument(
        "--teacher", help="the network to attack, as rcnas-edge takes it; by default the one that ships"
    )
    parser.add_argument("--threat", help="as linf:8/255:10; by default the data set's")
    parser.add_argument("--images", type=int, default=256, help="the first test images")
    parser.add_argument("--batch-size", type=int, default=256, help="images of a batch, for all sides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    asked = parser.parse_args()
    prepare_process()
    data = load_dataset(asked.dataset, root=asked.data_root)
    teacher = open_teacher(asked.teacher, None, data)
    threat = Threat.parse(asked.threat or data.threat)
    images = torch.from_numpy(data.test.floats()[: asked.images]).to(asked.device)
    labels = torch.from_numpy(data.test.labels[: asked.images]).long().to(asked.device)
    print(machine())
    print(f"{teacher.name} on {data.name}, {threat}, {len(images)} test images, seed {asked.seed}, {asked.device}")
    rows, seconds = [], {}
    for side in asked.sides:
        model = copy.deepcopy(teacher.model).to(asked.device).eval()
        began = clock(asked.device)
        points = SIDES[side](model, images, labels, threat, asked.seed, asked.batch_size)
        seconds[side] = clock(asked.device) - began
        with torch.no_grad():
            right = torch.cat([model(part).argmax(1) for part in points.split(asked.batch_size)]) == labels
        clean = torch.cat([model(part).argmax(1) for part in images.split(asked.batch_size)]) == labels
        ratio = f"{seconds[side] / seconds['corrected']:.2f}" if "corrected" in seconds else ""
        rows.append([side, f"{seconds[side]:.1f}", ratio, str(Rate.of((right & clean).cpu().numpy()))])
    show("", ["", "seconds", "of corrected", "robust accuracy"], rows)


def clock(device: str) -> float:
    """Seconds: of the processor, or with a GPU of the wall once it has done what it was given."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def shipped(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, seed: int, batch_size: int) -> Tensor:
    """torchattacks' AutoAttack as it comes."""
    classes = model(images[:1]).shape[1]
    adversary = torchattacks.AutoAttack(model, eps=threat.epsilon, n_classes=classes, seed=seed)
    return torch.cat(
        [adversary(*part) for part in zip(images.split(batch_size), labels.split(batch_size), strict=True)]
    )


def corrected(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, seed: int, batch_size: int) -> Tensor:
    """torchattacks' APGD, APGDT and Square with the values of the paper, in sequence."""
    classes = model(images[:1]).shape[1]
    common = {"eps": threat.epsilon, "seed": seed}
    targeted = torchattacks.APGDT(model, steps=STEPS, n_classes=classes, **common)
    targeted.n_target_classes = min(TARGETS, classes - 1)
    adversary = torchattacks.MultiAttack(
        [
            torchattacks.APGD(model, loss="ce", steps=STEPS, **common),
            targeted,
            torchattacks.Square(model, n_queries=QUERIES, resc_schedule=False, **common),
        ]
    )
    return torch.cat(
        [adversary(*part) for part in zip(images.split(batch_size), labels.split(batch_size), strict=True)]
    )


def ours(model: nn.Module, images: Tensor, labels: Tensor, threat: Threat, seed: int, batch_size: int) -> Tensor:
    """The headline with the same numbers."""
    results = headline(
        model, images, labels, threat, seed=seed, square_queries=QUERIES, steps=STEPS, batch_size=batch_size
    )
    for name, result in results.items():
        print(f"  {name}: {result.seconds:.1f} s of the wall, leaves {int(result.robust.sum())}", flush=True)
    return results["square"].adversarial


SIDES: dict[str, Callable[[nn.Module, Tensor, Tensor, Threat, int, int], Tensor]] = {
    "shipped": shipped,
    "corrected": corrected,
    "ours": ours,
}

if __name__ == "__main__":
    main()
