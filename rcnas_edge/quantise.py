"""A trained ONNX graph in int8 or fp16, by ONNX Runtime's own tools, as bytes that are the same every time.

int8 is static QDQ: weights per channel and symmetric, activations per tensor in the ranges that calibration images
reach, logits never quantised. Two schemes, because runtimes differ:

* u8s8, for ONNX Runtime's CPU: unsigned activations, every tensor between layers quantised, so that the runtime finds
  an integer kernel for each layer and nothing in between is computed in float.
* s8s8, for TensorRT: signed symmetric activations, quantised only where a layer reads them, biases in float; what lies
  between two layers the engine fuses by itself (NVIDIA, "Working with Quantized Types": Q/DQ placement).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from rcnas_edge.errors import InputError
from rcnas_edge.quiet import quiet

Scheme = Literal["u8s8", "s8s8"]

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators that are sums of products, which a precision is about."""

BETWEEN = ("Add", "AveragePool", "Clip", "Concat", "GlobalAveragePool", "MaxPool", "Mul", "Relu", "Split")
"""Operators between layers that have an integer kernel on ONNX Runtime's CPU."""

PASSING = (
    *("Add", "Clip", "Div", "Flatten", "GlobalAveragePool", "Identity", "LogSoftmax", "Mul", "ReduceMean", "Relu"),
    *("Reshape", "Softmax", "Squeeze", "Sub"),
)
"""Operators that may stand between the last layer and the logits, with one input that is not constant."""


def int8_model(model: bytes, batches: Iterable[np.ndarray], *, scheme: Scheme = "u8s8") -> bytes:
    """The ONNX model with int8 layers, calibrated on batches of images float32 (N, C, H, W) in [0, 1].

    The ranges are the least and the largest value that any calibration image reaches. Names, metadata and the batch
    dimension stay as they were. In scheme u8s8 a batch normalisation that no convolution absorbs (pre-activation
    blocks) becomes a convolution 1x1 per channel, which is exact in int8 weights and leaves no float between layers.
    Raises InputError for a model without layers to quantise, without images, or with images that it does not take.
    """
    if scheme not in get_args(Scheme):
        raise InputError(f"an int8 scheme is one of {', '.join(get_args(Scheme))}, got {scheme!r}")
    proto = _loaded(model)
    graph = proto.graph
    _name_nodes(graph)
    if not any(_quantisable(graph, node) for node in graph.node):
        raise InputError(
            f"a model that is quantised has layers ({', '.join(LAYERS)}) with weights of their own, this one has none"
        )
    if scheme == "u8s8":
        _convolve_batchnorms(proto)
    head = _head(graph)
    quantised = _quantised(proto, _checked(graph, batches), scheme, exclude=head[1:])
    _free_output(quantised.graph, head[0])
    return _serialised(quantised, like=proto)


def fp16_model(model: bytes) -> bytes:
    """The ONNX model with weights and arithmetic in float16, images and logits still float32.

    Weights that float16 cannot hold are clamped to its range by the converter. On a CPU ONNX Runtime computes such a
    model in float32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    proto = _loaded(model)
    if not any(tensor.data_type == TensorProto.FLOAT for tensor in proto.graph.initializer):
        raise InputError("a model that is written in float16 has weights in float32, this one has none")
    _name_nodes(proto.graph)
    with quiet():
        half = convert_float_to_float16(proto, keep_io_types=True)
    return _serialised(half, like=proto)


def _loaded(model: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's own types
        raise InputError(f"what is quantised is an ONNX model, these {len(model)} bytes are none: {error}") from error


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own, by which ONNX Runtime's tools know it."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _quantisable(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    names = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return node.op_type in LAYERS and node.input[1] in names


def _checked(graph: onnx.GraphProto, batches: Iterable[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The calibration batches, as the model's one input takes them."""
    constants = {tensor.name for tensor in graph.initializer}
    fed = [value for value in graph.input if value.name not in constants]
    if len(fed) != 1:
        raise InputError(f"a model that is quantised has one input, the images, this one has {len(fed)}")
    wanted = [entry.dim_value for entry in fed[0].type.tensor_type.shape.dim]
    found = []
    for batch in batches:
        batch = np.ascontiguousarray(batch)
        fits = batch.ndim == len(wanted) and all(
            want in (0, got) for want, got in zip(wanted, batch.shape, strict=True)
        )
        if not fits or batch.dtype != np.float32 or not np.isfinite(batch).all():
            shape = tuple(want or "N" for want in wanted)
            raise InputError(
                f"calibration images are finite float32 {shape} for this model, got {batch.dtype} {batch.shape}"
            )
        if len(batch):
            found.append({fed[0].name: batch})
    if not found:
        raise InputError("an int8 model is calibrated on images, got none: pass some of the training split")
    return found


def _convolve_batchnorms(proto: onnx.ModelProto) -> None:
    """Write every batch normalisation of images as a convolution 1x1 with one filter per channel.

    It is y = k x + (bias - k mean) with k = weight / sqrt(variance + epsilon). Each filter has one weight and a scale
    of its own, so int8 holds it exactly; and ONNX Runtime need not go to float32 and back for it.
    """
    graph = proto.graph
    constants, vectors = _constants(graph), _vectors(proto)
    for index, node in enumerate(graph.node):
        if node.op_type != "BatchNormalization" or any(name not in constants for name in node.input[1:5]):
            continue
        if node.input[0] in vectors:
            continue
        weight, bias, mean, variance = (constants[name].astype(np.float64) for name in node.input[1:5])
        epsilon = next((entry.f for entry in node.attribute if entry.name == "epsilon"), 1e-5)
        factor = weight / np.sqrt(variance + epsilon)
        operands = {
            f"{node.name}.as_conv.weight": factor.reshape(-1, 1, 1, 1),
            f"{node.name}.as_conv.bias": bias - factor * mean,
        }
        for name, values in operands.items():
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        graph.node[index].CopyFrom(
            helper.make_node(
                "Conv",
                [node.input[0], *operands],
                [node.output[0]],
                node.name,
                kernel_shape=[1, 1],
                group=len(factor),
            )
        )
    _drop_unread(graph)


def _vectors(proto: onnx.ModelProto) -> set[str]:
    """The tensors that are known to be no images (N, C, H, W)."""
    known = shape_inference.infer_shapes(proto).graph
    values = (*known.input, *known.value_info, *known.output)
    return {value.name for value in values if len(value.type.tensor_type.shape.dim) not in (0, 4)}


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _head(graph: onnx.GraphProto) -> list[str]:
    """The names of the last layer and of the nodes between it and the logits, in the order of the graph.

    Where several layers meet, as in the sum of two, the node in which they do stands for the last layer.
    """
    makers = {name: node for node in graph.node for name in node.output}
    head: list[str] = []
    node = makers.get(graph.output[0].name)
    while node is not None:
        head.insert(0, node.name)
        made = [makers[name] for name in node.input if name in makers and makers[name].op_type != "Constant"]
        node = made[0] if node.op_type in PASSING and len(made) == 1 else None
    return head


def _quantised(
    proto: onnx.ModelProto, batches: list[dict[str, np.ndarray]], scheme: Scheme, *, exclude: list[str]
) -> onnx.ModelProto:
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[dict[str, np.ndarray]] = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    symmetric = scheme == "s8s8"
    kind = quantization.QuantType
    options: dict[str, Any] = {
        "ActivationSymmetric": symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": not symmetric,
        "OpTypesToExcludeOutputQuantization": list(LAYERS) if symmetric else [],
    }
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.onnx"
        try:
            quantization.quantize_static(
                proto,
                path,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(LAYERS if symmetric else LAYERS + BETWEEN),
                nodes_to_exclude=exclude,
                per_channel=True,
                activation_type=kind.QInt8 if symmetric else kind.QUInt8,
                weight_type=kind.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options=options,
            )
        except Exception as error:  # ONNX Runtime's exceptions have no public base
            raise InputError(f"ONNX Runtime must be able to quantise a model, this one it cannot: {error}") from error
        return onnx.load(path)


def _free_output(graph: onnx.GraphProto, layer: str) -> None:
    """Take out what quantises a layer's output, so that it keeps every value."""
    last = next(node for node in graph.node if node.name == layer)
    quantising = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == last.output[0]]
    codes = {node.output[0] for node in quantising}
    restoring = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in codes]
    restored = {node.output[0] for node in restoring}
    for node in (*quantising, *restoring):
        graph.node.remove(node)
    if graph.output[0].name in restored:
        last.output[0] = graph.output[0].name
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in restored:
                node.input[index] = last.output[0]


def _serialised(proto: onnx.ModelProto, *, like: onnx.ModelProto) -> bytes:
    """The model's bytes with the facts of another one, its nodes in an order in which each reads what others made."""
    del proto.metadata_props[:]
    proto.metadata_props.extend(like.metadata_props)
    proto.producer_name, proto.producer_version = like.producer_name, like.producer_version
    graph = proto.graph
    _drop_unread(graph)
    del graph.value_info[:]  # of tensors that may be there no more
    waiting = list(graph.node)
    made = {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = next(node for node in waiting if made.issuperset(node.input))
        waiting.remove(ready)
        ordered.append(ready)
        made.update(ready.output)
    del graph.node[:]
    graph.node.extend(ordered)
    return bytes(proto.SerializeToString(deterministic=True))
