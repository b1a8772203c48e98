"""A small adversarially trained network with fixed weights, on which figures of other implementations are recorded.

`python tests/small_cnn.py` trains it anew and writes `small_cnn.safetensors`; every recorded figure is then void.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from rcnas_edge.attacks import Threat, pgd
from rcnas_edge.data import load_dataset

WEIGHTS = Path(__file__).with_suffix(".safetensors")
THREAT = Threat.parse("linf:0.1:7")


def network() -> nn.Module:
    """Three convolutions with batch normalisation, on digits of 8x8 pixels."""
    widths = ((1, 12, 1), (12, 24, 2), (24, 24, 1))
    layers = [
        layer
        for inputs, outputs, stride in widths
        for layer in (nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 16, 10))


def small_cnn() -> nn.Module:
    """The network as it was trained, in eval mode."""
    model = network()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def digits(count: int) -> tuple[Tensor, Tensor]:
    """The first test images (count, 1, 8, 8) in [0, 1] and labels (count,)."""
    test = load_dataset("digits").test
    return torch.from_numpy(test.floats()[:count]), torch.from_numpy(test.labels[:count]).long()


def train() -> nn.Module:
    """PGD-AT with 7 steps at epsilon 0.1: 30 epochs of Adam, batches of 64, seed 0; seconds on one core."""
    torch.manual_seed(0)
    split = load_dataset("digits").train
    images, labels = torch.from_numpy(split.floats()), torch.from_numpy(split.labels).long()
    model, epochs, batch = network(), 30, 64
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1e-2, epochs=epochs, steps_per_epoch=-(-len(images) // batch)
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for part in torch.randperm(len(images), generator=generator).split(batch):
            points = pgd(model.eval(), images[part], labels[part], THREAT, generator=generator)
            optimiser.zero_grad()
            functional.cross_entropy(model.train()(points), labels[part]).backward()
            optimiser.step()
            schedule.step()
    return model.eval()


if __name__ == "__main__":
    save_file(train().state_dict(), WEIGHTS)
