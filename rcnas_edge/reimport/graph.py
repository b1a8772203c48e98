"""Reads an ONNX file into what a re-import needs: its nodes in order, their constants, one input and one output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from rcnas_edge.errors import InputError
from rcnas_edge.modelfile import check_model, read_model

LEAST_OPSET = 7
"""Older arithmetic has broadcasting rules of its own; nothing has written it since 2018."""
HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
FLOATS = (*HALF, TensorProto.FLOAT, TensorProto.DOUBLE)
WHOLE = (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL)


@dataclass(frozen=True)
class Node:
    """One operation: what it reads and makes, by name ("" is an input left out), and its attributes as Python values.

    `constants` are those of the whole graph that are known so far; `batch` is the batch size that the file fixes;
    `rounded` says that its result is read by a QuantizeLinear alone, directly or behind a Relu or Clip.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    constants: Mapping[str, Any]
    batch: int | None = None
    rounded: bool = False

    def __str__(self) -> str:
        return f"{self.operator} (node {self.name!r})"

    def get(self, attribute: str, default: Any) -> Any:
        """The value of an attribute, or what the standard says when it is left out."""
        return self.attributes.get(attribute, default)

    def given(self, index: int) -> bool:
        """Whether the input at this place is there."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def constant(self, index: int) -> Tensor | None:
        """The input at this place if it is a constant tensor."""
        value = self.constants.get(self.inputs[index]) if self.given(index) else None
        return value if isinstance(value, Tensor) else None

    def numbers(self, attribute: str, index: int) -> list[int] | None:
        """Integers that older opsets have as an attribute and newer ones as a constant input; None if left out.

        Raises ValueError if the input is there and follows from the image.
        """
        if attribute in self.attributes:
            return list(self.attributes[attribute])
        if not self.given(index):
            return None
        found = self.constant(index)
        if found is None:
            raise ValueError(f"its {attribute} are computed while it runs, they have to be constants")
        return [int(value) for value in found.reshape(-1).tolist()]

    def needed(self, attribute: str, index: int) -> list[int]:
        """`numbers` that cannot be left out; ValueError if they are."""
        found = self.numbers(attribute, index)
        if found is None:
            raise ValueError(f"it has no {attribute}")
        return found


@dataclass(frozen=True)
class Graph:
    """A classifier's graph: `image` are the sizes (N, ...) of its input, None where the file leaves them free."""

    nodes: tuple[Node, ...]
    constants: dict[str, Any]
    input: str
    image: tuple[int | None, ...]
    output: str
    half: bool

    @property
    def batch(self) -> int | None:
        """The batch size that the file fixes, or None."""
        return self.image[0]

    @property
    def quantised(self) -> bool:
        """Whether it rounds: it has a QuantizeLinear or DequantizeLinear."""
        return any(node.operator in ("QuantizeLinear", "DequantizeLinear") for node in self.nodes)


def read_graph(model: bytes | Path | onnx.ModelProto, *, name: str) -> Graph:
    """The graph of an ONNX model; InputError if it is none, or has several inputs or outputs, or weights elsewhere."""
    proto = _proto(model, name)
    graph = proto.graph
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < LEAST_OPSET:
        raise InputError(f"a re-imported file has ONNX opset {LEAST_OPSET} or later, {name} has {opset}: convert it")
    constants = {tensor.name: tensor_of(tensor, name) for tensor in graph.initializer}
    if graph.sparse_initializer:
        raise InputError(f"a re-imported file holds dense tensors, {name} holds sparse ones: convert it")
    inputs = [value for value in graph.input if value.name not in constants]
    for what, values in (("input", inputs), ("output", graph.output)):
        if len(values) != 1:
            raise InputError(
                f"a classifier has one {what}, {name} has {len(values)}"
                f"{': ' if values else ''}{', '.join(value.name for value in values)}"
            )
    image = _image(inputs[0], name)
    nodes = [_node(node, opset, constants, image[0], place) for place, node in enumerate(graph.node)]
    half = any(tensor.data_type in HALF for tensor in graph.initializer)
    return Graph(_needed(nodes, graph.output[0].name), constants, inputs[0].name, image, graph.output[0].name, half)


def tensor_of(tensor: onnx.TensorProto, name: str) -> Tensor:
    """A stored tensor: real numbers as float32 (those of 16 bits keep their value), others as they are."""
    if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
        raise InputError(
            f"a re-imported file has its weights inside, {name} keeps {tensor.name!r} in another file: save it as one "
            "file (onnx.load and onnx.save do)"
        )
    if tensor.data_type not in (*FLOATS, *WHOLE):
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise InputError(f"a re-imported file holds real and 8, 32 and 64-bit whole numbers, {name} holds {kind}")
    try:
        values = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"a tensor has as many numbers as its shape says, {tensor.name!r} of {name} has not: {error}"
        ) from error
    return torch.from_numpy(np.array(values, dtype=np.float32 if tensor.data_type in FLOATS else values.dtype))


def _proto(model: bytes | Path | onnx.ModelProto, name: str) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        return model
    serialised = read_model(model) if isinstance(model, Path) else model
    check_model(serialised, name)
    try:
        proto = onnx.load_model_from_string(serialised)
    except Exception as error:  # protobuf's error has no public base across versions
        raise InputError(f"{name} must be an ONNX file, it is not") from error
    if not proto.graph.node:
        raise InputError(f"{name} must be an ONNX file with a graph, it has none")
    return proto


def _image(value: onnx.ValueInfoProto, name: str) -> tuple[int | None, ...]:
    kind = value.type.tensor_type
    if kind.elem_type not in FLOATS:
        stored = TensorProto.DataType.Name(kind.elem_type)
        raise InputError(f"a re-imported file takes images of real numbers, {name} takes {stored}")
    if not kind.HasField("shape") or len(kind.shape.dim) != 4:
        raise InputError(f"a re-imported file takes images of four dimensions, the input of {name} has another shape")
    return tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else None for size in kind.shape.dim
    )


def _node(node: onnx.NodeProto, opset: int, constants: Mapping[str, Any], batch: int | None, place: int) -> Node:
    name = node.name or (node.output[0] if node.output else f"number {place}")
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain == "com.microsoft":
        domain = ""  # the same operation under ONNX Runtime's name
    attributes = {entry.name: _attribute(entry) for entry in node.attribute}
    inputs, outputs = tuple(node.input), tuple(output for output in node.output)
    return Node(domain + node.op_type, name, inputs, outputs, attributes, opset, constants, batch)


def _attribute(entry: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(entry)
    return value.decode() if isinstance(value, bytes) else value


def _needed(nodes: list[Node], output: str) -> tuple[Node, ...]:
    """Those nodes that the output depends on, in their order, told whether their result is rounded."""
    kept: list[Node] = []
    readers: dict[str, list[Node | None]] = {output: [None]}
    for node in reversed(nodes):
        if readers.keys() & set(node.outputs):
            kept.append(replace(node, rounded=_rounded(readers.get(node.outputs[0], []))))
            for name in node.inputs:
                readers.setdefault(name, []).append(kept[-1])
    return tuple(reversed(kept))


def _rounded(readers: list[Node | None]) -> bool:
    only = readers[0] if len(readers) == 1 else None
    return only is not None and (
        only.operator == "QuantizeLinear" or (only.operator in ("Relu", "Clip") and only.rounded)
    )
