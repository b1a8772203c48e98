"""A search space is a list of genes; an architecture is one pick per gene; a network describes its layers as rows.

Costs (MACs, parameters, memory, latency) all come from the rows, so a search can ask for them 10^5 times
without building a network. This module needs the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

Option = int | float | str | bool
Shape = tuple[int, int, int]
"""(channels, height, width); a vector of C features is (C, 1, 1)."""

IMAGE = -1
"""In `Layer.reads`: the network's input image."""

KINDS = (
    "normalize",  # (x - mean) / std by constants, per channel
    "conv",
    "linear",
    "batchnorm",
    "relu",
    "relu6",  # min(max(x, 0), 6)
    "sigmoid",
    "add",
    "multiply",  # also a broadcast (C,1,1) factor, as in squeeze-excitation
    "slice",  # a range of channels of its input
    "concat",  # along channels
    "maxpool",  # kernel x kernel, padding never the largest
    "avgpool",  # kernel x kernel, padding counted in the mean
    "globalpool",  # mean over height and width
)


@dataclass(frozen=True)
class Gene:
    """One decision of the search: a name, its options, and the group (a stage, a cell) it belongs to."""

    name: str
    options: tuple[Option, ...]
    group: str = ""

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError(f"a gene needs at least one option, {self.name!r} has none")
        if len(set(self.options)) != len(self.options):
            raise ValueError(f"the options of a gene must differ, {self.name!r} has {self.options}")


@dataclass(frozen=True, order=True)
class Architecture:
    """One pick (an index into the options) per gene of a space."""

    picks: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One row: a layer with its shapes and the rows it reads.

    `inputs` is the (C, H, W) of its first operand, `output` of its result, for one image. Convolutions and
    pools pad by kernel // 2. `start` is the first channel a `slice` takes. A multiply-accumulate (MAC) is
    one multiplication with its addition; 1 MAC = 2 FLOPs. Only convolutions and linear layers have MACs,
    the convention of the papers whose counts we reproduce.
    """

    name: str
    kind: str
    inputs: Shape
    output: Shape
    reads: tuple[int, ...]
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    bias: bool = False
    start: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a layer's kind is one of {', '.join(KINDS)}, {self.name!r} has {self.kind!r}")
        if self.kind == "conv" and (self.inputs[0] % self.groups or self.output[0] % self.groups):
            raise ValueError(
                f"a convolution's channels divide by its groups, {self.name!r} has "
                f"{self.inputs[0]} -> {self.output[0]} in {self.groups}"
            )

    @property
    def parameters(self) -> int:
        """Trainable numbers of the layer."""
        if self.kind in ("conv", "linear"):
            weights = self.inputs[0] // self.groups * self.output[0] * self.kernel**2
            return weights + (self.output[0] if self.bias else 0)
        return 2 * self.output[0] if self.kind == "batchnorm" else 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        if self.kind not in ("conv", "linear"):
            return 0
        return self.inputs[0] // self.groups * self.kernel**2 * math.prod(self.output)


Choice = Sequence[Sequence[float]]
"""One weight vector per gene: one-hot is a sub-network, soft is a mixture."""


class Space(Protocol):
    """What a search needs to know of a family of networks."""

    family: str
    genes: tuple[Gene, ...]

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        """The rows of the network, in the order of execution."""

    def deployed(self, architecture: Architecture) -> Hashable:
        """What the network really is: equal for architectures that are the same network."""

    def describe(self, architecture: Architecture) -> dict[str, Any]:
        """The network as plain JSON values, enough to build it."""

    def build(self, architecture: Architecture) -> torch.nn.Module:
        """The network with fresh weights drawn from torch's current generator."""


class Supernet(Protocol):
    """One network that holds them all; it is never mutated to select a sub-network."""

    def forward(self, images: torch.Tensor, choice: Choice) -> torch.Tensor:
        """Logits (N, classes) for images (N, C, H, W) in [0, 1]."""


def named(genes: Sequence[Gene], architecture: Architecture) -> dict[str, Option]:
    """The options an architecture picks, by gene name."""
    check(genes, architecture)
    return {gene.name: gene.options[pick] for gene, pick in zip(genes, architecture.picks, strict=True)}


def from_named(genes: Sequence[Gene], options: Mapping[str, Option]) -> Architecture:
    """The architecture that picks these options; the opposite of `named`."""
    missing = [gene.name for gene in genes if gene.name not in options]
    if missing:
        raise ValueError(f"an architecture names an option for every gene, missing: {', '.join(missing)}")
    for gene in genes:
        if options[gene.name] not in gene.options:
            raise ValueError(f"gene {gene.name!r} is one of {gene.options}, got {options[gene.name]!r}")
    return Architecture(tuple(gene.options.index(options[gene.name]) for gene in genes))


def check(genes: Sequence[Gene], architecture: Architecture) -> None:
    """Raise ValueError unless the architecture has one valid pick per gene."""
    if len(architecture.picks) != len(genes):
        raise ValueError(f"an architecture has one pick per gene, got {len(architecture.picks)} for {len(genes)}")
    for gene, pick in zip(genes, architecture.picks, strict=True):
        if not 0 <= pick < len(gene.options):
            raise ValueError(f"gene {gene.name!r} has options 0..{len(gene.options) - 1}, got pick {pick}")


def one_hot(genes: Sequence[Gene], architecture: Architecture) -> tuple[tuple[float, ...], ...]:
    """The architecture as a choice: weight 1 on each pick, 0 elsewhere."""
    check(genes, architecture)
    return tuple(
        tuple(float(index == pick) for index in range(len(gene.options)))
        for gene, pick in zip(genes, architecture.picks, strict=True)
    )
