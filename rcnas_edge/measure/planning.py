"""Which kernels to time so that the latency of given networks can be predicted from rows of a table."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rcnas_edge.measure.specimen import difference
from rcnas_edge.profile.fusion import Kernel, Key
from rcnas_edge.profile.table import interpolate, weights, work

Points = set[tuple[int, int]]
"""(channels in, channels out) of kernels with one key."""

COPIES_MS, COPIES = 0.04, (4, 16)
"""What the copies of a kernel should take together, and the least and most copies."""
WEIGHT_BYTES = 8e6
"""Of the weights of a specimen where two copies have no more: what small networks keep in the processor's cache, a
specimen with many large copies would stream from memory, at half the speed."""
CHANNELS_OF_A_PART = 16
"""A part of a convolution has a multiple of so many output channels: whole blocks."""
EXACT = 8
"""A surface that needs at most so many points has them all measured."""
GRID = (4, 6)
"""Channels in and out that a larger surface is thinned to."""


def plan(needed: Iterable[Kernel], known: Mapping[Key, Iterable[tuple[int, int]]], runtime: str) -> list[Kernel]:
    """The kernels to measure so that every needed one, and every helper of their specimens, is inside a grid."""
    planned = {key: set(points) for key, points in known.items()}
    had = {key: set(points) for key, points in planned.items()}
    wanted: dict[Key, Points] = {}
    for kernel in needed:
        wanted.setdefault(Key(*kernel[:7]), set()).add((kernel[7], kernel[8]))
    while wanted:
        fresh: list[Kernel] = []
        for key, points in wanted.items():
            have = planned.setdefault(key, set())
            flat = dict.fromkeys(have, 1.0)
            missing = {point for point in points if interpolate(flat, *point) is None}
            if missing:
                added = _grid(missing | have) - have
                have |= added
                fresh += [(*key, *point) for point in added]
        wanted = {}
        for kernel in fresh:
            for helper in difference(kernel, 1, 2, runtime):
                if helper != kernel:
                    wanted.setdefault(Key(*helper[:7]), set()).add((helper[7], helper[8]))
    return [(*key, *point) for key, points in planned.items() for point in sorted(points - had.get(key, set()))]


def _grid(points: Points) -> Points:
    """The points themselves if they are few, else the corners of a coarser grid around them."""
    if len(points) <= EXACT:
        return set(points)
    if all(channels_in == channels_out for channels_in, channels_out in points):
        return {(channels, channels) for channels in _thinned({point[0] for point in points}, GRID[1])}
    axes = [_thinned({point[axis] for point in points}, GRID[axis]) for axis in (0, 1)]
    corners = {
        (channels_in, channels_out)
        for point in points
        for channels_in in _around(axes[0], point[0])
        for channels_out in _around(axes[1], point[1])
    }
    return corners if len(corners) < len(points) else set(points)


def _thinned(channels: set[int], count: int) -> list[int]:
    """At most so many of the channels: both ends, and those nearest to even steps between them."""
    if len(channels) <= count:
        return sorted(channels)
    steps = np.linspace(min(channels), max(channels), count)
    return sorted({min(sorted(channels), key=lambda value: abs(value - step)) for step in steps})


def _around(axis: list[int], value: int) -> tuple[int, int]:
    return axis[bisect_right(axis, value) - 1], axis[bisect_left(axis, value)]


def ordered(todo: Sequence[Kernel], counts: Mapping[Kernel, int], runtime: str) -> list[Kernel]:
    """Helpers before what needs them; else the operation first that takes most of the networks' time."""
    depths: dict[Key, int] = {}

    def depth(kernel: Kernel) -> int:
        key = Key(*kernel[:7])
        if key not in depths:
            others = [helper for helper in difference(kernel, 1, 2, runtime) if helper[:7] != key]
            depths[key] = 1 + max(map(depth, others), default=-1)
        return depths[key]

    weight: dict[Key, float] = {}
    for kernel, count in counts.items():
        key = Key(*kernel[:7])
        weight[key] = weight.get(key, 0.0) + count * guess(kernel)
    return sorted(todo, key=lambda kernel: (depth(kernel), -weight.get(Key(*kernel[:7]), 0.0), kernel))


def copies_of(kernel: Kernel) -> int:
    """How many copies of a kernel are timed: enough to be seen, and not more weights than the cache holds."""
    copies = int(np.clip(round(COPIES_MS / guess(kernel)), *COPIES))
    return max(1, min(copies, int(WEIGHT_BYTES / (4 * weights(kernel) + 1)) - 1))


def timed_part(kernel: Kernel) -> tuple[Kernel, float]:
    """What is timed for a kernel: itself, or of a blocked convolution with weights too large for two copies in the
    cache as many output channels as fit, and how many times those the kernel has; each takes the same time.
    """
    share = 8 * weights(kernel) / WEIGHT_BYTES
    if share <= 1 or kernel[:2] != ("conv", "blocked") or kernel[4] != 1:
        return kernel, 1.0
    outputs = max(CHANNELS_OF_A_PART, int(kernel[8] / share) // CHANNELS_OF_A_PART * CHANNELS_OF_A_PART)
    return (*kernel[:8], outputs), kernel[8] / outputs


def guess(kernel: Kernel) -> float:
    """ms that a kernel may take; it only decides how many copies are timed, and in which order."""
    return 6e-4 + work(kernel)[1] / 6e7
