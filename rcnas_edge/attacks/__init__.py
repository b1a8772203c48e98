"""Attacks: one door to ours and to torchattacks' repaired ones, and the headline number made of three of them.

The headline and `autoattack` follow Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble
of diverse parameter-free attacks" (ICML 2020, arXiv 2003.01690). What torchattacks 3.5 leaves open is settled here,
once, for every attack:

* attack after attack and round after round works on the survivors of the former;
* random states (torch, CUDA, numpy, random), each module's train or eval flag, each parameter's requires_grad and
  memory layout, and the float32 precision are as they were afterwards, also after an exception;
* images are float32 in [0, 1]; adversarial images are finite, in the ball and in the box, or nothing is claimed; and
  what counts as robust is decided by one more forward pass of ours.

Which values each attack runs with is settled in `rcnas_edge.attacks.adversaries`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rcnas_edge.attacks.adversaries import Counted, Setting, names, plan, stages
from rcnas_edge.attacks.threat import Threat, frozen, full_precision, pgd
from rcnas_edge.errors import InputError, UncheckedError

__all__ = ["AttackResult", "Counted", "Threat", "attack", "headline", "names", "pgd"]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-6
"""Float32 rounding that an adversarial image may stand outside the ball or the box, in units of [0, 1] pixels."""

Progress = Callable[[str, float], None]
"""Told the attack's name and the share of all the work that is done, in [0, 1]."""


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack found and what it cost.

    `adversarial` (N, C, H, W) are its points: where the model was already wrong the clean image, where the attack
    failed its best try. `robust` (N,) says which images are classified right before *and* after. `forwards` and
    `backwards` count images pushed through the model. `note` says what differs from the attack's paper, if anything.
    """

    adversarial: Tensor
    robust: Tensor
    forwards: int
    backwards: int
    seconds: float
    note: str = ""

    def __post_init__(self) -> None:
        if self.robust.shape != self.adversarial.shape[:1] or self.robust.dtype != torch.bool:
            raise ValueError(
                f"robust is one bool per adversarial image, got {self.robust.dtype} {tuple(self.robust.shape)} "
                f"for {tuple(self.adversarial.shape)}"
            )


def attack(
    name: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    batch_size: int = 256,
    **options: Any,
) -> AttackResult:
    """Attack the images that the model classifies right, by the attack of that name.

    images (N, C, H, W) are float32 in [0, 1], labels (N,) classes; `batch_size` is in images. Names are fgsm, pgd, cw
    (PGD on the margin loss, as the literature reports CW under L-infinity), apgd-ce, apgd-dlr, apgd-t, fab-t, square,
    autoattack (the worst case of apgd-ce and the last three) and any class of torchattacks; options are those of the
    attack, such as `n_queries` of square. fgsm, pgd and cw show a training signal; publish `headline`.
    """
    results = _run(stages(name, options), model, images, labels, threat, seed=seed, batch_size=batch_size)
    last = list(results.values())[-1]
    return AttackResult(
        adversarial=last.adversarial,
        robust=last.robust,
        forwards=sum(result.forwards for result in results.values()),
        backwards=sum(result.backwards for result in results.values()),
        seconds=sum(result.seconds for result in results.values()),
        note="; ".join(result.note for result in results.values() if result.note),
    )


def headline(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    seed: int = 0,
    square_queries: int = 5000,
    steps: int = 100,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> dict[str, AttackResult]:
    """The number to publish: APGD-CE of 100 steps, then APGD-T of 100 steps on up to nine targets, then Square.

    images (N, C, H, W) are float32 in [0, 1], labels (N,). Each attack works on the survivors of the former, and its
    result is of all N images: `robust` of "square" is the worst case per example over all three. This is
    AutoAttack without FAB, which found nothing more where we compared the two; `autoattack` has all four. With fewer
    than 4 classes APGD-T climbs the margin in place of the DLR loss, and its `note` says so. Square gives up what goes
    nowhere (`rcnas_edge.attacks.square.HOPE`). `progress` is told (attack, share done).
    """
    three = {"apgd-ce": {"steps": steps}, "apgd-t": {"steps": steps}, "square": {"n_queries": square_queries}}
    return _run(three, model, images, labels, threat, seed=seed, batch_size=batch_size, progress=progress)


def _run(
    ensemble: Mapping[str, Mapping[str, Any]],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
) -> dict[str, AttackResult]:
    """Attack after attack, each with its options, on the survivors of the former; every result is of all N images."""
    if batch_size < 1:
        raise InputError(f"a batch holds at least one image, got batch_size={batch_size}")
    _check_images(model, images, labels)
    home, device = images.device, _device(model, images)
    results: dict[str, AttackResult] = {}
    with _guarded(model, device):
        images, labels = images.detach().to(device).clone(), labels.detach().to(device, torch.long, copy=True)
        victim = Counted(model, device).eval()
        began, forwards, backwards = time.perf_counter(), 0, 0
        logits = _all_logits(victim, images, batch_size)
        _check_classes(labels, logits.shape[1])
        adversarial, robust = images.clone(), logits.argmax(1) == labels
        for position, (name, options) in enumerate(ensemble.items()):
            _seed(seed)
            told = _Told(progress, name, position, len(ensemble))
            planned = plan(name, Setting(victim, threat, logits.shape[1], seed, batch_size, told.part), options)
            if planned.note:
                logger.warning(planned.note)
            for number, one_round in enumerate(planned.rounds):
                left = robust.nonzero().squeeze(1)
                parts = (left,) if planned.whole and len(left) else _parts(left, batch_size)
                for done, part in enumerate(parts):
                    told.enter((number + done / len(parts)) / len(planned.rounds), 1 / len(parts) / len(planned.rounds))
                    points = _checked(name, one_round(images[part], labels[part]), images[part], threat)
                    right = _all_logits(victim, points, batch_size).argmax(1) == labels[part]
                    if number:  # The first round's best try is kept.
                        points = torch.where(right[:, None, None, None], adversarial[part], points)
                    adversarial[part], robust[part] = points, right
            results[name] = AttackResult(
                adversarial=adversarial.to(home, copy=True),
                robust=robust.to(home, copy=True),
                forwards=victim.forwards - forwards,
                backwards=victim.backwards - backwards,
                seconds=time.perf_counter() - began,
                note=planned.note,
            )
            began, forwards, backwards = time.perf_counter(), victim.forwards, victim.backwards
            logger.info("%s leaves %d of %d images right", name, int(robust.sum()), len(robust))
        if progress is not None:
            progress(name, 1.0)
    return results


class _Told:
    """Tells `progress` how far the ensemble is, from how far one of its attacks, and one part of it, is."""

    def __init__(self, progress: Progress | None, name: str, position: int, attacks: int) -> None:
        self.progress, self.name, self.position, self.attacks = progress, name, position, attacks
        self.begin, self.share = 0.0, 1.0

    def enter(self, begin: float, share: float) -> None:
        """A part of the attack begins, which is this share of it."""
        self.begin, self.share = begin, share
        self.part(0.0)

    def part(self, done: float) -> None:
        """So much of the part is done, in [0, 1]."""
        if self.progress is not None:
            self.progress(self.name, (self.position + self.begin + self.share * done) / self.attacks)


def _parts(index: Tensor, batch_size: int) -> Sequence[Tensor]:
    """Batches of nearly equal size, rather than full ones and a small rest."""
    return index.tensor_split(-(-len(index) // batch_size)) if len(index) else ()


@torch.no_grad()
def _all_logits(victim: Counted, images: Tensor, batch_size: int) -> Tensor:
    parts = _parts(torch.arange(len(images), device=images.device), batch_size)
    logits = torch.cat([victim(images[part]) for part in parts])
    if not torch.isfinite(logits).all():
        raise UncheckedError(
            "robustness is of finite logits, this model gives NaN or infinity: nothing is claimed about it"
        )
    return logits


def _checked(name: str, points: Tensor, images: Tensor, threat: Threat) -> Tensor:
    """The points (n, C, H, W), exactly inside the ball and the box; refused if they are off by more than rounding."""
    points = points.detach()
    if points.shape != images.shape or not torch.isfinite(points).all():
        raise UncheckedError(f"an attack gives finite images, {name} gave NaN or another shape: nothing is claimed")
    inside = threat.project(points, images)
    off = (points - inside).abs().max().item()
    if off > TOLERANCE:
        raise UncheckedError(
            f"an attack stays in the ball of {threat} and in [0, 1], {name} left by {off:.2g}: nothing is claimed"
        )
    return inside


def _check_images(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    if images.dtype != torch.float32 or images.ndim != 4 or not len(images):
        raise InputError(
            f"images are a float32 tensor (N, C, H, W) with N >= 1, got {images.dtype} {tuple(images.shape)}: "
            "convert them, and divide 8-bit images by 255"
        )
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"images are in [0, 1], got {low:.4g} to {high:.4g}: undo the normalisation and put it inside the model"
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels are one class per image, got {labels.dtype} {tuple(labels.shape)} for {len(images)} images"
        )
    halves = {value.dtype for value in (*model.parameters(), *model.buffers())} & {torch.float16, torch.bfloat16}
    if halves:
        raise InputError(f"attacks run in float32, the model holds {halves.pop()}: call .float() on a copy of it")


def _check_classes(labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if classes < 2 or low < 0 or high >= classes:
        raise InputError(
            f"labels are classes of a model with two or more, got {low} to {high} for {classes} logits: "
            "check that the model belongs to the data"
        )


def _device(model: nn.Module, images: Tensor) -> torch.device:
    return next((value.device for value in (*model.parameters(), *model.buffers())), images.device)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def _guarded(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model in eval mode, frozen, in float32 and fast; afterwards it and all global state are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_random_states())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(frozen(model))
        stack.enter_context(full_precision() if device.type == "cuda" else _channels_last(model))
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    state, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def _channels_last(model: nn.Module) -> Iterator[None]:
    """The convolutions' weights in the layout that a CPU convolves fastest; values and owners stay the same."""
    weights = [(parameter, parameter.data) for parameter in model.parameters() if parameter.ndim == 4]
    try:
        for parameter, data in weights:
            parameter.data = data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for parameter, data in weights:
            parameter.data = data
