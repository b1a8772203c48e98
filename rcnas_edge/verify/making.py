"""Adversarial points made piece by piece into an array on disk: by a named attack, by evasion, by Square."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from rcnas_edge.attacks import AttackResult, Threat, attack
from rcnas_edge.attacks.square import square
from rcnas_edge.errors import UncheckedError
from rcnas_edge.verify.evasion import evade
from rcnas_edge.verify.keeping import Fill, Spent
from rcnas_edge.verify.witness import BATCH, Ask, batches, on, pieces

ROUNDING = 1e-6
"""Float32 rounding that a point may stand outside the ball or the box, in units of [0, 1] pixels."""


def by_attack(
    name: str,
    network: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    alive: np.ndarray,
    ball: Threat,
    *,
    seed: int,
    options: Mapping[str, Any],
) -> Fill:
    """The named attack on the images (n, C, H, W) at the places `alive` (m,); the others stay as they are."""
    return _piecewise(
        images, labels, alive, network, lambda x, y: attack(name, network, x, y, ball, seed=seed, **options)
    )


def by_evasion(
    twin: nn.Module,
    parent: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    alive: np.ndarray,
    ball: Threat,
    *,
    steps: int,
) -> Fill:
    """Differential evasion of the images (n, C, H, W) at the places `alive` (m,)."""
    return _piecewise(images, labels, alive, twin, lambda x, y: evade(twin, parent, x, y, ball, steps=steps))


def by_square(
    ask: Ask,
    images: np.ndarray,
    labels: np.ndarray,
    alive: np.ndarray,
    epsilon: float,
    *,
    queries: int,
    seed: int,
    start: Callable[[np.ndarray], np.ndarray] | None,
    told: Callable[[float], None],
) -> Fill:
    """Square on any function from images to logits, at the places `alive` (m,), from the points that `start` gives."""

    def fill(points: np.ndarray) -> Spent:
        points[:] = images
        began, forwards, generator = time.perf_counter(), 0, np.random.default_rng(seed)
        parts = pieces(alive, images)
        for number, part in enumerate(parts):
            found = square(
                ask,
                images[part],
                labels[part],
                epsilon,
                queries=queries,
                generator=generator,
                start=None if start is None else start(part),
                batch_size=BATCH,
                progress=_shifted(told, number, len(parts)),
            )
            points[part], forwards = found.points, forwards + found.forwards
        return Spent(forwards, 0, time.perf_counter() - began)

    return fill


def check_inside(name: str, points: np.ndarray, images: np.ndarray, threat: Threat) -> None:
    """UncheckedError unless the points (n, C, H, W) are in the threat's ball around the images, and in the box."""
    for begin, part in zip(range(0, len(points), BATCH), batches(points), strict=True):
        off = float(np.abs(part - images[begin : begin + BATCH]).max()) - threat.epsilon
        if not max(off, -float(part.min()), float(part.max()) - 1) <= ROUNDING:
            raise UncheckedError(f"points of {name} must be in the ball of {threat} and in [0, 1], they are not")


def _piecewise(
    images: np.ndarray,
    labels: np.ndarray,
    alive: np.ndarray,
    network: nn.Module,
    found_by: Callable[[Tensor, Tensor], AttackResult],
) -> Fill:
    def fill(points: np.ndarray) -> Spent:
        points[:] = images
        spent = Spent()
        for part in pieces(alive, images):
            found = found_by(on(images[part], network), on(labels[part], network))
            points[part] = found.adversarial.detach().cpu().numpy()
            spent += Spent(found.forwards, found.backwards, found.seconds)
        return spent

    return fill


def _shifted(told: Callable[[float], None], number: int, parts: int) -> Callable[[float], None]:
    return lambda share: told((number + share) / parts)
