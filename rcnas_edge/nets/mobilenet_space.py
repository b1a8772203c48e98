"""The search space over MobileNetV2: per stage a depth ratio, a width ratio and the expansion; widths of stem and head.

RC-NAS's genes (KDD 2024, arXiv 2406.06792, Fig. 2) with the expansion in the place of the kind of block. Widths are
rounded by torchvision's rule. A block of expansion 1 has another form, so 1 is an option only where the base has it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from rcnas_edge.nets import mobilenet_rows
from rcnas_edge.nets.mobilenet_rows import MobileNetConfig, divisible
from rcnas_edge.nets.ratios import RATIOS, RatioSpace, scaled_depth, stem_stride_gene
from rcnas_edge.space import Gene

LEAST_EXPANSION = 2


def mobilenet_space(base: MobileNetConfig) -> RatioSpace:
    """The sub-networks of a base MobileNetV2."""
    genes = [stem_stride_gene(base.stem_stride, base.image), Gene("stem.width", RATIOS, "stem")]
    for stage, expansion in enumerate(base.expansions, start=1):
        group = f"stage{stage}"
        genes += [
            Gene(f"{group}.depth", RATIOS, group),
            Gene(f"{group}.width", RATIOS, group),
            Gene(f"{group}.expansion", tuple(range(expansion, LEAST_EXPANSION - 1, -1)) or (expansion,), group),
        ]
    genes.append(Gene("head.width", RATIOS, "head"))
    return RatioSpace("mobilenet", base, tuple(genes), scaled, mobilenet_rows.rows)


def scaled_width(channels: int, ratio: float) -> int:
    """Channels at this ratio by torchvision's rounding; the base's own number at 1."""
    return channels if ratio == 1.0 else min(channels, divisible(channels * ratio))


@lru_cache(maxsize=65536)
def scaled(base: MobileNetConfig, options: tuple[Any, ...]) -> MobileNetConfig:
    """The base with the options of its space's genes."""
    stem_stride, stem_ratio, *stages, head_ratio = options
    return replace(
        base,
        stem_stride=stem_stride,
        stem_channels=scaled_width(base.stem_channels, stem_ratio),
        head_channels=scaled_width(base.head_channels, head_ratio),
        depths=tuple(scaled_depth(depth, ratio) for depth, ratio in zip(base.depths, stages[0::3], strict=True)),
        widths=tuple(scaled_width(width, ratio) for width, ratio in zip(base.widths, stages[1::3], strict=True)),
        expansions=tuple(stages[2::3]),
    )
