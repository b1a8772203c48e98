"""APGD: projected gradient ascent that chooses its own step sizes, on many images and many targets at once.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks"
(ICML 2020, arXiv 2003.01690), Algorithm 1 in the L-infinity ball, with the checkpoints of the released code. It does
less than that code, and finds as much: an image that is fooled leaves a few steps later, what waits takes its place,
and so attempts at several targets share a batch. Each attempt climbs by itself, and which point is kept does not
depend on which attempt came first, so the batch size changes nothing but rounding. One departure: the first window
compares with the loss of the start, as in the paper, where the released code compares with zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MOMENTUM = 0.75
"""Share of the step that follows the gradient; the rest goes on where the last step went."""

WINDOWS = (0.22, 0.06, 0.03)
"""Shares of the steps: the first window between two checkpoints, the shortest one, and what each is shorter by."""

FOLLOWED = 5
"""Steps that a fooled image stays, so that its point is not one that rounding, or an export, would make right again."""

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (b, classes), labels (b,) and goals (b,) to values (b,) to climb."""


def cross_entropy(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """Cross-entropy to the labels (b,), whatever the goals."""
    return functional.cross_entropy(logits, labels, reduction="none")


def dlr(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """Difference of logits ratio (b,), equation (6), whatever the goals; wants 3 classes."""
    first, second, third = logits.topk(3, dim=1).values.unbind(1)
    own = _of(logits, labels)
    others = torch.where(logits.argmax(1) == labels, second, first)
    return (others - own) / (first - third + 1e-12)


def targeted_dlr(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """Targeted difference of logits ratio (b,), equation (7); wants 4 classes."""
    first, _, third, fourth = logits.topk(4, dim=1).values.unbind(1)
    return targeted_margin(logits, labels, goals) / (first - (third + fourth) / 2 + 1e-12)


def targeted_margin(logits: Tensor, labels: Tensor, goals: Tensor) -> Tensor:
    """Logit of the goal less that of the label (b,): the numerator of equation (7), which needs but two classes."""
    return _of(logits, goals) - _of(logits, labels)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def windows(steps: int) -> list[int]:
    """After each step, and at index 0 before any: the length of the window that ends there, 0 where none ends."""
    length, shortest, less = (max(int(share * steps), 1) for share in WINDOWS)
    ends, end = [0] * (steps + 1), length
    while end <= steps:
        ends[end] = length
        length = max(length - less, shortest)
        end += length
    return ends


@dataclass
class _Climbs:
    """The attempts in the batch; the first axis of every tensor is theirs (b,)."""

    image: Tensor  # (b,) its place among the images
    attempt: Tensor  # (b,) which of the image's attempts this is
    goal: Tensor  # (b,) class
    low: Tensor  # (b, C, H, W), with `high` the ball in the box
    high: Tensor
    point: Tensor  # (b, C, H, W) now, one step before, and that of the highest value
    before: Tensor
    best: Tensor
    gradient: Tensor  # (b, C, H, W) at the point, and at the best one
    best_gradient: Tensor
    value: Tensor  # (b,) at the point, at the best one, and that one's at the last checkpoint
    best_value: Tensor
    checked_value: Tensor
    wrong_value: Tensor  # (b,) highest value of a point that is misclassified
    size: Tensor  # (b, 1, 1, 1) of a step, in pixels
    halved: Tensor  # (b,) whether the last checkpoint halved it
    rises: Tensor  # (b,) steps in this window that rose
    taken: Tensor  # (b,) steps taken, and to take
    left: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def only(self, kept: Tensor) -> _Climbs:
        """Those that are kept (b,)."""
        return _Climbs(*(value[kept] for value in self._tensors()))

    def and_also(self, others: _Climbs) -> _Climbs:
        """These, then the others."""
        return _Climbs(*(torch.cat(pair) for pair in zip(self._tensors(), others._tensors(), strict=True)))

    def _tensors(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in dataclasses.fields(self))


def apgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    goals: Tensor,
    epsilon: float,
    *,
    objective: Objective = cross_entropy,
    steps: int = 100,
    eot_iter: int = 1,
    rho: float = 0.75,
    generator: torch.Generator,
    batch_size: int = 256,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Adversarial points (N, C, H, W) of images (N, C, H, W) in [0, 1] with labels (N,), one attempt per goal.

    `goals` (N, attempts) are classes, those of an image in the order in which its attempts count: of the first attempt
    that succeeds, the misclassified point of highest value is kept; without any, the first one's best point. An attempt
    takes `steps` steps and one pass through the model, both ways, for each and for its start, times `eot_iter`. The
    model is in eval mode and frozen. `batch_size` counts attempts; `generator` draws the starts, on the CPU.
    """
    count, attempts = goals.shape
    ends = torch.tensor(windows(steps), device=images.device)
    found = images.clone()
    succeeded = torch.full((count,), attempts, device=images.device)  # the first attempt that did
    climbs, waiting = None, 0
    while True:
        while waiting < count * attempts and (climbs is None or len(climbs) < batch_size):
            room = batch_size - (0 if climbs is None else len(climbs))
            places = torch.arange(waiting, min(waiting + room, count * attempts), device=images.device)
            noise = torch.rand((len(places), *images.shape[1:]), generator=generator).to(images.device)
            waiting += len(places)
            wanted = succeeded[places % count] == attempts
            if wanted.any():
                new = _started(images, goals, places[wanted], noise[wanted], epsilon, steps)
                climbs = new if climbs is None else climbs.and_also(new)
        if climbs is None or not len(climbs):
            return found
        wrong = _evaluate(model, climbs, labels, objective, eot_iter)
        succeeded.scatter_reduce_(0, climbs.image[wrong], climbs.attempt[wrong], "amin")
        _keep(climbs, wrong, succeeded, found)
        _check(climbs, ends[climbs.taken], rho)
        climbs.left = torch.where(wrong, climbs.left.clamp(max=FOLLOWED), climbs.left)
        stays = (climbs.left > 0) & (climbs.attempt <= succeeded[climbs.image])
        if not stays.all():
            failed = ~stays & (climbs.attempt == 0) & (succeeded[climbs.image] == attempts)
            found[climbs.image[failed]] = climbs.best[failed]
            climbs = climbs.only(stays)
            if progress is not None:
                progress((waiting - len(climbs)) / (count * attempts))
        _move(climbs)


def _started(images: Tensor, goals: Tensor, places: Tensor, noise: Tensor, epsilon: float, steps: int) -> _Climbs:
    """Attempts at those places of the queue, which holds every image's first attempt, then every image's second ..."""
    image, attempt = places % len(images), places // len(images)
    clean = images[image]
    noise = 2 * noise - 1
    start = (clean + epsilon * noise / noise.flatten(1).abs().amax(1)[:, None, None, None]).clamp_(0, 1)
    nothing = images.new_full((len(places),), -torch.inf)
    return _Climbs(
        image=image,
        attempt=attempt,
        goal=goals[image, attempt],
        low=(clean - epsilon).clamp_(min=0),
        high=(clean + epsilon).clamp_(max=1),
        point=start,
        before=start,
        best=start,
        gradient=start,
        best_gradient=start,
        value=-nothing,
        best_value=nothing,
        checked_value=nothing,
        wrong_value=nothing,
        size=images.new_full((len(places), 1, 1, 1), 2 * epsilon),
        halved=torch.ones_like(image, dtype=torch.bool),
        rises=torch.zeros_like(image),
        taken=torch.zeros_like(image),
        left=torch.full_like(image, steps),
    )


def _evaluate(model: nn.Module, climbs: _Climbs, labels: Tensor, objective: Objective, eot_iter: int) -> Tensor:
    """Value and gradient at every point, and what is best so far; returns which points are misclassified (b,)."""
    point, own = climbs.point.detach().requires_grad_(True), labels[climbs.image]
    gradient = torch.zeros_like(climbs.point) if eot_iter > 1 else None
    for _ in range(eot_iter):
        logits = model(point)
        value = objective(logits, own, climbs.goal)
        (once,) = torch.autograd.grad(value.sum(), point)
        gradient = once if gradient is None else gradient.add_(once)
    assert gradient is not None
    value, wrong = value.detach(), logits.detach().argmax(1) != own
    climbs.rises = climbs.rises + (value > climbs.value)
    better = value > climbs.best_value
    climbs.best_value = torch.where(better, value, climbs.best_value)
    climbs.best = torch.where(better[:, None, None, None], climbs.point, climbs.best)
    climbs.best_gradient = torch.where(better[:, None, None, None], gradient, climbs.best_gradient)
    climbs.value, climbs.gradient = value, gradient
    climbs.checked_value = torch.where(climbs.taken == 0, value, climbs.checked_value)
    return wrong


def _keep(climbs: _Climbs, wrong: Tensor, succeeded: Tensor, found: Tensor) -> None:
    """Note in `found` (N, C, H, W) what is misclassified and better than what its attempt had misclassified before."""
    better = wrong & (climbs.attempt == succeeded[climbs.image]) & (climbs.value > climbs.wrong_value)
    found[climbs.image[better]] = climbs.point[better]
    climbs.wrong_value = torch.where(better, climbs.value, climbs.wrong_value)


def _check(climbs: _Climbs, window: Tensor, rho: float) -> None:
    """Where a window (b,) ends: halve the step and go back to the best point if the climb is slow (conditions 1, 2)."""
    checked = window > 0
    if not checked.any():
        return
    slow = climbs.rises <= rho * window
    stuck = ~climbs.halved & (climbs.checked_value >= climbs.best_value)
    halve = checked & (slow | stuck)
    climbs.halved = torch.where(checked, halve, climbs.halved)
    climbs.checked_value = torch.where(checked, climbs.best_value, climbs.checked_value)
    climbs.rises = torch.where(checked, 0, climbs.rises)
    back = halve[:, None, None, None]
    climbs.size = torch.where(back, climbs.size / 2, climbs.size)
    climbs.point = torch.where(back, climbs.best, climbs.point)
    climbs.gradient = torch.where(back, climbs.best_gradient, climbs.gradient)


def _move(climbs: _Climbs) -> None:
    """One step along the sign of the gradient, with momentum but for the first, within the ball and the box."""
    share = torch.where(climbs.taken == 0, 1.0, MOMENTUM)[:, None, None, None]
    step = climbs.gradient.sign().mul_(climbs.size).add_(climbs.point).clamp_(climbs.low, climbs.high)
    step.sub_(climbs.point).mul_(share).add_((climbs.point - climbs.before).mul_(1 - share))
    climbs.before, climbs.point = climbs.point, step.add_(climbs.point).clamp_(climbs.low, climbs.high)
    climbs.taken, climbs.left = climbs.taken + 1, climbs.left - 1
