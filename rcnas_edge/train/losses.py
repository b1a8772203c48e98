"""Losses of adversarial training: what the attack maximises and what the weights minimise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Objective = Callable[[Tensor], Tensor]
"""Logits (N, classes) to a scalar, summed over the examples, that the inner attack maximises."""

RSLAD_ADVERSARIAL = 5 / 6
RSLAD_NATURAL = 1 / 6


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """KL(target || softmax(logits)) per example (N,); logits and target probabilities are (N, classes)."""
    return functional.kl_div(functional.log_softmax(logits.float(), dim=1), target, reduction="none").sum(1)


def inner_objective(loss: str, labels: Tensor, soft: Tensor | None) -> Objective:
    """What the attack maximises: cross-entropy, or the divergence from `soft` probabilities (N, classes).

    `soft` is the teacher's clean probabilities for RSLAD, the network's own clean ones for TRADES. A sum and not a
    mean over the examples, for the reason that `attacks.pgd` gives.
    """
    if loss in ("rslad", "trades"):
        if soft is None:
            raise ValueError(f"the loss {loss} needs clean probabilities")
        return lambda logits: divergence(logits, soft).sum()
    return lambda logits: functional.cross_entropy(logits.float(), labels, reduction="sum")


def training_loss(
    loss: str,
    adversarial: Tensor,
    natural: Tensor | None,
    labels: Tensor,
    soft: Tensor | None,
    *,
    beta: float = 6.0,
) -> Tensor:
    """What the weights minimise, a mean over the examples, from logits on adversarial and natural images.

    All logits are (N, classes); `natural` is not needed for pgd-at, `soft`, the teacher's probabilities, for RSLAD
    alone. `beta` weighs the robust term of TRADES and MART.
    """
    if loss == "pgd-at":
        return functional.cross_entropy(adversarial.float(), labels)
    if natural is None:
        raise ValueError(f"the loss {loss} needs natural logits")
    if loss == "rslad":
        if soft is None:
            raise ValueError("the loss rslad needs the teacher's probabilities")
        far, near = divergence(adversarial, soft), divergence(natural, soft)
        return (RSLAD_ADVERSARIAL * far + RSLAD_NATURAL * near).mean()
    clean = natural.float().softmax(dim=1)
    apart = divergence(adversarial, clean)
    if loss == "trades":
        return functional.cross_entropy(natural.float(), labels) + beta * apart.mean()
    if loss == "mart":
        sureness = clean.gather(1, labels[:, None]).squeeze(1)
        return (boosted_cross_entropy(adversarial, labels) + beta * apart * (1 - sureness)).mean()
    raise ValueError(f"no loss is called {loss!r}")


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) - log(1 - largest other p), per example (N,): MART's margin loss (Wang et al. 2020, eq. 8)."""
    logs = logits.float().log_softmax(dim=1)
    others = logs.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return -logs.gather(1, labels[:, None]).squeeze(1) - torch.log1p(-others.exp().clamp(max=1 - 1e-6))
