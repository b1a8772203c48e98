"""In which data types an ONNX graph computes: layers and multiply-accumulates by type, and the check of a promise.

A file is not int8 because somebody called it so: a quantiser leaves out what it does not know, and a runtime computes
that in float. What counts here is what each sum of products reads. `exporters/tensorrt_proof.py` does the same for
the network that an engine is built from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper, numpy_helper

from rcnas_edge.errors import InputError

PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
"""What an artefact whose layers compute in one data type (numpy's name) is called."""

NAMED = 3
"""Layers that an error names before it only counts them."""


class Form(NamedTuple):
    """Where an operator reads images and weights, and how its multiply-accumulates follow from shapes."""

    images: int
    weights: int
    rule: str
    integer: bool = False


FORMS = {
    "Conv": Form(0, 1, "convolution"),
    "ConvTranspose": Form(0, 1, "transposed"),
    "Gemm": Form(0, 1, "product"),
    "MatMul": Form(0, 1, "product"),
    "FusedConv": Form(0, 1, "convolution"),
    "FusedGemm": Form(0, 1, "product"),
    "FusedMatMul": Form(0, 1, "product"),
    "ConvInteger": Form(0, 1, "convolution", integer=True),
    "MatMulInteger": Form(0, 1, "product", integer=True),
    "MatMulIntegerToFloat": Form(0, 1, "product", integer=True),
    "QLinearConv": Form(0, 3, "convolution", integer=True),
    "QLinearMatMul": Form(0, 3, "product", integer=True),
    "QGemm": Form(0, 3, "product", integer=True),
}
"""Operators that are sums of products; the fused ones are what ONNX Runtime makes of the others."""


@dataclass(frozen=True)
class LayerType:
    """One layer of a graph: its node's name and operator, what it computes in, and its MACs for one image.

    `macs` is None where the graph leaves a shape open.
    """

    name: str
    operator: str
    precision: str
    macs: int | None


@dataclass(frozen=True)
class TypeCount:
    """Layers of one data type and their multiply-accumulates for one image; `uncounted` names those of open shape."""

    layers: int = 0
    macs: int = 0
    uncounted: tuple[str, ...] = ()


def layer_types(model: bytes) -> tuple[LayerType, ...]:
    """Every sum of products of an ONNX graph (convolutions, matrix products), in its order; not those of subgraphs.

    A layer is int8 if both of its factors come out of DequantizeLinear from 8-bit integers, or if it is an integer
    operator; weights alone in int8 are multiplied in float, and count as that.
    """
    graph, batch = _with_shapes(model)
    makers = {name: node for node in graph.node for name in node.output}
    kinds, shapes = _types(graph)
    found = []
    for index, node in enumerate(graph.node):
        form = FORMS.get(node.op_type)
        if form is None:
            continue
        factors = [node.input[form.images], node.input[form.weights]]
        names = {_factor_type(name, makers, kinds, integer=form.integer) for name in factors}
        precision = _together(names, kinds.get(node.output[0], ""))
        name = node.name or f"number {index}"
        macs = _macs(node, form, shapes)
        found.append(LayerType(name, node.op_type, precision, None if macs is None else macs // batch))
    return tuple(found)


def counted(model: bytes) -> Mapping[str, TypeCount]:
    """Layers and multiply-accumulates for one image by what they compute in: "fp32", "fp16", "int8"."""
    found: dict[str, TypeCount] = {}
    for layer in layer_types(model):
        before = found.get(layer.precision, TypeCount())
        open_shape = (layer.name,) if layer.macs is None else ()
        found[layer.precision] = TypeCount(
            before.layers + 1, before.macs + (layer.macs or 0), before.uncounted + open_shape
        )
    return dict(sorted(found.items()))


def check_precision(model: bytes, precision: str) -> None:
    """Raise InputError, naming layers, unless every layer of an ONNX model computes in "fp32", "fp16" or "int8"."""
    if precision not in PRECISIONS.values():
        raise InputError(f"a precision is one of {', '.join(dict.fromkeys(PRECISIONS.values()))}, got {precision!r}")
    layers = layer_types(model)
    if not layers:
        raise InputError(f"a file in {precision} has layers that compute in it, this one has no layer at all")
    wrong = [layer for layer in layers if layer.precision != precision]
    if wrong:
        named = ", ".join(f"{layer.operator} {layer.name!r} in {layer.precision}" for layer in wrong[:NAMED])
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise InputError(
            f"a file in {precision} computes every layer in it, this one has {len(wrong)} of {len(layers)} layers in "
            f"another type ({named}{more}): export it again with every layer in {precision}"
        )


def _with_shapes(model: bytes) -> tuple[onnx.GraphProto, int]:
    """The graph with shapes wherever they follow, and the batch that they are of: 1 where it is free."""
    batch = 1
    try:
        proto = onnx.load_model_from_string(model)
        constants = {tensor.name for tensor in proto.graph.initializer}
        for value in proto.graph.input:
            shape = value.type.tensor_type.shape
            if shape.dim and value.name not in constants:
                batch = shape.dim[0].dim_value or 1
                shape.dim[0].dim_value = batch
        for value in proto.graph.output:
            value.type.tensor_type.ClearField("shape")  # it may say that the batch is free
        del proto.graph.value_info[:]
        return onnx.shape_inference.infer_shapes(proto, data_prop=True).graph, batch
    except Exception as error:  # protobuf's and onnx's own types
        raise InputError(f"types are counted in an ONNX model, this is none: {error}") from error


def _types(graph: onnx.GraphProto) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """The data type (numpy's name) of every tensor that has one, and the shape of every one without an open axis."""
    kinds = {tensor.name: _type_name(tensor.data_type) for tensor in graph.initializer}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            values = numpy_helper.to_array(node.attribute[0].t)
            kinds[node.output[0]], shapes[node.output[0]] = values.dtype.name, values.shape
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        kinds.setdefault(value.name, _type_name(tensor.elem_type))
        axes = [axis.dim_value for axis in tensor.shape.dim]
        if tensor.HasField("shape") and all(axis.HasField("dim_value") for axis in tensor.shape.dim):
            shapes.setdefault(value.name, tuple(axes))
    return kinds, shapes


def _type_name(kind: int) -> str:
    if kind == TensorProto.UNDEFINED:
        return ""
    return "bfloat16" if kind == TensorProto.BFLOAT16 else str(helper.tensor_dtype_to_np_dtype(kind).name)


def _factor_type(name: str, makers: Mapping[str, onnx.NodeProto], kinds: Mapping[str, str], *, integer: bool) -> str:
    """The data type that a factor brings: of the integers, if it is dequantised right before the layer."""
    maker = makers.get(name)
    if maker is not None and maker.op_type == "DequantizeLinear":
        return kinds.get(maker.input[0], "")
    return kinds.get(name, "") or ("int8" if integer else "")


def _together(factors: set[str], output: str) -> str:
    """What a layer computes in whose factors have these types: int8 if both are, else the type of its output."""
    names = {PRECISIONS.get(factor, factor) for factor in factors}
    if names == {"int8"}:
        return "int8"
    floats = sorted(names - {"int8", ""}) or [PRECISIONS.get(output, output)]
    return floats[0] if len(floats) == 1 and floats[0] else "unknown"


def _macs(node: onnx.NodeProto, form: Form, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Multiply-accumulates of one call; None if a shape that they follow from is open."""
    images, weights = shapes.get(node.input[form.images]), shapes.get(node.input[form.weights])
    output = shapes.get(node.output[0])
    if form.rule == "convolution" and weights and output:
        return math.prod(output) * math.prod(weights[1:])
    if form.rule == "transposed" and weights and images:
        return math.prod(images) * math.prod(weights[1:])
    if form.rule == "product" and images and output:
        transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
        return math.prod(output) * images[0 if transposed else -1]
    return None
