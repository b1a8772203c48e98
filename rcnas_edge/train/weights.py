"""Adversarial weight perturbation: the worst weights near the network's own, for the length of one gradient.

Wu, Xia, Wang: Adversarial Weight Perturbation Helps Robust Generalization, NeurIPS 2020, arXiv 2004.05884.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def perturbed(network: nn.Module, gamma: float) -> Iterator[None]:
    """Inside, every weight of two or more dimensions stands at w + gamma ||w|| g / ||g||, layer by layer (eq. 8 to 10).

    g is the gradient of the loss that the parameters hold when this is entered; afterwards the weights are what they
    were, to the bit, and the gradients those of the perturbed place. One ascent step, as in the published code, which
    takes it on a copy of the network; the direction is the same.
    """
    kept: list[tuple[nn.Parameter, torch.Tensor]] = []
    with torch.no_grad():
        for weight in network.parameters():
            if weight.grad is None or weight.dim() < 2:
                continue
            kept.append((weight, weight.detach().clone()))
            weight.add_(weight.grad, alpha=float(gamma * weight.norm() / (weight.grad.norm() + 1e-20)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)
