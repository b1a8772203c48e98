"""Operators with a window: convolution, pooling and padding, with ONNX's rules for borders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rcnas_edge.reimport.graph import Node
from rcnas_edge.reimport.quantised import Scaled, real, whole_bias

Pads = list[tuple[int, int]]
"""Before and after, for height and width."""


def convolution(node: Node) -> Callable[..., Any]:
    """Conv of two dimensions; of whole numbers if image, weights and bias are quantised."""
    return partial(
        _convolve,
        strides=_two(node, "strides"),
        dilations=_two(node, "dilations"),
        groups=node.get("group", 1),
        border=_border(node),
        rounded=node.rounded,
    )


def _convolve(
    image: Tensor | Scaled,
    weight: Tensor | Scaled,
    bias: Tensor | Scaled | None = None,
    *,
    strides: list[int],
    dilations: list[int],
    groups: int,
    border: Callable[..., Pads],
    rounded: bool,
) -> Tensor | Scaled:
    """image (N, C, H, W), weight (K, C / groups, h, w), bias (K,)."""

    def convolve(image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.ndim != 4:
            raise ValueError("only convolutions of two dimensions are supported")
        pads = border(image.shape[2:], weight.shape[2:], strides, dilations)
        if all(before == after for before, after in pads):
            return functional.conv2d(image, weight, bias, strides, [before for before, _ in pads], dilations, groups)
        return functional.conv2d(_padded(image, pads), weight, bias, strides, 0, dilations, groups)

    if not (isinstance(image, Scaled) and image.scale.ndim == 0 and isinstance(weight, Scaled)):
        return convolve(real(image), real(weight), real(bias))
    scale = image.scale * weight.scale.reshape(-1, 1, 1) if weight.scale.ndim else image.scale * weight.scale
    whole = None if bias is None else whole_bias(bias, scale, rounded)
    total = Scaled(convolve(image.whole, weight.whole, whole), scale)
    return total if bias is None or whole is not None else total.real() + real(bias).reshape(-1, 1, 1)


def max_pool(node: Node) -> Callable[[Tensor], Tensor]:
    """MaxPool of two dimensions, without indices."""
    return partial(
        _max_pool,
        window=_window(node),
        strides=_two(node, "strides"),
        dilations=_two(node, "dilations"),
        border=_border(node),
        ceil=bool(node.get("ceil_mode", 0)),
    )


def _max_pool(
    image: Tensor,
    *,
    window: list[int],
    strides: list[int],
    dilations: list[int],
    border: Callable[..., Pads],
    ceil: bool,
) -> Tensor:
    pads = border(image.shape[2:], window, strides, dilations)
    whole = _overhang(image.shape[2:], window, strides, dilations, pads, ceil=ceil)
    if whole == pads and all(before == after <= size // 2 for (before, after), size in zip(pads, window, strict=True)):
        return functional.max_pool2d(image, window, strides, [before for before, _ in pads], dilations)
    return functional.max_pool2d(_padded(image, whole, -math.inf), window, strides, 0, dilations)


def average_pool(node: Node) -> Callable[[Tensor], Tensor]:
    """AveragePool of two dimensions; the border counts if `count_include_pad` says so, what hangs over never does."""
    if set(_two(node, "dilations")) != {1}:
        raise ValueError("dilations of an average are not supported")
    return partial(
        _average_pool,
        window=_window(node),
        strides=_two(node, "strides"),
        border=_border(node),
        ceil=bool(node.get("ceil_mode", 0)),
        border_counts=bool(node.get("count_include_pad", 0)),
    )


def _average_pool(
    image: Tensor,
    *,
    window: list[int],
    strides: list[int],
    border: Callable[..., Pads],
    ceil: bool,
    border_counts: bool,
) -> Tensor:
    pads = border(image.shape[2:], window, strides, [1, 1])
    whole = _overhang(image.shape[2:], window, strides, [1, 1], pads, ceil=ceil)
    total = functional.avg_pool2d(_padded(image, whole), window, strides)
    if whole == pads and (border_counts or not any(map(any, pads))):
        return total
    counted = torch.ones_like(image[:1, :1])
    if border_counts:
        counted = _padded(counted, pads, 1.0)
        whole = [(before - low, after - high) for (before, after), (low, high) in zip(whole, pads, strict=True)]
    return total / functional.avg_pool2d(_padded(counted, whole), window, strides)


def pad(node: Node) -> Callable[..., Tensor]:
    """Pad with a constant, the edge or a reflection."""
    mode = node.get("mode", "constant")
    if mode not in ("constant", "edge", "reflect"):
        raise ValueError(f"its mode {mode!r} is not supported, only constant, edge and reflect")
    value: float = node.get("value", 0.0)
    if node.given(2):
        constant = node.constant(2)
        if constant is None:
            raise ValueError("the value it pads with is computed while it runs, it has to be a constant")
        value = float(constant)
    return partial(_pad, sizes=node.needed("pads", 1), axes=node.numbers("axes", 3), mode=mode, value=value)


def _pad(tensor: Tensor, *_: Any, sizes: list[int], axes: list[int] | None, mode: str, value: float) -> Tensor:
    axes = [axis % tensor.ndim for axis in (range(tensor.ndim) if axes is None else axes)]
    pairs = {axis: (sizes[place], sizes[place + len(axes)]) for place, axis in enumerate(axes)}
    last_first = [pairs.get(axis, (0, 0)) for axis in reversed(range(tensor.ndim))]
    if mode == "constant":
        return functional.pad(tensor, [size for pair in last_first for size in pair], value=value)
    if tensor.ndim != 4 or any(map(any, last_first[2:])):
        raise ValueError(f"its mode {mode!r} is supported for the height and width of images only")
    flat = [size for pair in last_first[:2] for size in pair]
    return functional.pad(tensor, flat, mode="replicate" if mode == "edge" else mode)


def global_average_pool(node: Node) -> Callable[[Tensor], Tensor]:
    """GlobalAveragePool: (N, C, H, W) to (N, C, 1, 1)."""
    return partial(torch.mean, dim=(2, 3), keepdim=True)


def _two(node: Node, attribute: str) -> list[int]:
    values = list(node.get(attribute, [1, 1]))
    if len(values) != 2:
        raise ValueError(f"its {attribute} {values} are not of two dimensions, others are not supported")
    return values


def _window(node: Node) -> list[int]:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise ValueError("its indices as a second output are not supported")
    return _two(node, "kernel_shape")


def _border(node: Node) -> Callable[..., Pads]:
    """What gives the padding, when the sizes of image and window are known."""
    automatic = node.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        return partial(_same, lower=automatic == "SAME_LOWER")
    if automatic not in ("NOTSET", "VALID"):
        raise ValueError(f"its auto_pad {automatic!r} is unknown")
    pads = [0] * 4 if automatic == "VALID" else list(node.get("pads", [0] * 4))
    if len(pads) != 4:
        raise ValueError(f"its pads {pads} are not of two dimensions, others are not supported")
    return partial(_fixed, pads=list(zip(pads[:2], pads[2:], strict=True)))


def _fixed(*_: Any, pads: Pads) -> Pads:
    return pads


def _same(
    sizes: Sequence[int], window: Sequence[int], strides: Sequence[int], dilations: Sequence[int], *, lower: bool
) -> Pads:
    """As many outputs as strides fit; of an odd number of pads the last (lower: the first) has one more."""
    pads = []
    for size, length, stride, dilation in zip(sizes, window, strides, dilations, strict=True):
        total = max((math.ceil(size / stride) - 1) * stride + (length - 1) * dilation + 1 - size, 0)
        pads.append((total - total // 2, total // 2) if lower else (total // 2, total - total // 2))
    return pads


def _overhang(
    sizes: Sequence[int],
    window: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Pads,
    *,
    ceil: bool,
) -> Pads:
    """The pads with as much more at the end as the last window hangs over, where the number of windows is rounded up.

    A window that would start behind the image and its first pads is none.
    """
    if not ceil:
        return pads
    more = []
    for size, length, stride, dilation, (before, after) in zip(sizes, window, strides, dilations, pads, strict=True):
        reach = (length - 1) * dilation + 1
        count = math.ceil((size + before + after - reach) / stride) + 1
        if (count - 1) * stride >= size + before:
            count -= 1
        more.append((before, max(after, (count - 1) * stride + reach - size - before)))
    return more


def _padded(image: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    if not any(map(any, pads)):
        return image
    return functional.pad(image, [*pads[1], *pads[0]], value=value)
