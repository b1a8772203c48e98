"""Losses of adversarial training: what the attack maximises and what the weights minimise."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

Objective = Callable[[Tensor], Tensor]
"""Logits (N, classes) to a scalar that the inner attack maximises."""

RSLAD_ADVERSARIAL = 5 / 6
RSLAD_NATURAL = 1 / 6


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """KL(target || softmax(logits)), mean over the batch; logits and target probabilities are (N, classes)."""
    return functional.kl_div(functional.log_softmax(logits.float(), dim=1), target, reduction="batchmean")


def inner_objective(loss: str, labels: Tensor, soft: Tensor | None) -> Objective:
    """What PGD maximises: cross-entropy, or for RSLAD the divergence from the teacher's clean probabilities."""
    if loss == "rslad":
        if soft is None:
            raise ValueError("the loss rslad needs the teacher's probabilities")
        return lambda logits: divergence(logits, soft)
    return lambda logits: functional.cross_entropy(logits.float(), labels)


def training_loss(
    loss: str, adversarial: Tensor, natural: Tensor | None, labels: Tensor, soft: Tensor | None
) -> Tensor:
    """What the weights minimise, from logits on adversarial and (RSLAD only) natural images."""
    if loss == "rslad":
        if soft is None or natural is None:
            raise ValueError("the loss rslad needs natural logits and the teacher's probabilities")
        return RSLAD_ADVERSARIAL * divergence(adversarial, soft) + RSLAD_NATURAL * divergence(natural, soft)
    return functional.cross_entropy(adversarial.float(), labels)
