"""Depth and width of a stage as ratios of the base network's: what RC-NAS's genes pick from.

Ratios give the genes equal shape for every teacher of a family (KDD 2024, arXiv 2406.06792, Fig. 2). Ours: the
ratios 1.0 to 0.3, rounding, and that the stem's stride is searched only for images of 64 pixels and more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcnas_edge import nets
from rcnas_edge.space import Architecture, Gene, Layer, Shape, named

if TYPE_CHECKING:
    import torch

RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
CHANNEL_MULTIPLE = 8
LARGE_IMAGE = 64


def scaled_depth(depth: int, ratio: float) -> int:
    """Blocks of a stage at this ratio, at least one."""
    return max(1, round(depth * ratio))


def scaled_width(planes: int, ratio: float) -> int:
    """Planes at this ratio, a multiple of 8 (or the base's own number), at least 8."""
    if ratio == 1.0:
        return planes
    return min(planes, max(CHANNEL_MULTIPLE, round(planes * ratio / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE))


def stem_stride_gene(stride: int, image: Shape) -> Gene:
    """The stride of the stem: the base's, or twice that for large images."""
    return Gene("stem.stride", (stride, 2 * stride) if min(image[1:]) >= LARGE_IMAGE else (stride,), "stem")


@dataclass(frozen=True)
class RatioSpace:
    """The sub-networks of a base network; the base itself is the architecture of first picks.

    `scaled(base, options)` is the configuration of the options that an architecture picks, in the order of the genes,
    and `rows(config)` its layers; both are asked 10^5 times in a search and remember what they gave.
    """

    family: str
    base: nets.NetworkConfig
    genes: tuple[Gene, ...]
    scaled: Callable[..., Any]
    rows: Callable[..., tuple[Layer, ...]]

    def config(self, architecture: Architecture) -> Any:
        """The network that an architecture stands for."""
        return self.scaled(self.base, tuple(named(self.genes, architecture).values()))

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        """The rows of the network."""
        return self.rows(self.config(architecture))

    def deployed(self, architecture: Architecture) -> Hashable:
        """The configuration: ratios that round to the same network are equal."""
        return self.config(architecture)

    def describe(self, architecture: Architecture) -> dict[str, Any]:
        """The configuration as JSON values."""
        return self.config(architecture).to_dict()

    def build(self, architecture: Architecture) -> torch.nn.Module:
        """The network with fresh weights."""
        return nets.family(self.family).build(self.config(architecture))
