"""The inner maximisation of adversarial training: PGD, and N-FGSM for warm phases, in the fastest number type."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rcnas_edge.attacks import Threat, pgd
from rcnas_edge.train.losses import Objective
from rcnas_edge.train.recipe import Recipe

NOISE_RATIO = 2.0
"""N-FGSM's noise is uniform in 2 epsilon (de Jorge et al. 2022, section 5: k = 2 epsilon)."""


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 in training where the hardware computes it fast (CUDA; CPUs with AVX512-BF16 or AMX), else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


def computed_in(device: torch.device) -> str:
    """Where and in which number type attacks of a training are crafted: scores of another kind are no match."""
    return f"{device.type}, {str(fast_dtype(device) or torch.float32).removeprefix('torch.')}"


def attack_of_epoch(recipe: Recipe, epoch: int, *, warm: bool = True) -> str:
    """The inner attack of an epoch (from 0): "n-fgsm", or "pgd-K". `warm` is false once the warm phase was ended."""
    return recipe.warm_attack if warm and epoch < recipe.warm_epochs else f"pgd-{recipe.attack_steps}"


def craft(
    attack: str,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    noise: Tensor,
    *,
    loss: Objective,
    step_ratio: float = 1 / 4,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Adversarial images (N, C, H, W) from images in [0, 1] and noise, uniform in [-1, 1], of the same shape.

    PGD starts in the ball and stays there; its step is `step_ratio` epsilon, or epsilon / steps where that is more, so
    that few steps still reach the border. N-FGSM (de Jorge et al., arXiv 2202.01181) takes one step of epsilon from
    noise of 2 epsilon and is not projected back to the ball, which is what keeps it from catastrophic overfitting;
    that it is clamped to the box [0, 1] is ours.
    """
    if attack == "n-fgsm":
        start = images + NOISE_RATIO * threat.epsilon * noise
        reach = replace(threat, epsilon=min(0.999, (NOISE_RATIO + 1) * threat.epsilon), steps=1, step=threat.epsilon)
    else:
        steps = int(attack.removeprefix("pgd-"))
        start = images + threat.epsilon * noise
        reach = replace(threat, steps=steps, step=max(step_ratio, 1 / steps) * threat.epsilon)
    return pgd(network, images, labels, reach, start=start, loss=loss, dtype=dtype)
