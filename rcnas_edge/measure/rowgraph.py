"""An ONNX network straight from layer rows, so that latency can be measured where no network is built.

It mirrors what `torch.onnx.export(dynamo=True)` writes for the same rows: batch normalisation folded into the
convolution that alone feeds it, channel ranges of one tensor as one Split, ReduceMean without the pooled axes,
Unsqueeze before the excitation's Mul. A test holds the two exports' operators against each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rcnas_edge.errors import InputError
from rcnas_edge.space import IMAGE, Layer, Shape

OPSET = 20
IR_VERSION = 10
"""Readable by every ONNX Runtime since 1.18."""

_SIMPLE = {"relu": "Relu", "sigmoid": "Sigmoid"}


class Draws(Protocol):
    """What weights are drawn from: a generator of numpy, or a `Pattern`."""

    def normal(self, loc: float, scale: float, size: int | tuple[int, ...]) -> np.ndarray:
        """Normally distributed values."""

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        """Values between two bounds."""


class Pattern:
    """Draws few values over and over, so that a zip holds a large tensor in few bytes.

    The values are ordinary floats, which take the time of others; every tensor begins elsewhere among them, so that a
    runtime which merges equal constants finds none.
    """

    LENGTH = 61
    """A prime: no row of weights is as long as the pattern."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.values = {"normal": generator.normal(0, 1, self.LENGTH), "uniform": generator.uniform(0, 1, self.LENGTH)}
        self.drawn = 0

    def normal(self, loc: float, scale: float, size: int | tuple[int, ...]) -> np.ndarray:
        """As if normally distributed."""
        return loc + scale * self._next("normal", size)

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        """As if drawn between two bounds."""
        return low + (high - low) * self._next("uniform", size)

    def _next(self, kind: str, size: int | tuple[int, ...]) -> np.ndarray:
        self.drawn += 1
        return np.resize(np.roll(self.values[kind], self.drawn), size)


def graph_of(layers: Sequence[Layer], *, seed: int = 0, batch: int = 1, draws: Draws | None = None) -> onnx.ModelProto:
    """The network of these rows with random weights (He 2015), input "images" (batch, C, H, W), output "logits".

    Weights are of `draws`, or drawn from `seed`: latency does not depend on them, but zeros and denormals would lie.
    """
    check_rows(layers)
    return _Writer(layers, draws or np.random.default_rng(seed), batch).model()


def check_rows(layers: Sequence[Layer]) -> None:
    """Raise InputError unless there are rows and each reads the image or earlier rows of the stated shape."""
    if not layers:
        raise InputError("a network has at least one layer row, got none: pass the rows of a space or a family")
    image: Shape | None = None
    for index, layer in enumerate(layers):
        if not layer.reads or not all(IMAGE <= source < index for source in layer.reads):
            raise InputError(f"a row reads the image ({IMAGE}) or earlier rows, {layer.name!r} reads {layer.reads}")
        for source in layer.reads[:1]:
            if source == IMAGE:
                image = image or layer.inputs
            found = (image or layer.inputs) if source == IMAGE else layers[source].output
            if found != layer.inputs and math.prod(found) != layer.inputs[0]:
                raise InputError(f"a row's inputs are what it reads, {layer.name!r} has {layer.inputs}, reads {found}")


class _Writer:
    """Writes the nodes of one network; `flat` holds the names of the tensors of rank 2."""

    def __init__(self, layers: Sequence[Layer], generator: Draws, batch: int) -> None:
        self.layers, self.generator, self.batch = layers, generator, batch
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.names: dict[int, str] = {IMAGE: "images"}
        self.flat: set[str] = set()
        self.readers: dict[int, list[int]] = {}
        for index, layer in enumerate(layers):
            for source in layer.reads:
                self.readers.setdefault(source, []).append(index)

    def model(self) -> onnx.ModelProto:
        for index, layer in enumerate(self.layers):
            if index not in self.names:
                self.names[index] = self._write(index, layer)
        image = next(layer.inputs for layer in self.layers if layer.reads[0] == IMAGE)
        last = self.layers[-1].output
        result = self.names[len(self.layers) - 1]
        self.nodes.append(helper.make_node("Identity", [result], ["logits"]))
        shape = [self.batch, last[0]] if result in self.flat else [self.batch, *last]
        graph = helper.make_graph(
            self.nodes,
            "rows",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [self.batch, *image])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
            list(self.constants.values()),
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _write(self, index: int, layer: Layer) -> str:
        kind = layer.kind
        if kind in _SIMPLE:
            return self._node(_SIMPLE[kind], layer.name, self._sources(layer), like=layer.reads[0])
        if kind in ("add", "multiply"):
            return self._combine(layer)
        return getattr(self, f"_{kind}")(index, layer)

    # One method per kind of row; each returns the name of the tensor it makes.

    def _normalize(self, index: int, layer: Layer) -> str:
        shape = (1, layer.inputs[0], 1, 1)
        mean = self._constant(f"{layer.name}.mean", np.full(shape, 0.5))
        deviation = self._constant(f"{layer.name}.std", np.full(shape, 0.25))
        centred = self._node("Sub", f"{layer.name}.sub", [*self._sources(layer), mean])
        return self._node("Div", layer.name, [centred, deviation])

    def _conv(self, index: int, layer: Layer) -> str:
        (inputs, _, _), outputs, kernel = layer.inputs, layer.output[0], layer.kernel
        weights = self._he((outputs, inputs // layer.groups, kernel, kernel), inputs // layer.groups * kernel**2)
        operands = [*self._sources(layer), self._constant(f"{layer.name}.weight", weights)]
        folded = self._folded(index)
        if layer.bias or folded:
            operands.append(self._constant(f"{layer.name}.bias", self.generator.normal(0, 0.1, outputs)))
        pads, strides = [kernel // 2] * 4, [layer.stride] * 2
        name = self._node(
            "Conv", layer.name, operands, kernel_shape=[kernel] * 2, pads=pads, strides=strides, group=layer.groups
        )
        if folded:
            self.names[folded] = name
        return name

    def _folded(self, index: int) -> int:
        """The batch normalisation that alone reads row `index` (0: none), which the exporter folds into it."""
        readers = self.readers.get(index, [])
        return readers[0] if len(readers) == 1 and self.layers[readers[0]].kind == "batchnorm" else 0

    def _batchnorm(self, index: int, layer: Layer) -> str:
        channels = layer.output[0]
        values = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        operands = []
        for part, centre in values.items():
            drawn = centre + self.generator.uniform(-0.2, 0.2, channels)
            operands.append(self._constant(f"{layer.name}.{part}", drawn))
        return self._node("BatchNormalization", layer.name, [*self._sources(layer), *operands], epsilon=1e-5)

    def _linear(self, index: int, layer: Layer) -> str:
        (source,) = self._sources(layer)
        if source not in self.flat:
            shape = self._constant("shape.flat", np.array([self.batch, -1], dtype=np.int64))
            source = self._node("Reshape", f"{layer.name}.flat", [source, shape], flat=True)
        weights = self._he((layer.output[0], layer.inputs[0]), layer.inputs[0])
        operands = [source, self._constant(f"{layer.name}.weight", weights)]
        if layer.bias:
            operands.append(self._constant(f"{layer.name}.bias", self.generator.normal(0, 0.1, layer.output[0])))
        return self._node("Gemm", layer.name, operands, flat=True, transB=1)

    def _globalpool(self, index: int, layer: Layer) -> str:
        axes = self._constant("axes.pixels", np.array([2, 3], dtype=np.int64))
        return self._node("ReduceMean", layer.name, [*self._sources(layer), axes], flat=True, keepdims=0)

    def _relu6(self, index: int, layer: Layer) -> str:
        bounds = [self._constant(f"bounds.{value}", np.array(value, dtype=np.float32)) for value in (0, 6)]
        return self._node("Clip", layer.name, [*self._sources(layer), *bounds], like=layer.reads[0])

    def _maxpool(self, index: int, layer: Layer) -> str:
        pads, strides = [layer.kernel // 2] * 4, [layer.stride] * 2
        shape, sources = [layer.kernel] * 2, self._sources(layer)
        return self._node("MaxPool", layer.name, sources, kernel_shape=shape, pads=pads, strides=strides)

    def _avgpool(self, index: int, layer: Layer) -> str:
        pads, strides = [layer.kernel // 2] * 4, [layer.stride] * 2
        shape, sources = [layer.kernel] * 2, self._sources(layer)
        return self._node(
            "AveragePool", layer.name, sources, kernel_shape=shape, pads=pads, strides=strides, count_include_pad=1
        )

    def _concat(self, index: int, layer: Layer) -> str:
        return self._node("Concat", layer.name, self._sources(layer), like=layer.reads[0], axis=1)

    def _slice(self, index: int, layer: Layer) -> str:
        """Slices that tile their source become one Split, as torch exports `split`; any other is a Slice."""
        source = layer.reads[0]
        sisters = [reader for reader in self.readers[source] if self.layers[reader].kind == "slice"]
        sisters.sort(key=lambda reader: self.layers[reader].start)
        parts = [self.layers[sister].output[0] for sister in sisters]
        starts = [self.layers[sister].start for sister in sisters]
        (tensor,) = self._sources(layer)
        if starts == [sum(parts[:position]) for position in range(len(parts))] and sum(parts) == layer.inputs[0]:
            sizes = self._constant(f"{layer.name}.sizes", np.array(parts, dtype=np.int64))
            outputs = [self.layers[sister].name for sister in sisters]
            self.nodes.append(helper.make_node("Split", [tensor, sizes], outputs, layer.name + ".split", axis=1))
            self.names.update(zip(sisters, outputs, strict=True))
            return self.names[index]
        bounds = [layer.start, layer.start + layer.output[0], 1]
        ends = [
            self._constant(f"{layer.name}.{part}", np.array([value], dtype=np.int64))
            for part, value in zip(("start", "end", "axis"), bounds, strict=True)
        ]
        return self._node("Slice", layer.name, [tensor, *ends])

    def _combine(self, layer: Layer) -> str:
        """Add or Mul; a vector of rank 2 beside an image of rank 4 gets its two axes back."""
        sources = self._sources(layer)
        if 0 < sum(source in self.flat for source in sources) < len(sources):
            axes = self._constant("axes.pixels", np.array([2, 3], dtype=np.int64))
            sources = [
                self._node("Unsqueeze", f"{source}.unsqueezed", [source, axes]) if source in self.flat else source
                for source in sources
            ]
        flat = all(source in self.flat for source in sources)
        return self._node("Add" if layer.kind == "add" else "Mul", layer.name, sources, flat=flat)

    def _sources(self, layer: Layer) -> list[str]:
        return [self.names[source] for source in layer.reads]

    def _he(self, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
        return self.generator.normal(0, math.sqrt(2 / fan_in), shape)

    def _constant(self, name: str, values: np.ndarray) -> str:
        if name not in self.constants:
            kept = values if values.dtype == np.int64 else values.astype(np.float32)
            self.constants[name] = numpy_helper.from_array(kept, name)
        return name

    def _node(
        self,
        operator: str,
        name: str,
        inputs: list[str],
        *,
        flat: bool = False,
        like: int | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node; its tensor is of rank 2 if `flat`, or if that of row `like` is."""
        output = f"{name}.out"
        self.nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        if flat or (like is not None and self.names[like] in self.flat):
            self.flat.add(output)
        return output
