"""RC-NAS's space over wide residual networks: per stage a depth ratio, a width ratio and the kind of block.

Ratios are of the base network (the teacher), so the genes have equal shape for every teacher (KDD 2024,
arXiv 2406.06792, Fig. 2). Ours: the ratios 1.0 to 0.3, rounding, and that the stem stride is searched only
for images of 64 pixels and more; the paper shows it as an entry of the state.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rcnas_edge.nets import wrn_rows
from rcnas_edge.nets.wrn_rows import WrnConfig
from rcnas_edge.space import Architecture, Gene, Layer, named

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


@dataclass(frozen=True)
class WrnSpace:
    """The sub-networks of a base WRN. The base itself is the architecture of first picks (with basic blocks)."""

    base: WrnConfig
    family: str = "wrn"
    genes: tuple[Gene, ...] = field(init=False)

    def __post_init__(self) -> None:
        stride = self.base.stem_stride
        strides = (stride, 2 * stride) if min(self.base.image[1:]) >= LARGE_IMAGE else (stride,)
        genes = [Gene("stem.stride", strides, "stem")]
        for stage, robust in enumerate(self.base.robust, start=1):
            group = f"stage{stage}"
            genes += [
                Gene(f"{group}.depth", RATIOS, group),
                Gene(f"{group}.width", RATIOS, group),
                Gene(f"{group}.robust", (robust, not robust), group),
            ]
        object.__setattr__(self, "genes", tuple(genes))

    def config(self, architecture: Architecture) -> WrnConfig:
        """The network that an architecture stands for."""
        return _config(self.base, tuple(named(self.genes, architecture).values()))

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        """The rows of the network."""
        return wrn_rows.rows(self.config(architecture))

    def deployed(self, architecture: Architecture) -> Hashable:
        """The configuration: ratios that round to the same network are equal."""
        return self.config(architecture)

    def describe(self, architecture: Architecture) -> dict[str, Any]:
        """The configuration as JSON values."""
        return self.config(architecture).to_dict()

    def build(self, architecture: Architecture) -> torch.nn.Module:
        """The network with fresh weights."""
        from rcnas_edge.nets.wrn import WideResNet

        return WideResNet(self.config(architecture))


@lru_cache(maxsize=65536)
def _config(base: WrnConfig, options: tuple[Any, ...]) -> WrnConfig:
    stem_stride, *rest = options
    depth_ratios, width_ratios, robust = rest[0::3], rest[1::3], rest[2::3]
    return replace(
        base,
        stem_stride=stem_stride,
        depths=tuple(scaled_depth(depth, ratio) for depth, ratio in zip(base.depths, depth_ratios, strict=True)),
        widths=tuple(scaled_width(planes, ratio) for planes, ratio in zip(base.widths, width_ratios, strict=True)),
        robust=tuple(robust),
    )
