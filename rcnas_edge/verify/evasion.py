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
from rcnas_edge.attacks.threat import frozen, full_precision
from rcnas_edge.verify.masking import evaluating

Direction = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""Points (n, C, H, W), logits (n, classes) of the parent and of the twin, labels (n,), size of the step: where to."""


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
    p_twin(label). That widens the gap without putting it where the classes meet, and probabilities near 0 and 1 have no
    gradient, so what it leaves gets a second round: ascend the lesser of the parent's margin and minus the twin's,
    which is above 0 exactly where the parent is right and the twin wrong. `robust` says which images were not evaded;
    both networks' passes are counted.
    """
    began = time.perf_counter()
    home = images.device
    counted = Counted(twin, home), Counted(parent, home)
    found, left = images.clone(), torch.ones(len(images), dtype=torch.bool, device=home)
    ball = threat.with_steps(steps)
    with evaluating(twin), evaluating(parent), frozen(twin), frozen(parent), full_precision(), torch.enable_grad():
        for direction, shrinking in ((_wider_gap, False), (_across_the_border, True)):
            for part in left.nonzero().squeeze(1).split(batch_size):
                points, still = _ascend(*counted, images[part], labels[part], ball, direction, shrinking)
                found[part], left[part] = points, still
    return AttackResult(
        adversarial=found,
        robust=left,
        forwards=sum(one.forwards for one in counted),
        backwards=sum(one.backwards for one in counted),
        seconds=time.perf_counter() - began,
    )


def _ascend(
    twin: nn.Module,
    parent: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    direction: Direction,
    shrinking: bool,
) -> tuple[Tensor, Tensor]:
    """Points (n, C, H, W), the first that evades of each image or else the last, and which do not evade (n,).

    Steps are the threat's, or `shrinking` from a quarter of the ball to nothing.
    """
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
        size = threat.epsilon / 4 * (1 - step / threat.steps) if shrinking else threat.step
        where = direction(moving, ours, theirs, own, size)
        moved = threat.project(moving.detach() + size * where.sign(), images[index])
        points[index] = torch.where(evades[:, None, None, None], points[index], moved)
    return points, left


def _wider_gap(points: Tensor, ours: Tensor, theirs: Tensor, labels: Tensor, size: float) -> Tensor:
    """The paper's direction, with c = 1."""
    apart = (ours.softmax(1) - theirs.softmax(1)).gather(1, labels[:, None])
    return _gradient(apart.sum(), points)


def _across_the_border(points: Tensor, ours: Tensor, theirs: Tensor, labels: Tensor, size: float) -> Tensor:
    """Ascend the lesser of the parent's margin and minus the twin's; both, where a step could change which it is.

    On linear networks this finds nine of ten points that a linear programme proves to be there (`tests`).
    """
    own, other = _margin(ours, labels), -_margin(theirs, labels)
    up, away = _gradient(own.sum(), points), _gradient(other.sum(), points)
    reach = size * (up.abs() + away.abs()).flatten(1).sum(1).clamp_min(1e-12)
    weight = torch.sigmoid((other - own).detach() / (2 * reach))[:, None, None, None]
    return weight * up + (1 - weight) * away


def _gradient(value: Tensor, points: Tensor) -> Tensor:
    found = torch.autograd.grad(value, points, retain_graph=True, allow_unused=True)[0] if value.requires_grad else None
    return torch.zeros_like(points) if found is None else found


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels[:, None]).squeeze(1)
    return own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
