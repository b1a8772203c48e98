"""Cuts a student's weights out of a parent ResNet: blocks by position, channels by importance.

All that is summed into one residual stream (the blocks of a stage, its projection, and the stem where nothing projects
its output) keeps the same channels. Where the stems differ in kind, the student's filters stay fresh. Batch statistics
are copied; the caller re-estimates them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rcnas_edge.nets.resnet_rows import ResNetConfig
from rcnas_edge.nets.slices import Copier, folded_norms, most_important

if TYPE_CHECKING:
    from rcnas_edge.nets.resnet import ResNet


@torch.no_grad()
def inherit(student: ResNet, student_config: ResNetConfig, parent: ResNet, parent_config: ResNetConfig) -> float:
    """Copy what corresponds; returns the share of the student's parameters that came from the parent."""
    copied = Copier()
    streams = _streams(student_config, parent)
    kept = streams[0]
    if student_config.stem == parent_config.stem:
        copied.convolution(student.conv1, parent.conv1, kept, torch.arange(student_config.image[0]))
    copied.norm(student.bn1, parent.bn1, kept)
    for ours, theirs, out in zip(student.stages, parent.stages, streams[1:], strict=True):
        for position, (block, source) in enumerate(zip(ours, theirs, strict=False)):
            _copy_block(copied, block, source, kept if position == 0 else out, out)
        kept = out
    copied.linear(student.fc, parent.fc, kept)
    return copied.share(student)


def _streams(student_config: ResNetConfig, parent: ResNet) -> list[Tensor]:
    """The channels that the student keeps of the parent's stem and of each of its stages."""
    stem = folded_norms(parent.conv1, parent.bn1)
    stages = [torch.stack([_written(block) for block in stage]).sum(0) for stage in parent.stages]
    if parent.stages[0][0].downsample is None:  # the stem writes to the stream of the first stage
        stem = stages[0] = stages[0] + stem
    counts = (student_config.widths[0], *student_config.channels)
    return [most_important(scores, count) for scores, count in zip((stem, *stages), counts, strict=True)]


def _written(block: Any) -> Tensor:
    """The importance (channels,) that a block gives to the channels of the stream it writes to."""
    conv, norm = (block.conv3, block.bn3) if hasattr(block, "conv3") else (block.conv2, block.bn2)
    scores = folded_norms(conv, norm)
    return scores if block.downsample is None else scores + folded_norms(*block.downsample)


def _copy_block(copied: Copier, block: Any, source: Any, inputs: Tensor, out: Tensor) -> None:
    first = most_important(folded_norms(source.conv1, source.bn1), block.conv1.out_channels)
    copied.convolution(block.conv1, source.conv1, first, inputs)
    copied.norm(block.bn1, source.bn1, first)
    if hasattr(block, "conv3"):
        second = most_important(folded_norms(source.conv2, source.bn2), block.conv2.out_channels)
        copied.convolution(block.conv2, source.conv2, second, first)
        copied.norm(block.bn2, source.bn2, second)
        copied.convolution(block.conv3, source.conv3, out, second)
        copied.norm(block.bn3, source.bn3, out)
    else:
        copied.convolution(block.conv2, source.conv2, out, first)
        copied.norm(block.bn2, source.bn2, out)
    if block.downsample is not None:
        copied.convolution(block.downsample[0], source.downsample[0], out, inputs)
        copied.norm(block.downsample[1], source.downsample[1], out)
