"""Operators that move numbers, or compute with shapes, which are whole numbers on the CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rcnas_edge.reimport.graph import Node, tensor_of

MOST_NUMBERS = 2**28
"""Of a tensor that is made of its shape alone: a gigabyte."""


def constant(node: Node) -> Callable[[], Tensor]:
    """Constant of any of its forms."""
    kinds = {"value_float": torch.float32, "value_floats": torch.float32}
    kinds |= {"value_int": torch.int64, "value_ints": torch.int64}
    for attribute, value in node.attributes.items():
        if attribute == "value":
            return partial(_known, tensor_of(value, f"{node}"))
        if attribute in kinds:
            return partial(_known, torch.tensor(value, dtype=kinds[attribute]))
    raise ValueError("a constant of this kind is not supported")


def _known(value: Tensor) -> Tensor:
    return value


def constant_of_shape(node: Node) -> Callable[[Tensor], Tensor]:
    """ConstantOfShape: a tensor of one value, by default 0 as a real number."""
    value = node.get("value", None)
    fill = torch.zeros(1) if value is None else tensor_of(value, f"{node}")
    return partial(_filled, fill=fill)


def _filled(shape: Tensor, *, fill: Tensor) -> Tensor:
    sizes = _sizes(shape)
    if math.prod(sizes) > MOST_NUMBERS:
        raise ValueError(f"it makes a tensor of {sizes}, which has more than {MOST_NUMBERS} numbers")
    return fill.reshape(()).expand(sizes).clone()


def identity(node: Node) -> Callable[..., Tensor]:
    """Identity, and Dropout, which does nothing after training."""
    if node.operator == "Dropout" and sum(map(bool, node.outputs)) > 1:
        raise ValueError("its mask as a second output is not supported")
    training = node.constant(2)
    if node.operator == "Dropout" and node.given(2) and (training is None or bool(training)):
        raise ValueError("it is in training mode: export the network in eval mode")
    return lambda tensor, *_: tensor


def reshape(node: Node) -> Callable[..., Tensor]:
    """Reshape: 0 keeps a size (unless `allowzero`), -1 is what is left; a batch size that the file fixes is free."""
    batch = node.batch if node.constant(0) is None else None  # what does not follow from the image has no batch
    return partial(_reshape, batch=batch, keep_zero=bool(node.get("allowzero", 0)))


def _reshape(tensor: Tensor, shape: Tensor, *, batch: int | None, keep_zero: bool) -> Tensor:
    sizes = _sizes(shape)
    if not keep_zero:
        sizes = [tensor.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    if sizes and batch is not None and sizes[0] == batch and tensor.is_floating_point():
        sizes[0] = tensor.shape[0]
    return tensor.reshape(sizes)


def flatten(node: Node) -> Callable[[Tensor], Tensor]:
    """Flatten to a matrix: the axes before `axis`, and the others."""
    return partial(_flatten, axis=node.get("axis", 1))


def _flatten(tensor: Tensor, *, axis: int) -> Tensor:
    if axis == 1:
        return tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(-1, 1)
    place = axis % tensor.ndim if axis < 0 else axis
    rows = 1
    for size in tensor.shape[:place]:
        rows *= size
    return tensor.reshape(rows, -1)


def transpose(node: Node) -> Callable[[Tensor], Tensor]:
    """Transpose by `perm`; without it all axes are reversed."""
    order = node.get("perm", None)
    return lambda tensor: tensor.permute(order or list(reversed(range(tensor.ndim))))


def concatenate(node: Node) -> Callable[..., Tensor]:
    """Concat along one axis."""
    return partial(_concatenate, axis=node.get("axis", 1))


def _concatenate(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, dim=axis)


def split(node: Node) -> Callable[..., Sequence[Tensor]]:
    """Split by sizes, or evenly over the outputs."""
    return partial(
        _split,
        axis=node.get("axis", 0),
        sizes=node.numbers("split", 1),
        parts=node.get("num_outputs", len(node.outputs)),
    )


def _split(tensor: Tensor, *_: Any, axis: int, sizes: list[int] | None, parts: int) -> Sequence[Tensor]:
    if sizes is None:  # the last part is the smaller one
        return torch.split(tensor, -(-tensor.shape[axis] // parts), dim=axis)
    return torch.split(tensor, sizes, dim=axis)


def cut(node: Node) -> Callable[..., Tensor]:
    """Slice: ranges along some axes, with steps."""
    if node.opset < 10:
        return partial(_cut, starts=node.needed("starts", 9), ends=node.needed("ends", 9), axes=node.numbers("axes", 9))
    return _cut_by_inputs


def _cut_by_inputs(
    tensor: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    whole = [None if values is None else _sizes(values) for values in (axes, steps)]
    return _cut(tensor, starts=_sizes(starts), ends=_sizes(ends), axes=whole[0], steps=whole[1])


def _cut(
    tensor: Tensor,
    *,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> Tensor:
    """Bounds as Python's slices have them; torch has no negative steps, so those pick by index."""
    for axis, start, end, step in zip(
        axes or range(len(starts)), starts, ends, steps or [1] * len(starts), strict=True
    ):
        chosen = range(
            *slice(start, None if step < 0 and end < -tensor.shape[axis] else end, step).indices(tensor.shape[axis])
        )
        if step > 0:
            ranges: list[slice] = [slice(None)] * tensor.ndim
            ranges[axis] = slice(chosen.start, max(chosen.stop, chosen.start), step)
            tensor = tensor[tuple(ranges)]
        else:
            tensor = tensor.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64, device=tensor.device))
    return tensor


def unsqueeze(node: Node) -> Callable[..., Tensor]:
    """Unsqueeze: axes of size one more, counted in the result."""
    return partial(_unsqueeze, axes=node.needed("axes", 1))


def _unsqueeze(tensor: Tensor, *_: Any, axes: list[int]) -> Tensor:
    rank = tensor.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        tensor = tensor.unsqueeze(axis)
    return tensor


def squeeze(node: Node) -> Callable[..., Tensor]:
    """Squeeze: without these axes, or without all of size one."""
    return partial(_squeeze, axes=node.numbers("axes", 1))


def _squeeze(tensor: Tensor, *_: Any, axes: list[int] | None) -> Tensor:
    return tensor.squeeze() if axes is None else tensor.squeeze(tuple(axes))


def shape_of(node: Node) -> Callable[[Tensor], Tensor]:
    """Shape, whole or from `start` to `end`."""
    bounds = slice(node.get("start", 0), node.get("end", None))
    return lambda tensor: torch.tensor(list(tensor.shape)[bounds], dtype=torch.int64)


def gather(node: Node) -> Callable[[Tensor, Tensor], Tensor]:
    """Gather: entries along one axis, by index."""
    return partial(_gather, axis=node.get("axis", 0))


def _gather(tensor: Tensor, indices: Tensor, *, axis: int) -> Tensor:
    if indices.is_floating_point():
        raise ValueError("its indices follow from the pixels")
    axis = axis % tensor.ndim
    flat = (indices.reshape(-1).to(torch.int64) % tensor.shape[axis]).to(tensor.device)
    found = tensor.index_select(axis, flat)
    return found.reshape((*tensor.shape[:axis], *indices.shape, *tensor.shape[axis + 1 :]))


def _sizes(values: Tensor) -> list[int]:
    """Whole numbers that follow from shapes; ValueError if they follow from pixels."""
    if values.is_floating_point():
        raise ValueError("its sizes follow from the pixels, not from their number")
    return [int(value) for value in values.reshape(-1).tolist()]
