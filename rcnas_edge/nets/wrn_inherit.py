"""Cuts a student's weights out of a parent WRN: blocks by position, channels by importance.

What a channel's importance is stands in `slices`. What has no counterpart (a stage whose kind of block changed) keeps
its fresh weights. Batch statistics are copied; the caller re-estimates them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rcnas_edge.nets.slices import Copier, Index, filter_norms, most_important
from rcnas_edge.nets.wrn_rows import CARDINALITY, SCALES, WrnConfig

if TYPE_CHECKING:
    from rcnas_edge.nets.wrn import WideResNet


@torch.no_grad()
def inherit(student: WideResNet, student_config: WrnConfig, parent: WideResNet, parent_config: WrnConfig) -> float:
    """Copy what corresponds; returns the share of the student's parameters that came from the parent."""
    copied = Copier()
    kept: Index = torch.arange(min(student_config.stem_channels, parent_config.stem_channels))
    copied.convolution(student.stem, parent.stem, kept, torch.arange(student_config.image[0]))
    stages: Iterable[tuple[Any, Any]] = zip(student.stages, parent.stages, strict=True)
    for stage, (ours, theirs) in enumerate(stages):
        if student_config.robust[stage] != parent_config.robust[stage]:
            kept = None
            continue
        out = most_important(_stage_importance(theirs), ours[-1].channels)
        for position, (block, source) in enumerate(zip(ours, theirs, strict=False)):
            copied.norm(block.norm1, source.norm1, kept if position == 0 else out)
            _copy_block(copied, block, source, kept if position == 0 else out, out)
        kept = out
    copied.norm(student.norm, parent.norm, kept)
    copied.linear(student.classifier, parent.classifier, kept)
    return copied.share(student)


def _copy_block(copied: Copier, block: Any, source: Any, inputs: Index, out: Tensor) -> None:
    if block.shortcut is not None and source.shortcut is not None:
        copied.convolution(block.shortcut, source.shortcut, out, inputs)
    if hasattr(block, "convs"):
        _copy_robust(copied, block, source, inputs, out)
    else:
        _copy_basic(copied, block, source, inputs, out)


def _copy_basic(copied: Copier, block: Any, source: Any, inputs: Index, out: Tensor) -> None:
    middle = most_important(filter_norms(source.conv1) * source.norm2.weight.abs(), block.conv1.out_channels)
    copied.convolution(block.conv1, source.conv1, middle, inputs)
    copied.norm(block.norm2, source.norm2, middle)
    copied.convolution(block.conv2, source.conv2, out, middle)


def _copy_robust(copied: Copier, block: Any, source: Any, inputs: Index, out: Tensor) -> None:
    """The same channels of every scale, so that the hierarchical sums still meet their partners."""
    scores = filter_norms(source.conv1).view(SCALES, CARDINALITY, -1).sum(0)
    per_group = block.width // CARDINALITY
    within = torch.stack([most_important(group, per_group) for group in scores])
    width = (within + torch.arange(CARDINALITY)[:, None] * scores.shape[1]).flatten()
    every_scale = (width + torch.arange(SCALES)[:, None] * source.width).flatten()
    copied.convolution(block.conv1, source.conv1, every_scale, inputs)
    copied.norm(block.norm2, source.norm2, every_scale)
    for ours, theirs, our_norm, their_norm in zip(block.convs, source.convs, block.norms, source.norms, strict=True):
        grouped = torch.cat(
            [theirs.weight[rows][:, columns] for rows, columns in zip(width.view(CARDINALITY, -1), within, strict=True)]
        )
        copied.assign(ours.weight, grouped)
        copied.norm(our_norm, their_norm, width)
    copied.convolution(block.conv3, source.conv3, out, every_scale)
    copied.norm(block.norm3, source.norm3, out)
    hidden = most_important(source.squeeze.weight.abs().sum(1), block.squeeze.out_features)
    copied.assign(block.squeeze.weight, source.squeeze.weight[hidden][:, out])
    copied.assign(block.excite.weight, source.excite.weight[out][:, hidden])


def _stage_importance(stage: Any) -> Tensor:
    """Of the channels of the residual stream of a stage: every block adds to them."""
    total = torch.zeros(stage[-1].channels)
    for block in stage:
        total += filter_norms(block.conv3 if hasattr(block, "convs") else block.conv2)
        if block.shortcut is not None:
            total += filter_norms(block.shortcut)
    return total
