"""Numbers in eight bits, differentiable: whole numbers with a scale, and rounding with a straight-through gradient.

A quantised graph computes with whole numbers. They are kept as such (in float32, which holds every one below 2^24) and
multiplied by their scale only where they leave it, because that is what ONNX Runtime does: a convolution between
DequantizeLinear and QuantizeLinear adds up integers and rounds `sum * (scale_x * scale_w / scale_y)` to even. Scaling
first would round some sums to the other side.

Straight-through estimator: Bengio, Leonard and Courville 2013, https://arxiv.org/abs/1308.3432; with the gradient of
the clamp: Jacob et al. 2018, https://arxiv.org/abs/1712.05877.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnas_edge.reimport.graph import Node

RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127)}
OUTPUT_TYPES = {0: torch.uint8, 2: torch.uint8, 3: torch.int8}
"""ONNX's numbers of data types (0: not said)."""


@dataclass(frozen=True)
class Scaled:
    """The real numbers `whole * scale`: `whole` float32 of any shape, `scale` float32 that broadcasts over it.

    `zero` is what eight bits said for 0, where they said it once for all.
    """

    whole: Tensor
    scale: Tensor
    zero: float = 0.0

    def real(self) -> Tensor:
        """As ordinary numbers."""
        return self.whole * self.scale


@dataclass(frozen=True)
class Sum:
    """The sum of two tensors of whole numbers, each with one scale, that is not taken yet."""

    first: Scaled
    second: Scaled

    def real(self) -> Tensor:
        """As ordinary numbers."""
        return self.first.real() + self.second.real()

    def coded(self, scale: Tensor, zero: float) -> Tensor:
        """The sum in units of `scale`, with `zero` added, as MLAS's QLinearAdd computes it before it rounds.

        Its order, with multiplications that are fused with additions, decides to which side a sum falls that lies
        between two whole numbers: 25 of 409,600 in one layer of the tests. torch's addition with a factor is fused too,
        and double precision stands for it where single numbers are added.
        """
        ratios = [float(one.scale / scale) for one in (self.first, self.second)]
        less = np.float32(ratios[0] * self.first.zero + float(np.float32(ratios[1] * self.second.zero)))
        total = torch.full((), float(np.float32(zero) - less), device=self.first.whole.device)
        for one, ratio in zip((self.first, self.second), ratios, strict=True):
            total = torch.add(total, one.whole + one.zero if one.zero else one.whole, alpha=ratio)
        return total


def real(value: Any) -> Any:
    """A value as ordinary numbers, whatever it was."""
    return value.real() if isinstance(value, (Scaled, Sum)) else value


def whole_bias(bias: Tensor | Scaled, scale: Tensor, rounded: bool) -> Tensor | None:
    """The bias of a sum of whole numbers in units of the sum's `scale`, or None if it is real.

    One of whole numbers has that scale by ONNX Runtime's rule; one of real numbers it turns into such a one where the
    result is rounded too (its weight-bias quantisation).
    """
    if isinstance(bias, Scaled):
        return bias.whole
    return torch.round(bias / scale.reshape(-1)) if rounded else None


class _ThroughRounding(torch.autograd.Function):
    """Clamps and rounds half to even; the gradient passes where the values are within the bounds, these included."""

    @staticmethod
    def forward(context: Any, values: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
        inside = torch.clamp(values, low, high)  # type: ignore[arg-type]
        context.save_for_backward(inside == values)
        return inside.round_()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient * context.saved_tensors[0], None, None


def _clamp_and_round(values: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """The same with the gradient that rounding really has: zero."""
    return torch.round(torch.clamp(values, low, high))  # type: ignore[arg-type]


def quantise_linear(node: Node) -> Callable[..., Tensor]:
    """QuantizeLinear: clamp and round; the result, whole numbers of eight bits, stands in float32."""
    zero = node.constant(2)
    if node.given(2) and zero is None:
        raise ValueError("its zero point is computed while it runs, it has to be a constant")
    kind = OUTPUT_TYPES.get(node.get("output_dtype", 0)) if zero is None else zero.dtype
    if kind not in RANGES:
        raise ValueError("it quantises to another type than uint8 and int8")
    _check_blocks(node)
    low, high = RANGES[kind]
    return partial(_quantise, low=low, high=high, axis=node.get("axis", 1))


def _quantise(
    value: Tensor | Scaled | Sum,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    low: int,
    high: int,
    axis: int,
    straight_through: bool,
) -> Tensor:
    """Gradient of the clamp: 1 where `value` is in the range that eight bits can say, 0 outside."""
    rounded = _ThroughRounding.apply if straight_through else _clamp_and_round
    if isinstance(value, Sum):
        if scale.numel() == 1 and low == 0:
            coded = value.coded(scale.reshape(()), 0.0 if zero is None else float(zero))
            return rounded(coded, low, high)
        value = value.real()  # signed sums ONNX Runtime takes in real numbers on most processors
    plain = real(value) if isinstance(value, Scaled) and value.scale.ndim > value.whole.ndim else value
    shape = (plain.whole if isinstance(plain, Scaled) else plain).shape
    scale = along(scale, axis, len(shape))
    ratio = plain.whole * (plain.scale / scale) if isinstance(plain, Scaled) else plain / scale
    offset: float | Tensor = 0.0
    if zero is not None:
        offset = float(zero) if zero.numel() == 1 else along(zero.to(ratio.dtype), axis, len(shape))
    return rounded(ratio, low - offset, high - offset) + offset


def dequantise_linear(node: Node) -> Callable[..., Scaled]:
    """DequantizeLinear: whole numbers, less their zero point, with their scale; exact."""
    _check_blocks(node)
    return partial(_dequantise, axis=node.get("axis", 1))


def _dequantise(value: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int) -> Scaled:
    whole = value if value.is_floating_point() else value.to(torch.float32)
    scale = along(scale, axis, whole.ndim)
    if zero is None or not bool(zero.any()):
        return Scaled(whole, scale)
    if zero.numel() == 1:
        return Scaled(whole - float(zero), scale, float(zero))
    return Scaled(whole - along(zero.to(whole.dtype), axis, whole.ndim), scale)


def along(values: Tensor, axis: int, rank: int) -> Tensor:
    """A scale or zero point so that it broadcasts: () for one of a tensor, else its entries along one axis of it."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def _check_blocks(node: Node) -> None:
    if node.get("block_size", 0):
        raise ValueError("scales by block are not supported, only by tensor or by channel")
