"""Small networks that hold one kernel many times, so that its cost is a difference of two timings.

A kernel of a microsecond cannot be timed alone. A specimen holds it `copies` times in a chain, or side by side where
the shapes do not chain; what starts and ends the network drops out of the difference of two specimens. Some kernels
need others beside each copy (a pooling needs tensors that differ, else the runtime computes it once): those helpers
are counted by `fuse` itself and taken off by their own rows.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from rcnas_edge.errors import InputError
from rcnas_edge.nets.rows import RowWriter
from rcnas_edge.profile.fusion import DEPTHWISE, INTEGER, Kernel, kernels
from rcnas_edge.space import IMAGE, Layer

ENTRY_CHANNELS = 4
OF_FLOATS = ("normalize",)
"""What of an int8 graph is computed in floating point, before the first tensor is quantised."""
OF_VECTORS = ("linear", "relu", "sigmoid", "add")
"""What runs on vectors too, as behind a global pooling; all else of a single pixel is an image."""


def specimen(kernel: Kernel, copies: int, *, integer: bool = False) -> tuple[Layer, ...]:
    """The rows of a network that runs `kernel` this many times; `integer` for one that will be quantised."""
    operation = kernel[0]
    if operation not in _BUILD:
        raise InputError(f"a specimen can be made of {', '.join(_BUILD)}, got {operation!r}")
    bench = _Bench(kernel, integer=integer)
    _BUILD[operation](bench, copies)
    if integer and operation not in OF_FLOATS:
        bench.end()
    return tuple(bench.write.rows)


def difference(kernel: Kernel, few: int, many: int, runtime: str) -> Counter[Kernel]:
    """What the specimen of `many` copies runs more often than that of `few`: the kernel itself and its helpers."""
    counts = [
        Counter(found for found, _ in kernels(specimen(kernel, copies, integer=runtime == INTEGER), runtime))
        for copies in (few, many)
    ]
    counts[1].subtract(counts[0])
    return Counter({found: count for found, count in counts[1].items() if count})


class _Bench:
    """Writes one specimen; `start` is a tensor of the kernel's input shape in the layout that it reads."""

    def __init__(self, kernel: Kernel, *, integer: bool) -> None:
        self.operation, self.layout, self.size, self.stride, self.groups, height, width, *channels = kernel
        self.channels, self.outputs = channels
        self.blocked, self.serial, self.integer = self.layout == "blocked", 0, integer
        self.vector = height == width == 1 and self.operation in OF_VECTORS
        if self.blocked or self.operation == "to_plain" or (integer and self.operation not in OF_FLOATS):
            self.write = RowWriter((ENTRY_CHANNELS, height, width))
            entered = self.write.convolution("entry", IMAGE, self.channels, kernel=1)
            self.start = self.write.elementwise("entered", "relu", entered)
            if self.vector and integer:
                self.start = self.write.global_pool("pooled", self.start)
        else:
            self.write = RowWriter((self.channels, height, width))
            self.start = self.write.global_pool("entry", IMAGE) if self.vector else IMAGE

    def end(self) -> None:
        """A last layer of its own, because what makes the logits is not quantised as the others are."""
        last = len(self.write.rows) - 1
        if not (self.vector or self.operation in ("linear", "globalpool")):
            last = self.write.global_pool("pooled.end", last)
        self.write.linear("end", last, 10, bias=True)

    def name(self, stem: str) -> str:
        self.serial += 1
        return f"{stem}{self.serial}"

    def fresh(self, source: int, *, blocked: bool) -> int:
        """A tensor that differs from `source`, in its layout, at little cost."""
        if blocked or self.integer:
            return self.write.normalised_relu(self.name("norm"), self.name("relu"), source)
        return self.write.elementwise(self.name("sigmoid"), "sigmoid", source)

    def sum(self, total: int | None, term: int) -> int:
        """Accumulate, so that nothing is dead code."""
        return term if total is None else self.write.elementwise(self.name("add"), "add", term, total)

    def convolution(self, source: int) -> int:
        groups = self.channels if self.groups == DEPTHWISE else self.groups
        return self.write.convolution(
            self.name("conv"), source, self.outputs, kernel=self.size, stride=self.stride, groups=groups
        )


def _conv(bench: _Bench, copies: int) -> None:
    if bench.layout == "plain" and bench.stride == 1 and bench.channels == bench.outputs:
        out = bench.start
        for _ in range(copies):
            out = bench.write.elementwise(bench.name("relu"), "relu", bench.convolution(out))
        return
    total = None
    for _ in range(copies):
        total = bench.sum(total, bench.convolution(bench.start))


def _linear(bench: _Bench, copies: int) -> None:
    total = None
    for _ in range(copies):
        total = bench.sum(total, bench.write.linear(bench.name("linear"), bench.start, bench.outputs, bias=True))


def _chain(bench: _Bench, copies: int) -> None:
    """An operation of one operand that keeps the shape."""
    out = bench.start
    for _ in range(copies):
        if bench.operation == "batchnorm" and bench.blocked:
            out = bench.fresh(out, blocked=True)
        else:
            out = bench.write.elementwise(bench.name(bench.operation), bench.operation, out)


def _addition(bench: _Bench, copies: int) -> None:
    out = bench.start
    for _ in range(copies):
        out = bench.write.elementwise(bench.name("add"), "add", out, bench.start)


def _multiplication(bench: _Bench, copies: int) -> None:
    """By a vector, as in squeeze-excitation."""
    out, gate = bench.start, bench.write.global_pool("gate", bench.start)
    for _ in range(copies):
        gate = bench.write.elementwise(bench.name("sigmoid"), "sigmoid", gate)
        out = bench.write.elementwise(bench.name("multiply"), "multiply", out, gate)


def _pooling(bench: _Bench, copies: int) -> None:
    source, total = bench.start, None
    for _ in range(copies):
        source = bench.fresh(source, blocked=bench.blocked)
        if bench.operation == "globalpool":
            pooled = bench.write.global_pool(bench.name("pool"), source)
        elif bench.operation == "maxpool":
            pooled = bench.write.max_pool(bench.name("pool"), source, kernel=bench.size, stride=bench.stride)
        else:
            pooled = bench.write.average_pool(bench.name("pool"), source, kernel=bench.size, stride=bench.stride)
        total = bench.sum(total, pooled)


def _split(bench: _Bench, start: int, parts: int) -> list[int]:
    """Slices of a tensor into parts of about equal channels."""
    bounds = [part * bench.channels // parts for part in range(parts + 1)]
    return [bench.write.channels(bench.name("slice"), start, low, high - low) for low, high in pairwise(bounds)]


def _slicing(bench: _Bench, copies: int) -> None:
    out = bench.start
    for _ in range(copies):
        out = bench.write.concatenate(bench.name("concat"), *_split(bench, out, bench.outputs))


def _concatenation(bench: _Bench, copies: int) -> None:
    count, total = bench.outputs, None
    if bench.blocked:
        share = bench.channels // count
        parts = [bench.write.convolution(bench.name("part"), bench.start, share, kernel=1) for _ in range(count)]
        parts = [bench.fresh(part, blocked=True) for part in parts]
    else:
        parts = _split(bench, bench.start, count)
    for _ in range(copies):
        parts = [*parts[:-1], bench.fresh(parts[-1], blocked=bench.blocked)]
        total = bench.sum(total, bench.write.concatenate(bench.name("concat"), *parts))


def _to_plain(bench: _Bench, copies: int) -> None:
    source, total = bench.start, None
    for _ in range(copies):
        source = bench.fresh(source, blocked=True)
        total = bench.sum(total, bench.write.global_pool(bench.name("pool"), source))


def _to_blocked(bench: _Bench, copies: int) -> None:
    source, total, channels = bench.start, None, bench.channels
    for _ in range(copies):
        source = bench.fresh(source, blocked=False)
        total = bench.sum(
            total, bench.write.convolution(bench.name("conv"), source, channels, kernel=1, groups=channels)
        )


_BUILD = {
    "conv": _conv,
    "linear": _linear,
    "normalize": _chain,
    "batchnorm": _chain,
    "relu": _chain,
    "relu6": _chain,
    "sigmoid": _chain,
    "add": _addition,
    "multiply": _multiplication,
    "globalpool": _pooling,
    "maxpool": _pooling,
    "avgpool": _pooling,
    "slice": _slicing,
    "concat": _concatenation,
    "to_plain": _to_plain,
    "to_blocked": _to_blocked,
}
