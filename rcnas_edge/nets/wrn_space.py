"""RC-NAS's space over wide residual networks: per stage a depth ratio, a width ratio and the kind of block.

KDD 2024, arXiv 2406.06792, Fig. 2; what is ours is said in `ratios`. The paper shows the stem's stride as an entry of
the state.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from rcnas_edge.nets import wrn_rows
from rcnas_edge.nets.ratios import RATIOS, RatioSpace, scaled_depth, scaled_width, stem_stride_gene
from rcnas_edge.nets.wrn_rows import WrnConfig
from rcnas_edge.space import Gene


def wrn_space(base: WrnConfig) -> RatioSpace:
    """The sub-networks of a base WRN; first picks have the base's own kinds of block."""
    genes = [stem_stride_gene(base.stem_stride, base.image)]
    for stage, robust in enumerate(base.robust, start=1):
        group = f"stage{stage}"
        genes += [
            Gene(f"{group}.depth", RATIOS, group),
            Gene(f"{group}.width", RATIOS, group),
            Gene(f"{group}.robust", (robust, not robust), group),
        ]
    return RatioSpace("wrn", base, tuple(genes), scaled, wrn_rows.rows)


@lru_cache(maxsize=65536)
def scaled(base: WrnConfig, options: tuple[Any, ...]) -> WrnConfig:
    """The base with the options of its space's genes."""
    stem_stride, *rest = options
    depth_ratios, width_ratios, robust = rest[0::3], rest[1::3], rest[2::3]
    return replace(
        base,
        stem_stride=stem_stride,
        depths=tuple(scaled_depth(depth, ratio) for depth, ratio in zip(base.depths, depth_ratios, strict=True)),
        widths=tuple(scaled_width(planes, ratio) for planes, ratio in zip(base.widths, width_ratios, strict=True)),
        robust=tuple(robust),
    )
