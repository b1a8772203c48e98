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

import torch
from torch import Tensor

from rcnas_edge.reimport.graph import Node

RANGES = {torch.uint8: (0, 255), torch.int8: (-128, 127)}
OUTPUT_TYPES = {0: torch.uint8, 2: torch.uint8, 3: torch.int8}
"""ONNX's numbers of data types (0: not said)."""


@dataclass(frozen=True)
class Scaled:
    """The real numbers `whole * scale`: `whole` float32 of any shape, `scale` float32 that broadcasts over it."""

    whole: Tensor
    scale: Tensor

    def real(self) -> Tensor:
        """As ordinary numbers."""
        return self.whole * self.scale


def real(value: Any) -> Any:
    """A value as ordinary numbers, whatever it was."""
    return value.real() if isinstance(value, Scaled) else value


class _Round(torch.autograd.Function):
    """Rounds half to even; the gradient passes as if it did not."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return torch.round(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


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
    value: Tensor | Scaled,
    scale: Tensor,
    zero: Tensor | None = None,
    *,
    low: int,
    high: int,
    axis: int,
    straight_through: bool,
) -> Tensor:
    """Gradient of the clamp: 1 where `value` is in the range that eight bits can say, 0 outside."""
    plain = real(value) if isinstance(value, Scaled) and value.scale.ndim > value.whole.ndim else value
    shape = (plain.whole if isinstance(plain, Scaled) else plain).shape
    scale = along(scale, axis, len(shape))
    ratio = plain.whole * (plain.scale / scale) if isinstance(plain, Scaled) else plain / scale
    offset: float | Tensor = 0.0
    if zero is not None:
        offset = float(zero) if zero.numel() == 1 else along(zero.to(ratio.dtype), axis, len(shape))
    inside = torch.clamp(ratio, low - offset, high - offset)  # type: ignore[arg-type]
    return (_Round.apply(inside) if straight_through else torch.round(inside)) + offset


def dequantise_linear(node: Node) -> Callable[..., Scaled]:
    """DequantizeLinear: whole numbers, less their zero point, with their scale; exact."""
    _check_blocks(node)
    return partial(_dequantise, axis=node.get("axis", 1))


def _dequantise(value: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int) -> Scaled:
    whole = value if value.is_floating_point() else value.to(torch.float32)
    if zero is not None and bool(zero.any()):
        whole = whole - along(zero.to(whole.dtype), axis, whole.ndim)
    return Scaled(whole, along(scale, axis, whole.ndim))


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
