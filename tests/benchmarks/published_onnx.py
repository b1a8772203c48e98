"""ONNX files with published figures: clean accuracy to the digit, and attacks no weaker than the published one.

`resnet_2b` and `resnet_4b` are small CIFAR-10 networks that were trained adversarially at 2/255 (alpha-beta-CROWN; the
ONNX files are of VNN-COMP 2021). Their batch is fixed at one. They are opened as any file is by `rcnas-edge verify`,
read back as differentiable networks, and attacked there: APGD-CE with 100 steps, targeted APGD with 9 x 100 and Square.
Every point is shown to the file itself. A robust accuracy above that of the published multi-targeted PGD would say that
our attacks are too weak. With fewer than all 10,000 test images the published figures hold only within the interval.

The published figure is one of many restarts, and a few images in 10,000 fall to those alone. So those that are left and
closest to being fooled, by the margin of their logits under PGD with 20 steps, meet multi-targeted PGD too (Gowal et
al., arXiv 1910.09338), here with 64 restarts for each of the three likeliest wrong classes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any import of torch

import numpy as np
import torch
from machine import machine, show
from torch import nn

from rcnas_edge.attacks import Threat, headline, pgd
from rcnas_edge.data import load_dataset
from rcnas_edge.evaluate import Rate
from rcnas_edge.pipeline.feed import Feed
from rcnas_edge.pipeline.foreign import open_file
from rcnas_edge.process import prepare_process
from rcnas_edge.verify.subject import Predict


@dataclass(frozen=True)
class Published:
    """Percent of the 10,000 test images: right on clean ones, and under multi-targeted PGD at 2/255."""

    clean: float
    robust: float


NETWORKS = {"resnet_2b": Published(69.25, 54.82), "resnet_4b": Published(77.20, 61.41)}
THREAT = Threat.parse("linf:2/255:20")
BATCH = 100
RESTARTS, TARGETS, STEPS = 64, 3, 300
"""Of multi-targeted PGD."""
FEED = Feed(mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with cifar-10-batches-py and models/*.onnx")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--images", type=int, default=10_000, help="test images that are attacked, the first ones")
    parser.add_argument("--square-queries", type=int, default=5000)
    parser.add_argument("--closest", type=int, default=80, help="images that meet multi-targeted PGD too")
    parser.add_argument("--part", type=int, default=500, help="images that are attacked at a time")
    parser.add_argument("--work", type=Path, help="folder that keeps what attacks left: a killed run goes on")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    prepare_process()
    print(machine())
    print(
        f"attacked: the first {asked.images} test images, seed {asked.seed}, {asked.square_queries} queries of Square"
    )
    rows = [row for name in asked.networks for row in measured(name, asked)]
    columns = ("network", "what", "n", "ours, %", "95 % interval", "published, %", "seconds")
    show("published and measured", columns, rows)


def measured(name: str, asked: argparse.Namespace) -> list[tuple[str, ...]]:
    """Rows of one network: clean on all test images, then what the attacks leave, each after those before it."""
    data, published = load_dataset("cifar10", root=asked.data), NETWORKS[name]
    path = asked.data / "models" / f"{name}.onnx"
    opened = open_file(path, FEED, image=data.image, classes=data.classes, data=data.name)
    twin, images, labels = opened.twin(), data.test.floats(), data.test.labels
    fault = opened.agreement(twin, images[:256]).fault
    if fault:
        raise SystemExit(fault)
    began = time.perf_counter()
    clean = opened.predict(images).argmax(1) == labels
    rows = [row(name, "clean", clean, published.clean, time.perf_counter() - began)]
    robust = clean[: asked.images].copy()
    left = np.flatnonzero(robust)
    for start in range(0, len(left), asked.part):
        part = left[start : start + asked.part]
        attack = partial(survived, opened.predict, twin, images[part], labels[part], asked.seed, asked.square_queries)
        cell = f"{name}-{asked.seed}-{asked.square_queries}-{start}.npz"
        robust[part] = kept(asked.work and asked.work / cell, part, attack)
    rows.append(row(name, "APGD and Square", robust, published.robust, time.perf_counter() - began))
    left = np.flatnonzero(robust)
    left = left[closest(opened.predict, twin, images[left], labels[left], asked.closest, asked.seed)]
    for place in left:
        known = partial(withstands, opened.predict, twin, images[place], int(labels[place]), asked.seed + int(place))
        cell = f"{name}-{asked.seed}-targets-{place}.npz"
        robust[place] = kept(asked.work and asked.work / cell, np.array([place]), known).item()
    rows.append(row(name, "multi-targeted", robust, published.robust, time.perf_counter() - began))
    return rows


def survived(
    predict: Predict, twin: nn.Module, images: np.ndarray, labels: np.ndarray, seed: int, queries: int
) -> np.ndarray:
    """Which images (N,) the file itself puts into the right class at every point that the attacks made."""
    points = headline(
        twin, torch.from_numpy(images), torch.from_numpy(labels), THREAT, seed=seed, square_queries=queries
    )
    robust = np.ones(len(images), dtype=bool)
    for attack, result in points.items():
        moved = result.adversarial.numpy()
        if not (np.abs(moved - images).max() <= 2 / 255 + 1e-6 and moved.min() >= 0 and moved.max() <= 1):
            raise SystemExit(f"points of {attack} are outside the ball or the box")
        robust &= predict(moved).argmax(1) == labels
    return robust


def closest(
    predict: Predict, twin: nn.Module, images: np.ndarray, labels: np.ndarray, count: int, seed: int
) -> np.ndarray:
    """Places of the `count` images (N,) whose margin is least under PGD, in the order of the images."""
    margins = []
    for start in range(0, len(images), BATCH):
        part, truth = images[start : start + BATCH], labels[start : start + BATCH]
        generator = torch.Generator().manual_seed(seed + start)
        moved = pgd(twin, torch.from_numpy(part), torch.from_numpy(truth), THREAT, generator=generator)
        logits = predict(moved.numpy())
        right = np.take_along_axis(logits, truth[:, None], axis=1)[:, 0]
        np.put_along_axis(logits, truth[:, None], -np.inf, axis=1)
        margins.append(right - logits.max(axis=1))
    return np.sort(np.argsort(np.concatenate(margins), kind="stable")[:count])


def withstands(predict: Predict, twin: nn.Module, image: np.ndarray, label: int, seed: int) -> np.ndarray:
    """Whether (1,) the file still knows one image (C, H, W) after multi-targeted PGD: `RESTARTS` random starts for each
    of the `TARGETS` likeliest wrong classes, `STEPS` steps on the difference of the two logits, the larger the earlier.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = torch.from_numpy(image).expand(RESTARTS, *image.shape)
    low, high = (clean - THREAT.epsilon).clamp(min=0), (clean + THREAT.epsilon).clamp(max=1)
    with torch.no_grad():
        likely = [one for one in twin(clean[:1])[0].argsort(descending=True).tolist() if one != label]
    for target in likely[:TARGETS]:
        points = low + (high - low) * torch.rand(clean.shape, generator=generator)
        for step in range(STEPS + 1):  # the last one only looks
            points.requires_grad_(True)
            logits = twin(points)
            margins = logits[:, label] - logits[:, target]
            nearest = int(margins.argmin())
            if margins[nearest] < 0 and predict(points[nearest : nearest + 1].detach().numpy())[0].argmax() != label:
                return np.array([False])
            (gradient,) = torch.autograd.grad(margins.sum(), points)
            size = THREAT.epsilon * (0.5 * (1 - step / STEPS) ** 2 + 0.01)
            points = torch.minimum(torch.maximum(points.detach() - size * gradient.sign(), low), high)
    return np.array([True])


def kept(path: Path | None, part: np.ndarray, attack: Callable[[], np.ndarray]) -> np.ndarray:
    """What an attack leaves of these images, from the file of an earlier run if there is one."""
    if path is not None and path.is_file():
        with np.load(path) as known:
            if np.array_equal(known["part"], part):
                return np.asarray(known["robust"])
    robust = attack()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part.npz")
        np.savez(aside, part=part, robust=robust)
        aside.replace(path)
    return robust


def row(name: str, what: str, flags: np.ndarray, published: float, seconds: float) -> tuple[str, ...]:
    """One line of the table."""
    rate = Rate.of(flags)
    interval = f"[{100 * rate.low:.2f}, {100 * rate.high:.2f}]"
    return name, what, f"{rate.total}", f"{100 * rate.value:.2f}", interval, f"{published:.2f}", f"{seconds:.0f}"


if __name__ == "__main__":
    main()
