"""Square: random search on any function from images to logits, where gradients do not reach.

Andriushchenko, Croce, Flammarion and Hein, "Square Attack: a query-efficient black-box adversarial attack via random
search" (ECCV 2020, arXiv 1912.00049), L-infinity. `search` attacks models in torch, `square` what ships.

Three departures for artefacts whose logits are a staircase: a candidate that ties with the best point is accepted, so
that the search walks across plateaus; it may start from the points that other attacks left; and the schedule of window
sizes may be stretched over the queries there are. Two for speed. A candidate that is the best point itself, or was
refused since that point was found, counts as a query and is not asked again, which changes nothing on a model that
gives one answer per point: on 8x8 grey images that is six queries of seven. And a search that goes nowhere may be given
up, see `HOPE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from rcnas_edge.errors import InputError

SCHEDULE = 10_000
SHRINK = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the schedule after which the window's area is halved: the paper's 10, 50, ... 8000 of 10,000 queries."""

HOPE = {1000: 0.5, 2000: 0.75}
"""After so many queries, the share of its way to zero that a margin has come, or is given up: windows only get smaller.

Of 438 images of the shipped teachers (digits at epsilon 0.1 and 0.2, CIFAR-10 at 8/255; seed 0) 29 fell after more than
1000 of 5000 queries: none had come less than 0.79 of its way by then, nor less than 0.93 by 2000. In 20 pairs of runs
on 500 images (two small networks, one adversarially trained, also with inputs and with logits rounded; epsilon 0.02 to
0.25, seeds 0 and 1) the search that gives up left not one image more than the one that does not."""

DROPS = 10
"""How often a margin has dropped before it may be given up: one that stands on a stair may fall off it at any time."""

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclass(frozen=True, eq=False)
class SquareResult(Generic[Array]):
    """Points float32 (N, C, H, W), whether each is still classified right (N,), and images pushed through."""

    points: Array
    right: Array
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
) -> SquareResult[np.ndarray]:
    """`search` with the schedule stretched over the queries, for any `predict` of float32 arrays to logits."""

    def asked(points: Tensor) -> Tensor:
        return torch.from_numpy(np.asarray(predict(points.numpy())))

    found = search(
        asked,
        torch.from_numpy(images),
        torch.from_numpy(labels).long(),
        epsilon,
        queries=queries,
        generator=generator,
        start=None if start is None else torch.from_numpy(start),
        batch_size=batch_size,
        window=window,
        progress=progress,
    )
    return SquareResult(found.points.numpy(), found.right.numpy(), found.forwards)


@torch.no_grad()
def search(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    queries: int,
    generator: np.random.Generator,
    schedule: int | None = None,
    start: Tensor | None = None,
    batch_size: int = 256,
    window: float = 0.8,
    give_up: bool = False,
    progress: Callable[[float], None] | None = None,
) -> SquareResult[Tensor]:
    """Search the ball of `epsilon` around images (N, C, H, W) in [0, 1] for points that `model` gets wrong.

    `model` maps float32 images to logits (N, classes). `start` (N, C, H, W) are points to begin at, else vertical
    stripes. `queries` counts points asked per image, the start included; an image that has fallen is left alone.
    `window` is the first window's share of the image; it shrinks over `schedule` queries, by default those there are.
    With `give_up` an image is left alone as `HOPE` says. What is drawn depends neither on `batch_size` nor on the
    answers.
    """
    if queries < 1:
        raise InputError(f"Square asks at least one point per image, got {queries} queries")
    low, high = (images - epsilon).clamp_(min=0), (images + epsilon).clamp_(max=1)
    count, channels, height, width = images.shape
    if start is None:
        start = images + epsilon * _signs(generator, (count, channels, 1, width), images.device)
    best = start.clamp(low, high)
    margin, right = _ask(model, best, labels, batch_size)
    forwards, edge, refused = count, 0, None
    hopeful, first, drops = torch.ones_like(right), margin.clone(), torch.zeros_like(labels)
    for query in range(1, queries):
        if progress is not None:
            progress(query / queries)
        before, edge = edge, _edge((query - 1) / (schedule or queries), window, height, width)
        if edge != before:
            refused = _nothing_refused(images, edge, most=2 * queries)
        rows = torch.from_numpy(generator.integers(0, height - edge + 1, count)).to(images.device)
        columns = torch.from_numpy(generator.integers(0, width - edge + 1, count)).to(images.device)
        signs = _signs(generator, (count, channels, 1, 1), images.device)
        if give_up and query - 1 in HOPE:
            hopeful &= (drops < DROPS) | (margin <= (1 - HOPE[query - 1]) * first)
        alive = (right & hopeful).nonzero().squeeze(1)
        if not len(alive):
            break
        if refused is not None:
            code = _code(rows, columns, signs, width - edge + 1)
            alive = alive[~refused[alive, code[alive]]]
            refused[alive, code[alive]] = True
        inside = _window(rows[alive], columns[alive], edge, height, width)
        candidates = torch.where(inside, torch.where(signs[alive] > 0, high[alive], low[alive]), best[alive])
        moved = (candidates != best[alive]).flatten(1).any(1)
        alive, candidates = alive[moved], candidates[moved]
        if not len(alive):
            continue
        found, still = _ask(model, candidates, labels[alive], batch_size)
        forwards += len(alive)
        drops[alive] += found < margin[alive]
        better = (found <= margin[alive]) | ~still
        taken = alive[better]
        best[taken], margin[taken], right[taken] = candidates[better], found[better], still[better]
        if refused is not None:
            refused[taken] = False
    return SquareResult(best, right, forwards)


def _edge(share: float, window: float, height: int, width: int) -> int:
    """Edge of the square window, in pixels, after this share of the schedule."""
    area = window / 2 ** sum(share > limit for limit in SHRINK) * height * width
    return min(max(round(math.sqrt(area)), 1), height, width)


def _signs(generator: np.random.Generator, shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.from_numpy(generator.choice(np.array([-1, 1], dtype=np.float32), shape)).to(device)


def _nothing_refused(images: Tensor, edge: int, *, most: int) -> Tensor | None:
    """Flags (N, candidates) of what was refused; None where there are so many candidates that few come twice."""
    count, channels, height, width = images.shape
    candidates = (height - edge + 1) * (width - edge + 1) << channels
    return torch.zeros((count, candidates), dtype=torch.bool, device=images.device) if candidates <= most else None


def _code(rows: Tensor, columns: Tensor, signs: Tensor, span: int) -> Tensor:
    """One number (N,) for each window and its signs (N, C, 1, 1); `span` is how many columns a window may begin at."""
    up = signs.flatten(1) > 0
    powers = 2 ** torch.arange(up.shape[1], device=up.device)
    return (rows * span + columns) * 2 ** up.shape[1] + (up * powers).sum(1)


def _window(rows: Tensor, columns: Tensor, edge: int, height: int, width: int) -> Tensor:
    """Masks (n, 1, H, W) of the squares whose upper left corners are at rows (n,), columns (n,)."""
    down, across = (torch.arange(size, device=rows.device) for size in (height, width))
    vertical = (down >= rows[:, None]) & (down < rows[:, None] + edge)
    horizontal = (across >= columns[:, None]) & (across < columns[:, None] + edge)
    return vertical[:, None, :, None] & horizontal[:, None, None, :]


def _ask(model: Callable[[Tensor], Tensor], points: Tensor, labels: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Margins (n,) and whether each point is classified right (n,)."""
    logits = torch.cat([model(part) for part in points.split(batch_size)])
    own = labels[:, None]
    exact = logits.double()
    others = exact.scatter(1, own, -torch.inf).amax(1)
    return exact.gather(1, own).squeeze(1) - others, logits.argmax(1) == labels
