"""Takes channels out of a parent network by importance and copies the slices into a student.

A channel's importance is the L1 norm of the filters that produce it, summed over the layers that write to it
(Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

Index = Tensor | None
"""Channels of the parent that the student keeps, ascending; None: no counterpart."""


def filter_norms(conv: nn.Conv2d) -> Tensor:
    """The L1 norm of each filter, (out,)."""
    return conv.weight.abs().sum((1, 2, 3))


def folded_norms(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """The L1 norm (out,) of each filter with the batch normalisation behind it folded in, as it will ship.

    The normalisation undoes any scale of the filter before it, so a bare filter's norm would say nothing.
    """
    return filter_norms(conv) * norm.weight.abs() / (_statistics(norm)[1] + norm.eps).sqrt()


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Running mean and variance, (channels,) each."""
    return cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)


def most_important(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest scores, ascending; ties go to the lower index."""
    return torch.sort(torch.sort(scores, descending=True, stable=True).indices[:count]).values


class Copier:
    """Copies slices and counts the parameters that arrived; a missing side is passed over."""

    def __init__(self) -> None:
        self.numbers = 0

    def share(self, student: nn.Module) -> float:
        """The share of the student's parameters that arrived."""
        return self.numbers / sum(parameter.numel() for parameter in student.parameters())

    def assign(self, ours: Tensor, theirs: Tensor) -> None:
        """One tensor of the same shape."""
        ours.copy_(theirs)
        self.numbers += ours.numel()

    def convolution(self, ours: nn.Conv2d, theirs: nn.Conv2d, out: Index, inputs: Index) -> None:
        """The filters of the channels `out` on the channels `inputs`."""
        if out is not None and inputs is not None:
            self.assign(ours.weight, theirs.weight[out][:, inputs])

    def depthwise(self, ours: nn.Conv2d, theirs: nn.Conv2d, kept: Tensor) -> None:
        """The filters of a convolution with one group per channel."""
        self.assign(ours.weight, theirs.weight[kept])

    def norm(self, ours: nn.BatchNorm2d, theirs: nn.BatchNorm2d, kept: Index) -> None:
        """Scale, shift and batch statistics of the channels `kept`."""
        if kept is not None:
            self.assign(ours.weight, theirs.weight[kept])
            self.assign(ours.bias, theirs.bias[kept])
            for our_values, their_values in zip(_statistics(ours), _statistics(theirs), strict=True):
                our_values.copy_(their_values[kept])

    def linear(self, ours: nn.Linear, theirs: nn.Linear, kept: Index) -> None:
        """A classifier on the features `kept`, where it tells the same number of classes."""
        if kept is not None and ours.out_features == theirs.out_features:
            self.assign(ours.weight, theirs.weight[:, kept])
            self.assign(ours.bias, theirs.bias)
