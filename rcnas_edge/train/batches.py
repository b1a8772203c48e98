"""Seeded batches: the order, the augmentation and the attack of an epoch depend on (seed, epoch) alone.

So an epoch can be repeated after a kill, on its own, with the same result. The data set lies on the device
as uint8; batches are made there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from rcnas_edge.data import Split

CROP_PADDING = 0.125
"""Padding of a random crop as a share of the image: 4 pixels of 32, 1 of 8."""


def seeded(device: torch.device, *key: int) -> torch.Generator:
    """A generator on the device that depends on the key alone."""
    value = 0x9E3779B97F4A7C15
    for part in key:
        value = ((value ^ (part + 1)) * 0xBF58476D1CE4E5B9) % 2**64
        value ^= value >> 31
    return torch.Generator(device).manual_seed(value % 2**63)


class Batches:
    """Batches of a split, shuffled and augmented; images float32 (N, C, H, W) in [0, 1], labels (N,)."""

    def __init__(self, split: Split, *, batch_size: int, augmentation: str, device: torch.device) -> None:
        self.images = torch.from_numpy(split.images).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.batch_size = min(batch_size, len(split))
        self.augmentation = augmentation
        self.device = device

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All full batches of one epoch."""
        generator = seeded(self.device, seed, epoch, 0)
        order = torch.randperm(len(self.labels), generator=generator, device=self.device)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield augment(as_float(self.images[chosen]), self.augmentation, generator), self.labels[chosen]

    def plain(self, count: int) -> Iterator[Tensor]:
        """The first `count` images, not augmented; for batch statistics."""
        for start in range(0, min(count, len(self.labels)), self.batch_size):
            yield as_float(self.images[start : start + self.batch_size])


def as_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to float32 in [0, 1], channels last in memory."""
    return images.to(memory_format=torch.channels_last).float().div_(255)


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Random crops after zero padding ("crop"), and horizontal flips ("crop+flip"), one draw per image."""
    if kind == "none":
        return images
    count, _, height, width = images.shape
    pad = max(1, round(CROP_PADDING * height))
    padded = functional.pad(images, (pad,) * 4)
    shift = torch.randint(0, 2 * pad + 1, (2, count), generator=generator, device=images.device)
    rows = torch.arange(height, device=images.device) + shift[0][:, None]
    columns = torch.arange(width, device=images.device) + shift[1][:, None]
    if kind == "crop+flip":
        flip = torch.rand(count, generator=generator, device=images.device) < 0.5
        columns = torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(count, device=images.device)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
