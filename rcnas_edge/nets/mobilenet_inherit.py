"""Cuts a student's weights out of a parent MobileNetV2: blocks by position, channels by importance.

All blocks of a stage write to one residual stream and keep the same channels of it. A hidden channel of a block is a
filter of the expansion and the depthwise filter behind it; the L1 norm of the two in a row is the product of theirs.
Batch statistics are copied; the caller re-estimates them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rcnas_edge.nets.mobilenet_rows import MobileNetConfig
from rcnas_edge.nets.slices import Copier, folded_norms, most_important

if TYPE_CHECKING:
    from rcnas_edge.nets.mobilenet import MobileNet


@torch.no_grad()
def inherit(
    student: MobileNet, student_config: MobileNetConfig, parent: MobileNet, parent_config: MobileNetConfig
) -> float:
    """Copy what corresponds; returns the share of the student's parameters that came from the parent."""
    copied = Copier()
    kept = _copy_normalised(copied, student.features[0], parent.features[0], torch.arange(student_config.image[0]))
    for ours, theirs, width in zip(student.stages, parent.stages, student_config.widths, strict=True):
        written = torch.stack([folded_norms(*block.conv[-2:]) for block in theirs]).sum(0)
        out = most_important(written, width)
        for position, (block, source) in enumerate(zip(ours, theirs, strict=False)):
            _copy_block(copied, block.conv, source.conv, kept if position == 0 else out, out)
        kept = out
    kept = _copy_normalised(copied, student.features[-1], parent.features[-1], kept)
    copied.linear(cast(nn.Linear, student.classifier[1]), cast(nn.Linear, parent.classifier[1]), kept)
    return copied.share(student)


def _copy_normalised(copied: Copier, ours: Any, theirs: Any, inputs: Tensor) -> Tensor:
    """Convolution and normalisation on the channels `inputs`; returns the channels that it keeps."""
    kept = most_important(folded_norms(theirs[0], theirs[1]), ours[0].out_channels)
    copied.convolution(ours[0], theirs[0], kept, inputs)
    copied.norm(ours[1], theirs[1], kept)
    return kept


def _copy_block(copied: Copier, block: Any, source: Any, inputs: Tensor, out: Tensor) -> None:
    *expansion, depthwise, projection, norm = block
    *their_expansion, their_depthwise, their_projection, their_norm = source
    hidden = inputs
    if expansion:
        parts = (their_expansion[0], their_depthwise)
        scores = torch.stack([folded_norms(part[0], part[1]) for part in parts]).prod(0)
        hidden = most_important(scores, depthwise[0].out_channels)
        copied.convolution(expansion[0][0], their_expansion[0][0], hidden, inputs)
        copied.norm(expansion[0][1], their_expansion[0][1], hidden)
    copied.depthwise(depthwise[0], their_depthwise[0], hidden)
    copied.norm(depthwise[1], their_depthwise[1], hidden)
    copied.convolution(projection, their_projection, out, hidden)
    copied.norm(norm, their_norm, out)
