"""Layers that several families build their networks of, in torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnas_edge.errors import InputError
from rcnas_edge.space import Shape


class Normalize(nn.Module):
    """(x - mean) / std per channel, so that attacks and epsilons stay in pixel units."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] to zero mean and unit deviation."""
        return (images - self.mean) / self.std


def check_images(images: Tensor, image: Shape) -> None:
    """Raise InputError unless images are (N, C, H, W) of the network's own (C, H, W)."""
    if images.shape[1:] != image:
        raise InputError(f"the network takes images {image}, got {tuple(images.shape[1:])}")
