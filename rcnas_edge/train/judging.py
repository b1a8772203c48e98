"""How a network in training is judged: batch statistics re-estimated, held-out accuracy clean and under PGD-10."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnas_edge.attacks import Threat, pgd
from rcnas_edge.train.batches import Batches, seeded
from rcnas_edge.train.crafting import fast_dtype

SELECTION_IMAGES = 1000
"""Held-out images that an epoch is judged by, at most."""
SELECTION_STEPS = 10
STATISTICS_IMAGES = 1024
"""Training images that batch statistics are re-estimated from, at most."""


@torch.no_grad()
def reestimate_statistics(network: nn.Module, batches: Batches) -> None:
    """Replace every batch normalisation's running statistics by plain averages over clean training images."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for images in batches.plain(STATISTICS_IMAGES):
        if len(images) > 1:
            network(images)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def clean_and_robust(
    network: nn.Module, images: Tensor, labels: Tensor, threat: Threat, *, seed: int, batch_size: int = 512
) -> tuple[float, float]:
    """Clean accuracy and accuracy under PGD as fractions; for selection only, never a number to publish.

    Points are crafted in the fastest number type, and classified in float32.
    """
    clean = robust = 0
    dtype = fast_dtype(images.device)
    generator = seeded(images.device, seed, 0, 2)
    network.eval()
    for start in range(0, len(labels), batch_size):
        part, truth = images[start : start + batch_size], labels[start : start + batch_size]
        adversarial = pgd(network, part, truth, threat, generator=generator, dtype=dtype)
        with torch.no_grad():
            right = network(part).argmax(1) == truth
            clean += int(right.sum())
            robust += int((right & (network(adversarial).argmax(1) == truth)).sum())
    return clean / len(labels), robust / len(labels)
