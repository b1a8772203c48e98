"""Cuts a student's weights out of a parent WRN: blocks by position, channels by importance.

A channel's importance is the L1 norm of the filters that produce it, summed over the blocks that write to it
(Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017). What has no counterpart (a stage whose kind of
block changed) keeps its fresh weights. Batch statistics are copied; the caller re-estimates them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rcnas_edge.nets.wrn_rows import CARDINALITY, SCALES, WrnConfig

if TYPE_CHECKING:
    from rcnas_edge.nets.wrn import BasicBlock, RobustBlock, WideResNet

Index = Tensor | None
"""Channels of the parent that the student keeps, ascending; None: no counterpart."""


@torch.no_grad()
def inherit(student: WideResNet, student_config: WrnConfig, parent: WideResNet, parent_config: WrnConfig) -> float:
    """Copy what corresponds; returns the share of the student's parameters that came from the parent."""
    copied = _Copier()
    kept: Index = torch.arange(min(student_config.stem_channels, parent_config.stem_channels))
    copied.convolution(student.stem, parent.stem, kept, torch.arange(student_config.image[0]))
    for stage, (ours, theirs) in enumerate(zip(student.stages, parent.stages, strict=True)):
        if student_config.robust[stage] != parent_config.robust[stage]:
            kept = None
            continue
        out = _most_important(_stage_importance(theirs), ours[-1].channels)
        for position, (block, source) in enumerate(zip(ours, theirs, strict=False)):
            copied.norm(block.norm1, source.norm1, kept if position == 0 else out)
            _copy_block(copied, block, source, kept if position == 0 else out, out)
        kept = out
    copied.norm(student.norm, parent.norm, kept)
    if kept is not None and student.classifier.out_features == parent.classifier.out_features:
        copied.assign(student.classifier.weight, parent.classifier.weight[:, kept])
        copied.assign(student.classifier.bias, parent.classifier.bias)
    return copied.numbers / sum(parameter.numel() for parameter in student.parameters())


def _copy_block(copied: _Copier, block: nn.Module, source: nn.Module, inputs: Index, out: Tensor) -> None:
    if block.shortcut is not None and source.shortcut is not None:
        copied.convolution(block.shortcut, source.shortcut, out, inputs)
    if hasattr(block, "convs"):
        _copy_robust(copied, block, source, inputs, out)
    else:
        _copy_basic(copied, block, source, inputs, out)


def _copy_basic(copied: _Copier, block: BasicBlock, source: BasicBlock, inputs: Index, out: Tensor) -> None:
    middle = _most_important(_filter_norms(source.conv1) * source.norm2.weight.abs(), block.conv1.out_channels)
    copied.convolution(block.conv1, source.conv1, middle, inputs)
    copied.norm(block.norm2, source.norm2, middle)
    copied.convolution(block.conv2, source.conv2, out, middle)


def _copy_robust(copied: _Copier, block: RobustBlock, source: RobustBlock, inputs: Index, out: Tensor) -> None:
    """The same channels of every scale, so that the hierarchical sums still meet their partners."""
    scores = _filter_norms(source.conv1).view(SCALES, CARDINALITY, -1).sum(0)
    per_group = block.width // CARDINALITY
    within = torch.stack([_most_important(group, per_group) for group in scores])
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
    hidden = _most_important(source.squeeze.weight.abs().sum(1), block.squeeze.out_features)
    copied.assign(block.squeeze.weight, source.squeeze.weight[hidden][:, out])
    copied.assign(block.excite.weight, source.excite.weight[out][:, hidden])


def _filter_norms(conv: nn.Conv2d) -> Tensor:
    return conv.weight.abs().sum((1, 2, 3))


def _stage_importance(stage: nn.Sequential) -> Tensor:
    """Of the channels of the residual stream of a stage: every block adds to them."""
    total = torch.zeros(stage[-1].channels)
    for block in stage:
        total += _filter_norms(block.conv3 if hasattr(block, "convs") else block.conv2)
        if block.shortcut is not None:
            total += _filter_norms(block.shortcut)
    return total


def _most_important(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest scores, ascending; ties go to the lower index."""
    return torch.sort(torch.sort(scores, descending=True, stable=True).indices[:count]).values


class _Copier:
    """Copies slices and counts the parameters that arrived; a missing side is passed over."""

    def __init__(self) -> None:
        self.numbers = 0

    def assign(self, ours: Tensor, theirs: Tensor) -> None:
        ours.copy_(theirs)
        self.numbers += ours.numel()

    def convolution(self, ours: nn.Conv2d, theirs: nn.Conv2d, out: Index, inputs: Index) -> None:
        if out is not None and inputs is not None:
            self.assign(ours.weight, theirs.weight[out][:, inputs])

    def norm(self, ours: nn.BatchNorm2d, theirs: nn.BatchNorm2d, kept: Index) -> None:
        if kept is not None:
            self.assign(ours.weight, theirs.weight[kept])
            self.assign(ours.bias, theirs.bias[kept])
            ours.running_mean.copy_(theirs.running_mean[kept])
            ours.running_var.copy_(theirs.running_var[kept])
