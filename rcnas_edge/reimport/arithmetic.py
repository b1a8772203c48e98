"""Operators on numbers: sums and products, activations, normalisation, means."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rcnas_edge.reimport.graph import WHOLE, Node
from rcnas_edge.reimport.quantised import Scaled, Sum, real, whole_bias


def of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node], Callable[..., Tensor]]:
    """An operator on tensors that broadcast, such as Add."""
    return lambda node: partial(_fold, function=function)


def add(node: Node) -> Callable[..., Any]:
    """Add; the sum of whole numbers is left to QuantizeLinear, if that is what reads it."""
    return _add


def _add(first: Tensor | Scaled, second: Tensor | Scaled) -> Tensor | Sum:
    if isinstance(first, Scaled) and isinstance(second, Scaled) and first.scale.ndim == second.scale.ndim == 0:
        return Sum(first, second)
    return _fold(real(first), real(second), function=torch.add)


def _fold(*tensors: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """From left to right; numbers that come from shapes are on the CPU and follow the image."""
    place = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), None)
    return reduce(function, tensors if place is None else (tensor.to(place) for tensor in tensors))


def divide(first: Tensor, second: Tensor) -> Tensor:
    """Division; of whole numbers without the remainder."""
    whole = not (first.is_floating_point() or second.is_floating_point())
    return torch.div(first, second, rounding_mode="trunc" if whole else None)


def of_one(function: Callable[..., Tensor], **defaults: float) -> Callable[[Node], Callable[..., Tensor]]:
    """An operator on every number, with attributes and their defaults, such as LeakyRelu."""

    def build(node: Node) -> Callable[..., Tensor]:
        return partial(function, **{name: node.get(name, value) for name, value in defaults.items()})

    return build


def leaky_relu(tensor: Tensor, *, alpha: float) -> Tensor:
    """x, and alpha x below zero."""
    return functional.leaky_relu(tensor, alpha)


def elu(tensor: Tensor, *, alpha: float) -> Tensor:
    """x, and alpha (exp(x) - 1) below zero."""
    return functional.elu(tensor, alpha)


def hard_sigmoid(tensor: Tensor, *, alpha: float, beta: float) -> Tensor:
    """alpha x + beta within [0, 1]."""
    return (alpha * tensor + beta).clamp(0, 1)


def hard_swish(tensor: Tensor) -> Tensor:
    """x times x / 6 + 1 / 2 within [0, 1]."""
    return tensor * hard_sigmoid(tensor, alpha=1 / 6, beta=0.5)


def clip(node: Node) -> Callable[..., Tensor]:
    """Clip; its bounds are attributes, or constants, or left out."""
    bounds = []
    for attribute, index in (("min", 1), ("max", 2)):
        found = node.constant(index)
        if node.given(index) and found is None:
            raise ValueError("its bounds are computed while it runs, they have to be constants")
        bounds.append(node.get(attribute, None) if found is None else found.item())
    return partial(_clip, low=bounds[0], high=bounds[1])


def _clip(tensor: Tensor, *_: Any, low: float | None, high: float | None) -> Tensor:
    return tensor if low is None and high is None else torch.clamp(tensor, low, high)


def softmax(node: Node) -> Callable[[Tensor], Tensor]:
    """Softmax over one axis; before opset 13 over all axes from there on."""
    if node.opset >= 13:
        return partial(torch.softmax, dim=node.get("axis", -1))
    return partial(_old_softmax, axis=node.get("axis", 1))


def _old_softmax(tensor: Tensor, *, axis: int) -> Tensor:
    return torch.softmax(tensor.flatten(axis), axis).reshape(tensor.shape)


def batch_normalisation(node: Node) -> Callable[..., Tensor]:
    """BatchNormalization with stored statistics."""
    if node.get("training_mode", 0) or sum(map(bool, node.outputs)) > 1:
        raise ValueError("it is in training mode: export the network in eval mode")
    return partial(_batch_normalisation, epsilon=node.get("epsilon", 1e-5))


def _batch_normalisation(
    image: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float
) -> Tensor:
    return functional.batch_norm(image, mean, variance, scale, shift, False, 0.0, epsilon)


def mean(node: Node) -> Callable[..., Tensor]:
    """ReduceMean over axes that are an attribute or, since opset 18, an input; over all if there are none."""
    axes = node.numbers("axes", 1)
    if not axes and node.get("noop_with_empty_axes", 0):
        return lambda tensor, *_: tensor
    return partial(_mean, axes=axes or None, keep=bool(node.get("keepdims", 1)))


def _mean(tensor: Tensor, *_: Any, axes: list[int] | None, keep: bool) -> Tensor:
    return torch.mean(tensor, dim=axes if axes is not None else list(range(tensor.ndim)), keepdim=keep)


def gemm(node: Node) -> Callable[..., Any]:
    """Gemm: alpha A B + beta C, with A and B transposed as asked."""
    return partial(
        _gemm,
        alpha=node.get("alpha", 1.0),
        beta=node.get("beta", 1.0),
        transposed=(bool(node.get("transA", 0)), bool(node.get("transB", 0))),
        rounded=node.rounded,
    )


def _gemm(
    first: Tensor | Scaled,
    second: Tensor | Scaled,
    third: Tensor | Scaled | None = None,
    *,
    alpha: float,
    beta: float,
    transposed: tuple[bool, bool],
    rounded: bool,
) -> Tensor | Scaled:
    """(M, K) and (K, N) with (N,) to (M, N)."""
    if alpha != 1.0 or (third is not None and beta != 1.0):
        product = real(_product(_turned(real(first), transposed[0]), _turned(real(second), transposed[1])))
        return alpha * product if third is None else alpha * product + beta * real(third)
    product = _product(_turned(first, transposed[0]), _turned(second, transposed[1]))
    if third is None:
        return product
    whole = whole_bias(third, product.scale, rounded) if isinstance(product, Scaled) else None
    if isinstance(product, Scaled) and whole is not None:
        return Scaled(product.whole + whole, product.scale)
    return real(product) + real(third)


def matmul(node: Node) -> Callable[..., Any]:
    """MatMul of stacks of matrices; of whole numbers if both are quantised."""
    return _product


def _product(first: Tensor | Scaled, second: Tensor | Scaled) -> Tensor | Scaled:
    """Of whole numbers where the scale can be taken out of the sum: one for the first, one a column for the second."""
    if isinstance(first, Scaled) and isinstance(second, Scaled) and first.scale.ndim == 0:
        scale = second.scale
        if scale.ndim == 0 or (second.whole.ndim == 2 and scale.shape[0] == 1):
            return Scaled(first.whole @ second.whole, first.scale * scale)
    return real(first) @ real(second)


def _turned(matrix: Any, turned: bool) -> Any:
    if not turned:
        return matrix
    if isinstance(matrix, Scaled):
        return Scaled(matrix.whole.t(), matrix.scale.t() if matrix.scale.ndim else matrix.scale)
    return matrix.t()


def cast(node: Node) -> Callable[[Tensor], Tensor]:
    """Cast: to whole numbers what does not follow from pixels; all real numbers stay as they are, in 32 bits.

    ONNX Runtime takes casts to 16 bits out of a graph that it computes in 32: without them a WRN-16-2 in fp16 and its
    re-import are 2e-7 apart (relative drift), with the image rounded 1.4e-4 (50 images of CIFAR-10).
    """
    return _to_whole if node.get("to", 0) in WHOLE else _to_real


def _to_real(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32)


def _to_whole(tensor: Tensor) -> Tensor:
    if tensor.requires_grad:
        raise ValueError("pixels become whole numbers there, which has no gradient")
    return tensor.to(torch.int64)
