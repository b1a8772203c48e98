"""Latency of a kernel from measured ones: interpolation inside the measured grid, a marked estimate outside it.

The cost of a convolution is close to a + b in + c out + d in out in its channels, which is the form of a bilinear
interpolation: between measured corners it is nearly exact. Beyond them nothing is known but what the work suggests.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping

import numpy as np

from rcnas_edge.profile.fusion import DEPTHWISE, Kernel, Key

Points = Mapping[tuple[int, int], float]
"""Measured ms by (channels in, channels out)."""


class Table:
    """Latencies in ms of kernels; each answer says whether it rests on measured rows alone.

    `estimate` gives the ms of a kernel without rows (`rates.Rates.of`); without it the rate of the rows is fitted.
    """

    def __init__(self, surfaces: Mapping[Key, Points], estimate: Callable[[Kernel], float] | None = None) -> None:
        self.surfaces = surfaces
        self._estimate = estimate or self._by_fitted_rate
        if estimate is None:
            self._rate = _fitted_rate(surfaces)
            self._least = 0.1 * min((ms for points in surfaces.values() for ms in points.values()), default=0.0)
        self._known: dict[Kernel, tuple[float, bool]] = {}

    def lookup(self, kernel: Kernel) -> tuple[float, bool]:
        """(ms, measured) of one kernel, remembered."""
        found = self._known.get(kernel)
        if found is None:
            found = self._known[kernel] = self._find(kernel)
        return found

    def _find(self, kernel: Kernel) -> tuple[float, bool]:
        points = self.surfaces.get(Key(*kernel[:7]))
        if not points:
            return self._estimate(kernel), False
        inside = interpolate(points, kernel[7], kernel[8])
        if inside is not None:
            return inside, True
        nearest = min(points, key=lambda point: _distance(point, (kernel[7], kernel[8])))
        return points[nearest] * self._estimate(kernel) / self._estimate((*kernel[:7], *nearest)), False

    def _by_fitted_rate(self, kernel: Kernel) -> float:
        """ms by the rate of the whole table (a constant, a time per MAC and per byte), never nothing."""
        return max(float(np.dot(self._rate, work(kernel))), self._least)


def weights(kernel: Kernel) -> int:
    """Weights of a convolution or linear layer; 0 of any other kernel."""
    operation, _, size, _, groups, _, _, channels_in, channels_out = kernel
    if operation not in ("conv", "linear"):
        return 0
    return channels_in // (channels_in if groups == DEPTHWISE else groups) * size * size * channels_out


def work(kernel: Kernel) -> tuple[float, float, float]:
    """(1, MACs, bytes read and written) of one kernel for one image, fp32."""
    operation, _, _, stride, _, height, width, channels_in, channels_out = kernel
    pixels_in, pixels_out = height * width, math.ceil(height / stride) * math.ceil(width / stride)
    if operation in ("conv", "linear"):
        held = weights(kernel)
        return 1.0, float(held * pixels_out), 4.0 * (channels_in * pixels_in + channels_out * pixels_out + held)
    if operation == "globalpool":
        pixels_out = 1
    operands = 2 if operation in ("add", "multiply") else 1
    return 1.0, 0.0, 4.0 * channels_in * (operands * pixels_in + pixels_out)


def interpolate(points: Points, channels_in: int, channels_out: int) -> float | None:
    """ms between measured points, or None outside them.

    A measured point is itself; else bilinear in the smallest rectangle whose four corners were measured; else
    linear between two points of the same ratio out : in (a surface that was measured along that ray only), which is
    a little too much for a dense convolution, whose cost bends upwards along a ray.
    """
    exact = points.get((channels_in, channels_out))
    if exact is not None:
        return exact
    corners = _rectangle(points, channels_in, channels_out)
    if corners:
        (left, right), (low, high) = corners
        across = _share(left, right, channels_in)
        up = _share(low, high, channels_out)
        bottom = (1 - across) * points[left, low] + across * points[right, low]
        top = (1 - across) * points[left, high] + across * points[right, high]
        return (1 - up) * bottom + up * top
    ray = sorted(point for point in points if point[0] * channels_out == point[1] * channels_in)
    place = bisect_left(ray, (channels_in, channels_out))
    if 0 < place < len(ray):
        before, after = ray[place - 1], ray[place]
        share = _share(before[0], after[0], channels_in)
        return (1 - share) * points[before] + share * points[after]
    return None


def _rectangle(points: Points, channels_in: int, channels_out: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The sides ((left, right), (low, high)) of the smallest measured rectangle around a point."""
    lefts = sorted({point[0] for point in points if point[0] <= channels_in}, reverse=True)
    rights = sorted({point[0] for point in points if point[0] >= channels_in})
    lows = sorted({point[1] for point in points if point[1] <= channels_out}, reverse=True)
    highs = sorted({point[1] for point in points if point[1] >= channels_out})
    best: tuple[float, tuple[tuple[int, int], tuple[int, int]]] | None = None
    for left in lefts:
        for right in rights:
            if (left == channels_in) != (right == channels_in):
                continue
            for low in lows:
                if (left, low) not in points or (right, low) not in points:
                    continue
                high = next((high for high in highs if (left, high) in points and (right, high) in points), None)
                if high is None or (low == channels_out) != (high == channels_out):
                    continue
                area = (right - left + 1) * (high - low + 1)
                if best is None or area < best[0]:
                    best = area, ((left, right), (low, high))
    return best[1] if best else None


def _share(low: int, high: int, value: int) -> float:
    return 0.0 if low == high else (value - low) / (high - low)


def _distance(one: tuple[int, int], other: tuple[int, int]) -> float:
    return sum(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))


def _fitted_rate(surfaces: Mapping[Key, Points]) -> np.ndarray:
    """Non-negative (ms, ms per MAC, ms per byte) with the least relative error over all measured rows."""
    rows = [((*key, *point), ms) for key, points in surfaces.items() for point, ms in points.items()]
    rate = np.zeros(3)
    if not rows:
        return rate
    features = np.array([work(kernel) for kernel, _ in rows]) / np.array([[ms] for _, ms in rows])
    used = [column for column in range(3) if features[:, column].any()]
    while used:
        solution = np.linalg.lstsq(features[:, used], np.ones(len(rows)), rcond=None)[0]
        if (solution > 0).all():
            rate[used] = solution
            break
        used.pop(int(np.argmin(solution * features[:, used].mean(axis=0))))
    return rate
