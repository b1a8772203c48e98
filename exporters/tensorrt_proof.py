"""In which data types a TensorRT network computes: its layers and multiply-accumulates, counted by type.

In a strongly typed network the types of the definition are those of the engine: the builder may fuse layers and pick
kernels, it may not pick another type. So the definition, which can be read without a GPU, says what precision is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rcnas_edge.precision import PRECISIONS

TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "FP8": "float8", "FP4": "float4"}
"""TensorRT's names of data types, where ours differ by more than case."""


@dataclass(frozen=True)
class Proof:
    """Layers by the type they compute in, multiply-accumulates for one image by type, and what could not be counted."""

    layers: Mapping[str, int] = field(default_factory=dict)
    macs: Mapping[str, int] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    """Names of multiplying layers whose shape the definition leaves open."""

    @property
    def precision(self) -> str:
        """The name of the type of all multiply-accumulates (of all layers, if there is none); "mixed" for several."""
        types = [name for name, macs in self.macs.items() if macs] or list(self.layers)
        return PRECISIONS.get(types[0], types[0]) if len(types) == 1 else "mixed"


def prove(trt: Any, network: Any) -> Proof:
    """Count the layers of a network definition; constants, which compute nothing, are left out.

    A convolution or matrix product computes in the type of its output, or, if all that it multiplies comes from
    DequantizeLinear, in the quantised type: that is how a graph with Q/DQ nodes asks for int8.
    """
    every = [network.get_layer(index) for index in range(network.num_layers)]
    makers = {layer.get_output(index).name: layer for layer in every for index in range(layer.num_outputs)}
    layers: Counter[str] = Counter()
    macs: Counter[str] = Counter()
    uncounted: list[str] = []
    for layer in every:
        if layer.type == trt.LayerType.CONSTANT:
            continue
        kind = type_name(layer.get_output(0).dtype)
        multiplies = _macs(trt, layer)
        if multiplies is not None:
            kind = _quantised(trt, layer, makers) or kind
            if multiplies < 0:
                uncounted.append(layer.name)
            else:
                macs[kind] += multiplies
        layers[kind] += 1
    return Proof(dict(sorted(layers.items())), dict(sorted(macs.items())), tuple(uncounted))


def type_name(dtype: Any) -> str:
    """A data type of TensorRT by numpy's name."""
    return TYPES.get(dtype.name, dtype.name.lower())


def _macs(trt: Any, layer: Any) -> int | None:
    """Multiply-accumulates for one image, -1 if a shape is open, None for a layer that is no sum of products."""
    inputs, output = layer.get_input(0), layer.get_output(0)
    if layer.type == trt.LayerType.CONVOLUTION:
        layer.__class__ = trt.IConvolutionLayer
        per_value = math.prod(layer.kernel_size_nd) * inputs.shape[1] // layer.num_groups
        return _times(per_value, output.shape)
    if layer.type == trt.LayerType.DECONVOLUTION:
        layer.__class__ = trt.IDeconvolutionLayer
        return _times(math.prod(layer.kernel_size_nd) * layer.num_output_maps // layer.num_groups, inputs.shape)
    if layer.type == trt.LayerType.MATRIX_MULTIPLY:
        layer.__class__ = trt.IMatrixMultiplyLayer
        transposed = layer.op0 == trt.MatrixOperation.TRANSPOSE
        return _times(inputs.shape[-2 if transposed else -1], output.shape)
    return None


def _times(per_value: int, shape: Sequence[int]) -> int:
    """Of one image: the batch stands first and is open (-1)."""
    values = [1, *list(shape)[1:]] if shape[0] == -1 else list(shape)
    return per_value * math.prod(values) if per_value >= 0 and min(values) >= 0 else -1


def _quantised(trt: Any, layer: Any, makers: Mapping[str, Any]) -> str | None:
    """The quantised type that both factors of a product come from, None if there is no such."""
    types = set()
    for factor in (layer.get_input(0), layer.get_input(1) if layer.num_inputs > 1 else None):
        maker = makers.get(factor.name) if factor is not None else None
        if maker is None or maker.type != trt.LayerType.DEQUANTIZE:
            return None
        types.add(type_name(maker.get_input(0).dtype))
    return types.pop() if len(types) == 1 else None
