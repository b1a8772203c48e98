"""Square on what ships: random search on any function from images to logits, where torch and gradients do not reach.

Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial attack via random
search" (ECCV 2020, arXiv 1912.00049), L-infinity. Three departures, for artefacts whose logits are a staircase: a
candidate that ties with the best point is accepted, so that the search walks across plateaus; it may start from the
points that other attacks left; and the schedule of window sizes is stretched over the queries there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rcnas_edge.errors import InputError

SHRINK = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the window's area is halved: the paper's 10, 50, ... 8000 of 10,000."""


@dataclass(frozen=True, eq=False)
class SquareResult:
    """Points float32 (N, C, H, W), whether each is still classified right (N,), and images pushed through."""

    points: np.ndarray
    right: np.ndarray
    forwards: int


def margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logit of the label minus the largest other one (N,), of logits (N, classes): negative where it is wrong."""
    logits = logits.astype(np.float64)
    rows = np.arange(len(labels))
    own = logits[rows, labels]
    logits[rows, labels] = -np.inf
    return np.asarray(own - logits.max(axis=1))


def square(
    predict: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    epsilon: float,
    *,
    queries: int,
    generator: np.random.Generator,
    start: np.ndarray | None = None,
    batch_size: int = 256,
    window: float = 0.8,
    progress: Callable[[float], None] | None = None,
) -> SquareResult:
    """Search the ball of `epsilon` around images (N, C, H, W) in [0, 1] for points that `predict` gets wrong.

    `predict` maps float32 images to logits (N, classes). `start` (N, C, H, W) are points to begin at, else vertical
    stripes. `queries` counts points asked per image, the start included; an image that has fallen is left alone.
    `window` is the first window's share of the image. What is drawn depends neither on `batch_size` nor on what fell.
    """
    if queries < 1:
        raise InputError(f"Square asks at least one point per image, got {queries} queries")
    low = np.maximum(images - np.float32(epsilon), np.float32(0))
    high = np.minimum(images + np.float32(epsilon), np.float32(1))
    count, channels, height, width = images.shape
    if start is None:
        stripes = generator.choice(np.array([-epsilon, epsilon], dtype=np.float32), (count, channels, 1, width))
        start = images + stripes
    best = np.clip(start, low, high).astype(np.float32)
    margin, right = _ask(predict, best, labels, batch_size)
    forwards = count
    for query in range(1, queries):
        edge = _edge(query / queries, window, height, width)
        rows = generator.integers(0, height - edge + 1, count)
        columns = generator.integers(0, width - edge + 1, count)
        signs = generator.choice(np.array([-1, 1], dtype=np.float32), (count, channels, 1, 1))
        alive = np.flatnonzero(right)
        if not len(alive):
            break
        inside = _window(rows[alive], columns[alive], edge, height, width)
        moved = np.where(signs[alive] > 0, high[alive], low[alive])
        candidates = np.where(inside, moved, best[alive])
        found, still = _ask(predict, candidates, labels[alive], batch_size)
        forwards += len(alive)
        better = (found <= margin[alive]) | ~still
        taken = alive[better]
        best[taken], margin[taken], right[taken] = candidates[better], found[better], still[better]
        if progress is not None:
            progress(query / queries)
    return SquareResult(best, right, forwards)


def _edge(share: float, window: float, height: int, width: int) -> int:
    """Edge of the square window, in pixels, after this share of the queries."""
    area = window / 2 ** sum(share > limit for limit in SHRINK) * height * width
    return min(max(round(math.sqrt(area)), 1), height, width)


def _window(rows: np.ndarray, columns: np.ndarray, edge: int, height: int, width: int) -> np.ndarray:
    """Masks (n, 1, H, W) of the squares whose upper left corners are at rows (n,), columns (n,)."""
    down, across = np.arange(height), np.arange(width)
    vertical = (down >= rows[:, None]) & (down < rows[:, None] + edge)
    horizontal = (across >= columns[:, None]) & (across < columns[:, None] + edge)
    return np.asarray(vertical[:, None, :, None] & horizontal[:, None, None, :])


def _ask(
    predict: Callable[[np.ndarray], np.ndarray], points: np.ndarray, labels: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Margins (n,) and whether each point is classified right (n,)."""
    parts = [predict(points[begin : begin + batch_size]) for begin in range(0, len(points), batch_size)]
    logits = np.concatenate(parts)
    return margins(logits, labels), logits.argmax(axis=1) == labels
