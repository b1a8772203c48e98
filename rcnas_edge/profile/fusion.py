"""Groups layer rows into the kernels that a runtime really runs, each with the key of its row in a latency table.

What ONNX Runtime does on a CPU was read off its optimised graphs (a test compares the number of nodes): batch
normalisation folds into the convolution that alone feeds it, ReLU and the residual sum become part of the
convolution, and where the processor has the blocked channel layout (NCHWc, 8 or 16 channels a block) convolutions
work in it, so that tensors are reordered where an operator without a blocked kernel reads or makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rcnas_edge.errors import InputError
from rcnas_edge.space import KINDS, Layer

RUNTIMES = {
    "onnxruntime": 0,
    "onnxruntime-nchwc8": 8,
    "onnxruntime-nchwc16": 16,
    "onnxruntime-cuda": 0,
    "tensorrt": 0,
    "tensorrt-rtx": 0,
    "tflite": 0,
    "pytorch-mobile": 0,
}
"""Runtimes of profiles, and the channels in a block of their layout (0: no blocked layout).

The first three are ONNX Runtime on a CPU, whose fusion is known from its graphs; the others are taken to fuse like
the plain one, which is an assumption: convolution, batch normalisation and ReLU are one kernel, a sum is its own.
"""

INTEGER = "onnxruntime-integer"
"""ONNX Runtime's CPU kernels of an int8 graph, of which a profile's table has rows beside those in floating point.

They have one layout, and write within a range: a ReLU is where that range begins, and no kernel.
"""
CPU = ("onnxruntime", "onnxruntime-nchwc8", "onnxruntime-nchwc16")
"""Runtimes that are ONNX Runtime on a CPU."""

CHANNEL_ALIGNMENT = 4
"""Channels that a tensor needs a multiple of to be reordered into blocks."""

DEPTHWISE = -1
"""In `Key.groups`: one group per channel, however many."""


OPERATIONS = (*KINDS, "to_plain", "to_blocked")
"""Of kernels: those of rows, and the reorderings between layouts."""
LAYOUTS = ("plain", "blocked", "entering")
"""Of kernels: "entering" reads plain and makes blocks."""


class Key(NamedTuple):
    """What rows of one surface of the table share; the surface's axes are the channels in and out.

    ReLU, sum and folded normalisation inside a convolution are not part of it: measured, they are within 3 % of it.
    """

    operation: str
    layout: str
    kernel: int
    stride: int
    groups: int
    height: int  # of the input
    width: int


@dataclass(frozen=True)
class Group:
    """Rows that one kernel computes: `key`, channels in and out, and the rows (none for a reordering).

    In a blocked layout the channels are those of whole blocks, because that is the work that is done.
    `fused` says what the kernel does beside its operation.
    """

    key: Key
    channels_in: int
    channels_out: int
    layers: tuple[Layer, ...]
    fused: tuple[str, ...] = ()


def fuse(layers: Sequence[Layer], runtime: str) -> tuple[Group, ...]:
    """The kernels that `runtime` runs for these rows, in the order in which they are found."""
    return tuple(
        Group(
            Key(*kernel[:7]),
            kernel[7],
            kernel[8],
            tuple(layers[index] for index in rows),
            tuple(layers[index].kind for index in rows[1:]) if kernel[0] in ("conv", "linear", "batchnorm") else (),
        )
        for kernel, rows in kernels(layers, runtime)
    )


Kernel = tuple[str, str, int, int, int, int, int, int, int]
"""The fields of a `Key` and the channels in and out: what the latency of a kernel is looked up by."""


def kernels_of(runtime: str, precision: str) -> str:
    """What `kernels` and `fuse` are asked for: the runtime of a profile, or INTEGER for int8 where that differs."""
    return INTEGER if precision == "int8" and runtime in CPU else runtime


def kernels(layers: Sequence[Layer], runtime: str) -> Iterator[tuple[Kernel, list[int]]]:
    """`fuse` as bare tuples, with the indices of the rows; a search calls this 10^5 times."""
    if runtime == INTEGER:
        return iter(_IntegerPass(layers, 0).run())
    if runtime not in RUNTIMES:
        raise InputError(f"the fusion of a profile's runtime is known for {', '.join(RUNTIMES)}, got {runtime!r}")
    return iter(_Pass(layers, RUNTIMES[runtime]).run())


ACTIVATIONS = ("relu", "sigmoid")
"""Rows that become part of the kernel before them; ReLU6 (a Clip) only of a convolution, and alone it stays plain."""

PLAIN, BLOCKED = 1, 2


class _Pass:
    """One pass over the rows; `made[i]` is the layout that row i makes, `layouts[i]` all it exists in (bits).

    They differ after a reordering, whose copy is read by convolutions and pools only. Index -1, the image, is the last
    place of the lists.
    """

    visits: dict[str, Callable[[Any, int, Layer], None]]
    activations: tuple[str, ...] = ACTIVATIONS

    def __init__(self, layers: Sequence[Layer], block: int) -> None:
        self.layers, self.block = layers, block
        count = len(layers)
        self.made = [0] * count + [PLAIN]
        self.layouts = [0] * count + [PLAIN]
        self.uses = [0] * (count + 1)
        self.reader = [-1] * (count + 1)
        self.open_sums: dict[int, int] = {}  # row whose convolution can still take a sum -> place in `found`
        self.found: list[tuple[Kernel, list[int]]] = []
        for index, layer in enumerate(layers):
            for source in layer.reads:
                self.uses[source] += 1
                self.reader[source] = index

    def run(self) -> list[tuple[Kernel, list[int]]]:
        made, visits = self.made, self.visits
        for index, layer in enumerate(self.layers):
            if not made[index]:
                visits[layer.kind](self, index, layer)
        self._need(len(self.layers) - 1, PLAIN)
        return self.found

    def _next(self, index: int, kinds: tuple[str, ...]) -> int:
        """The only reader of a row where it is of one of these kinds, else -1."""
        if self.uses[index] == 1:
            reader = self.reader[index]
            if self.layers[reader].kind in kinds:
                return reader
        return -1

    def _need(self, source: int, layout: int) -> None:
        """Have the tensor of a row in a layout, by a reordering if need be."""
        if self.layouts[source] & layout:
            return
        self.layouts[source] |= layout
        channels, height, width = self.layers[source].output if source >= 0 else self._image()
        name = "to_plain" if layout == PLAIN else "to_blocked"
        self.found.append(((name, "plain", 1, 1, 1, height, width, channels, channels), []))

    def _image(self) -> tuple[int, int, int]:
        return next(layer.inputs for layer in self.layers if layer.reads[0] == -1)

    def _add(self, operation: str, layout: int, rows: list[int], channels_in: int = 0, channels_out: int = 0) -> None:
        """Note a kernel that makes the tensor of the last of `rows`."""
        first = self.layers[rows[0]]
        channels_in = channels_in or first.inputs[0]
        channels_out = channels_out or channels_in
        groups = first.groups
        if groups > 1 and groups == first.inputs[0] == first.output[0]:
            groups = DEPTHWISE
        name = "plain"
        if layout == BLOCKED:
            block, name = self.block, "blocked"
            channels_out = -(-channels_out // block) * block
            if operation == "conv" and groups == 1 and channels_in < block:
                name = "entering"
            else:
                channels_in = -(-channels_in // block) * block
        _, height, width = first.inputs
        kernel = (operation, name, first.kernel, first.stride, groups, height, width, channels_in, channels_out)
        self.found.append((kernel, rows))
        for row in rows:
            self.made[row] = self.layouts[row] = layout

    def _conv(self, index: int, layer: Layer) -> None:
        rows = [index]
        folded = self._next(index, ("batchnorm",))
        if folded >= 0:
            rows.append(folded)
        reads, makes = self._conv_layouts(layer)
        self._need(layer.reads[0], reads)
        activation = self._next(rows[-1], (*self.activations, "relu6"))
        if activation >= 0:
            rows.append(activation)
        elif makes == BLOCKED and self.uses[rows[-1]] == 1:
            self.open_sums[rows[-1]] = len(self.found)
        self._add("conv", makes, rows, layer.inputs[0], layer.output[0])

    def _conv_layouts(self, layer: Layer) -> tuple[int, int]:
        """The layouts that a convolution reads and makes."""
        block, inputs, outputs = self.block, layer.inputs[0], layer.output[0]
        if not block:
            return PLAIN, PLAIN
        if layer.groups == 1:
            if inputs < block:
                return PLAIN, BLOCKED
            return (BLOCKED, BLOCKED) if inputs % CHANNEL_ALIGNMENT == 0 else (PLAIN, PLAIN)
        depthwise = layer.groups == inputs == outputs and outputs % CHANNEL_ALIGNMENT == 0
        whole = inputs // layer.groups % block == 0 and outputs // layer.groups % block == 0
        return (BLOCKED, BLOCKED) if depthwise or whole else (PLAIN, PLAIN)

    def _batchnorm(self, index: int, layer: Layer) -> None:
        if self.made[layer.reads[0]] == BLOCKED:
            activation = self._next(index, self.activations)
            self._add("batchnorm", BLOCKED, [index] if activation < 0 else [index, activation])
        else:
            self._add("batchnorm", PLAIN, [index])

    def _elementwise(self, index: int, layer: Layer) -> None:
        """An operation of one operand that keeps the layout it finds."""
        self._add(layer.kind, self.made[layer.reads[0]], [index])

    def _combine(self, index: int, layer: Layer) -> None:
        """add or multiply: blocked where both operands are, a convolution takes the sum where it can."""
        sources = layer.reads
        shapes = {self.layers[source].output if source >= 0 else self._image() for source in sources}
        if len(shapes) == 1 and all(self.made[source] == BLOCKED for source in sources):
            if layer.kind == "add":
                for source in sources:
                    place = self.open_sums.pop(source, -1)
                    if place >= 0:
                        rows = self.found[place][1]
                        rows.append(index)
                        activation = self._next(index, self.activations)
                        if activation >= 0:
                            rows.append(activation)
                        for row in rows:
                            self.made[row] = self.layouts[row] = BLOCKED
                        return
            self._add(layer.kind, BLOCKED, [index])
            return
        for source in sources:
            self._need(source, PLAIN)
        self._add(layer.kind, PLAIN, [index])

    def _plain(self, index: int, layer: Layer) -> None:
        self._need(layer.reads[0], PLAIN)
        self._add(layer.kind, PLAIN, [index])

    def _pool(self, index: int, layer: Layer) -> None:
        layout = BLOCKED if self.block and layer.inputs[0] % self.block == 0 else PLAIN
        self._need(layer.reads[0], layout)
        self._add(layer.kind, layout, [index])

    def _linear(self, index: int, layer: Layer) -> None:
        self._need(layer.reads[0], PLAIN)
        activation = self._next(index, self.activations)
        self._add("linear", PLAIN, [index] if activation < 0 else [index, activation], layer.inputs[0], layer.output[0])

    def _slice(self, index: int, layer: Layer) -> None:
        """All slices of one tensor are one Split; its second axis counts the parts."""
        source = layer.reads[0]
        self._need(source, PLAIN)
        sisters = [index]
        for later in range(index + 1, len(self.layers)):
            if self.uses[source] == len(sisters):
                break
            if self.layers[later].kind == "slice" and self.layers[later].reads[0] == source:
                sisters.append(later)
        self._add("slice", PLAIN, sisters, layer.inputs[0], len(sisters))

    def _concat(self, index: int, layer: Layer) -> None:
        """Blocked where every part is made of whole blocks; its second axis counts the parts."""
        block = self.block
        blocked = block and all(
            self.made[source] == BLOCKED and self.layers[source].output[0] % block == 0 for source in layer.reads
        )
        layout = BLOCKED if blocked else PLAIN
        for source in layer.reads:
            self._need(source, layout)
        self._add("concat", layout, [index], layer.output[0], len(layer.reads))


_Pass.visits = {
    "normalize": _Pass._plain,
    "conv": _Pass._conv,
    "linear": _Pass._linear,
    "batchnorm": _Pass._batchnorm,
    "relu": _Pass._elementwise,
    "relu6": _Pass._plain,
    "sigmoid": _Pass._elementwise,
    "add": _Pass._combine,
    "multiply": _Pass._combine,
    "slice": _Pass._slice,
    "concat": _Pass._concat,
    "maxpool": _Pass._pool,
    "avgpool": _Pass._pool,
    "globalpool": _Pass._plain,
}


class _IntegerPass(_Pass):
    """The kernels of an int8 graph: there is no layout to choose, and no activation but those that are functions."""

    activations = ("relu",)

    def _absorb(self, index: int, layer: Layer) -> None:
        """A ReLU belongs to the kernel that makes what it reads."""
        source = layer.reads[0]
        rows = next((rows for _, rows in reversed(self.found) if source in rows), None)
        if rows is None:
            self._plain(index, layer)
            return
        rows.append(index)
        self.made[index] = self.layouts[index] = PLAIN


_IntegerPass.visits = {**_Pass.visits, "relu": _IntegerPass._absorb, "relu6": _IntegerPass._absorb}
