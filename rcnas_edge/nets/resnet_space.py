"""The search space over torchvision's residual networks: per stage a depth ratio and a width ratio.

RC-NAS's genes (KDD 2024, arXiv 2406.06792, Fig. 2) without the kind of block. A stage's width is that of its planes,
inner and outer; the first stage's is also the stem's.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from rcnas_edge.nets import resnet_rows
from rcnas_edge.nets.ratios import RATIOS, RatioSpace, scaled_depth, scaled_width, stem_stride_gene
from rcnas_edge.nets.resnet_rows import ResNetConfig
from rcnas_edge.space import Gene


def resnet_space(base: ResNetConfig) -> RatioSpace:
    """The sub-networks of a base ResNet."""
    genes = [stem_stride_gene(base.stem_stride, base.image)]
    for stage in range(1, len(base.depths) + 1):
        group = f"stage{stage}"
        genes += [Gene(f"{group}.depth", RATIOS, group), Gene(f"{group}.width", RATIOS, group)]
    return RatioSpace("resnet", base, tuple(genes), scaled, resnet_rows.rows)


@lru_cache(maxsize=65536)
def scaled(base: ResNetConfig, options: tuple[Any, ...]) -> ResNetConfig:
    """The base with the options of its space's genes."""
    stem_stride, *rest = options
    return replace(
        base,
        stem_stride=stem_stride,
        depths=tuple(scaled_depth(depth, ratio) for depth, ratio in zip(base.depths, rest[0::2], strict=True)),
        widths=tuple(scaled_width(planes, ratio) for planes, ratio in zip(base.widths, rest[1::2], strict=True)),
    )
