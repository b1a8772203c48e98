"""Differential evasion: inputs in the ball that the parent gets right and the file that was made of it gets wrong.

DIVA: Hao, Awatramani, Hu, Mao, Chen, Cidon, Cidon and Yang, "A Tale of Two Models: Constructing Evasive Attacks on Edge
Models" (MLSys 2022, arXiv 2204.10933). Whoever watches the parent sees nothing; robust accuracy does not show it, for
both may fall equally often.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rcnas_edge.attacks import AttackResult, Counted, Threat
from rcnas_edge.masking import evaluating
from rcnas_edge.threat import frozen

Climbed = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (n, classes) of the parent and of the twin, labels (n,), to what is climbed, summed."""

KEPT_RIGHT = 0.5
"""How much of a margin of logits the parent is left with in the second round: enough not to be lost by one step."""


def evade(
    twin: nn.Module,
    parent: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    steps: int,
    batch_size: int = 256,
) -> AttackResult:
    """Points that the parent gets right and the twin wrong, searched from the clean images, on the twin's device.

    images (N, C, H, W) are float32 in [0, 1], labels (N,). The first round is the paper's: ascend p_parent(label) -
    p_twin(label). Probabilities near 0 and 1 have no gradient, so what it leaves gets a second round on the margins:
    the twin's is lowered as long as the parent keeps one of `KEPT_RIGHT`. `robust` says which images were not evaded;
    both networks' passes are counted.
    """
    began = time.perf_counter()
    home = images.device
    counted = Counted(twin, home), Counted(parent, home)
    found, left = images.clone(), torch.ones(len(images), dtype=torch.bool, device=home)
    ball = threat.with_steps(steps)
    with evaluating(twin), evaluating(parent), frozen(twin), frozen(parent), torch.enable_grad():
        for climbed in (_probabilities, _margins):
            for part in left.nonzero().squeeze(1).split(batch_size):
                points, still = _ascend(*counted, images[part], labels[part], ball, climbed)
                found[part], left[part] = points, still
    return AttackResult(
        adversarial=found,
        robust=left,
        forwards=sum(one.forwards for one in counted),
        backwards=sum(one.backwards for one in counted),
        seconds=time.perf_counter() - began,
    )


def _ascend(
    twin: nn.Module, parent: nn.Module, images: Tensor, labels: Tensor, threat: Threat, climbed: Climbed
) -> tuple[Tensor, Tensor]:
    """Points (n, C, H, W), the first that evades of each image or else the last, and which do not evade (n,)."""
    points, left = images.clone(), torch.ones(len(images), dtype=torch.bool, device=images.device)
    for step in range(threat.steps + 1):
        index = left.nonzero().squeeze(1)
        if not len(index):
            break
        moving, own = points[index].requires_grad_(True), labels[index]
        ours, theirs = parent(moving), twin(moving)
        evades = (ours.argmax(1) == own) & (theirs.argmax(1) != own)
        left[index] = ~evades
        if step == threat.steps:
            break
        value = climbed(ours, theirs, own)
        gradient = torch.autograd.grad(value, moving)[0] if value.requires_grad else torch.zeros_like(moving)
        moved = threat.project(moving.detach() + threat.step * gradient.sign(), images[index])
        points[index] = torch.where(evades[:, None, None, None], points[index], moved)
    return points, left


def _probabilities(ours: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
    """The paper's loss with c = 1."""
    apart = ours.softmax(1) - theirs.softmax(1)
    return apart.gather(1, labels[:, None]).sum()


def _margins(ours: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
    return (_margin(ours, labels).clamp_max(KEPT_RIGHT) - _margin(theirs, labels).clamp_min(-KEPT_RIGHT)).sum()


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
