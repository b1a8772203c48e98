"""What a network costs, from its layer rows alone: multiply-accumulates, parameters, bytes and milliseconds.

No torch and no trace: a search asks this 10^5 times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.profile import Profile, Target
from rcnas_edge.space import IMAGE, Layer

QUANTITIES = {
    "latency": "ms",
    "macs": "MACs",
    "flops": "FLOPs",
    "params": "parameters",
    "size": "bytes",
    "memory": "bytes",
}
"""What a budget can limit, and its base unit. 1 MAC = 2 FLOPs."""

NUMBER_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Of a weight and of an activation."""
ROW_BYTES = 160
"""What the node and tensor names of a row take in an ONNX file, on average, besides its numbers."""
INT8_ROW_BYTES, INT8_CHANNEL_BYTES = 420, 5
"""What the scales of a row take besides in int8, with the nodes that apply them, and those of each of its channels."""
FILE_BYTES = 3250
"""What the file holds besides: facts about the network, labels, versions. Both were fitted to exported WRNs."""

IN_PLACE = frozenset(("normalize", "batchnorm", "relu", "relu6", "sigmoid", "add", "multiply"))
"""Rows that write over an operand that nobody reads later: every runtime fuses them or works in place."""


@dataclass(frozen=True)
class Cost:
    """The cost of a network for one image: counts, bytes, and ms on the target.

    `latency` is None where the profile has no table for the target; `measured` is the share (0 to 1) of it that rests
    on measured rows inside their grid, the rest is an estimate.
    """

    macs: int
    params: int
    size: int
    memory: int
    latency: float | None = None
    measured: float = 0.0

    def __post_init__(self) -> None:
        if min(self.macs, self.params, self.size, self.memory) < 0 or not 0 <= self.measured <= 1:
            raise InputError(f"a cost is not negative and its measured share is in [0, 1], got {self}")
        if self.latency is not None and not (math.isfinite(self.latency) and self.latency >= 0):
            raise InputError(f"a latency is finite and not negative, got {self.latency}")

    @property
    def flops(self) -> int:
        """Floating-point operations: 1 MAC = 2 FLOPs."""
        return 2 * self.macs

    def get(self, quantity: str) -> float | None:
        """A quantity in its base unit; None only for a latency that no profile knows."""
        if quantity not in QUANTITIES:
            raise InputError(f"a quantity is one of {', '.join(QUANTITIES)}, got {quantity!r}")
        return getattr(self, quantity)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `flops` is there for the reader."""
        return {**asdict(self), "flops": self.flops}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Cost:
        """The opposite of `to_dict`; InputError on a missing or unknown value."""
        try:
            return cls(**{name: value for name, value in values.items() if name != "flops"})
        except TypeError as error:
            raise InputError(f"a cost has macs, params, size, memory, latency and measured: {error}") from error


def costs_of(layers: Sequence[Layer], profiles: Mapping[Target, Profile]) -> dict[Target, Cost]:
    """The cost of the network of these rows on every target, each with its profile; the rows are counted once."""
    precision = next(iter(profiles)).precision if profiles else "fp32"
    counted = cost_of(layers, None, Target(precision=precision))
    latencies = {target: profile.latency(layers, target) for target, profile in profiles.items()}
    return {target: replace(counted, latency=ms, measured=share) for target, (ms, share) in latencies.items()}


def cost_of(layers: Sequence[Layer], profile: Profile | None, target: Target) -> Cost:
    """The cost of the network of these rows on a target; counts do not need a profile, bytes are of its precision."""
    if not layers:
        raise InputError("a network has at least one layer row, got none: pass the rows of a space or a family")
    macs = params = 0
    for layer in layers:
        macs += layer.macs
        params += layer.parameters
    numbers, each = stored_numbers(layers), NUMBER_BYTES[target.precision]
    latency, measured = None, 0.0
    if profile is not None and profile.covers(target):
        latency, measured = profile.latency(layers, target)
    return Cost(
        macs=macs,
        params=params,
        size=each * numbers + ROW_BYTES * len(layers) + scale_bytes(layers, target.precision) + FILE_BYTES,
        memory=each * (numbers + peak_activations(layers)),
        latency=latency,
        measured=measured,
    )


def scale_bytes(layers: Sequence[Layer], precision: str) -> int:
    """Of an int8 file, fitted: the size that comes of it is within 3 % of the file of a WRN, ResNet or MobileNetV2."""
    if precision != "int8":
        return 0
    return sum(INT8_ROW_BYTES + INT8_CHANNEL_BYTES * layer.output[0] for layer in layers)


def stored_numbers(layers: Sequence[Layer]) -> int:
    """Numbers in the exported file: a batch normalisation is four per channel, or, folded into the convolution that
    it alone reads, that convolution's bias; a normalisation of pixels is two per channel.
    """
    readers = [0] * (len(layers) + 1)
    for layer in layers:
        for source in layer.reads:
            readers[source] += 1
    count = 0
    for layer in layers:
        if layer.kind == "batchnorm":
            source = layer.reads[0]
            folds = source != IMAGE and layers[source].kind == "conv" and readers[source] == 1
            if not folds:
                count += 4 * layer.output[0]
            elif not layers[source].bias:
                count += layer.output[0]
        elif layer.kind == "normalize":
            count += 2 * layer.output[0]
        else:
            count += layer.parameters
    return count


def peak_activations(layers: Sequence[Layer]) -> int:
    """The most numbers alive at once, for one image, when the rows run in their order.

    A tensor lives from its row to the last row that reads it; the image lives from the start.
    """
    last_use = {source: index for index, layer in enumerate(layers) for source in layer.reads}
    sizes = {IMAGE: math.prod(next(layer.inputs for layer in layers if IMAGE in layer.reads))}
    alive = peak = sizes[IMAGE]
    for index, layer in enumerate(layers):
        channels, height, width = layer.output
        made = sizes[index] = channels * height * width
        dying, reused = 0, 0
        for source in set(layer.reads):
            if last_use[source] == index:
                dying += sizes[source]
                if layer.kind in IN_PLACE and sizes[source] == made:
                    reused = made
        peak = max(peak, alive + made - reused)
        alive += made - dying
    return peak
