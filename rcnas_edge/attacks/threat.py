"""What an attacker may do, and the loop that training spends its time in: threat models and projected gradient descent.

PGD is Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (ICLR 2018, arXiv 1706.06083).
A PGD number is a training signal, never a robust accuracy to publish: see `rcnas_edge.attacks.headline`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnas_edge.errors import InputError

logger = logging.getLogger(__name__)

FORM = "linf:EPSILON:STEPS[:STEP], for example linf:8/255:10 or linf:0.1:20:0.02"
NUMBER = re.compile(r"(?P<top>\d+(\.\d*)?|\.\d+)(?P<exponent>e[+-]?\d+)?(/(?P<bottom>\d+))?", re.IGNORECASE)

Loss = Literal["ce"] | Callable[[Tensor], Tensor]
"""Cross-entropy to the labels, or a function of the logits (N, classes) that gives one number to climb."""


@dataclass(frozen=True)
class Threat:
    """How far an attacker may move every pixel, and how hard it tries: "linf:8/255:10".

    `epsilon` and `step` are in pixel units of images in [0, 1]. Without a step in the text, the step is
    2.5 * epsilon / steps, with which PGD reaches the border of the ball from any start and can turn there
    (Madry et al. 2018, appendix C). Only the L-infinity ball for now.
    """

    norm: str
    epsilon: float
    steps: int
    step: float
    written: str = field(default="", init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.norm != "linf":
            raise InputError(f"a threat's norm is linf for now, got {self.norm!r}: write {FORM}")
        if not 0 < self.epsilon < 1:
            raise InputError(
                f"a threat's epsilon is between 0 and 1, in units of [0, 1] pixels, got {self.epsilon}: write {FORM}"
            )
        if self.steps < 1:
            raise InputError(f"a threat takes at least one step, got {self.steps}: write {FORM}")
        if not 0 < self.step < math.inf:
            raise InputError(f"a threat's step is a positive number of [0, 1] pixels, got {self.step}: write {FORM}")

    @classmethod
    def parse(cls, text: str) -> Threat:
        """The threat that a text like "linf:8/255:10" or "linf:8/255:10:2/255" names; `str` gives the text back."""
        written = text.strip()
        parts = written.split(":")
        if len(parts) not in (3, 4):
            raise InputError(f"a threat has the form {FORM}, got {text!r}")
        if not parts[2].isdecimal():
            raise InputError(f"a threat's steps are a whole number, got {parts[2]!r} in {text!r}: write {FORM}")
        epsilon, steps = _number(parts[1], text), int(parts[2])
        step = _number(parts[3], text) if len(parts) == 4 else 2.5 * epsilon / max(steps, 1)
        threat = cls(parts[0], epsilon, steps, step)
        object.__setattr__(threat, "written", written)
        return threat

    def with_steps(self, steps: int) -> Threat:
        """The same ball with more or fewer steps; a step that follows the rule follows it again, any other is kept."""
        follows = self.step == 2.5 * self.epsilon / self.steps
        return dataclasses.replace(self, steps=steps, step=2.5 * self.epsilon / max(steps, 1) if follows else self.step)

    def project(self, points: Tensor, images: Tensor) -> Tensor:
        """The nearest points (N, C, H, W) in the ball around images (N, C, H, W) and in the box [0, 1]."""
        return torch.clamp(points, (images - self.epsilon).clamp_(min=0), (images + self.epsilon).clamp_(max=1))

    def __str__(self) -> str:
        if self.written:
            return self.written
        step = "" if self.step == 2.5 * self.epsilon / self.steps else f":{_text(self.step)}"
        return f"{self.norm}:{_text(self.epsilon)}:{self.steps}{step}"


def _number(text: str, whole: str) -> float:
    match = NUMBER.fullmatch(text)
    if not match or (match["bottom"] is not None and int(match["bottom"]) == 0):
        raise InputError(
            f"a threat's sizes are decimals or fractions such as 8/255, got {text!r} in {whole!r}: write {FORM}"
        )
    return float(match["top"] + (match["exponent"] or "")) / int(match["bottom"] or 1)


def _text(size: float) -> str:
    levels = round(255 * size)
    return f"{levels}/255" if levels / 255 == size else repr(size)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    generator: torch.Generator | None = None,
    start: Tensor | None = None,
    loss: Loss = "ce",
    random_start: bool = True,
    dtype: torch.dtype | None = None,
    steps: int | None = None,
) -> Tensor:
    """Adversarial images (N, C, H, W) by projected gradient descent: the tight loop used inside training.

    images (N, C, H, W) in [0, 1] and labels (N,) lie on the model's device; eval mode is the caller's choice. The
    last iterate is returned, as in the paper. `start` (N, C, H, W) holds the points to start from, brought into the
    ball; without it a random start wants the generator. `dtype` (torch.bfloat16) runs the model under autocast, None in
    float32. `steps` replaces the threat's; 0 gives the random start alone. The noise of the random start is drawn in
    the images' logical order, so on a CPU it depends neither on the batch size nor on the memory layout, which is
    kept. The loss is a sum and not a mean: a mean would push gradients of well-fitted examples below the smallest
    normal float, and signs of zero attack nothing.
    """
    count = threat.steps if steps is None else steps
    step = threat.with_steps(max(count, 1)).step
    low, high = (images - threat.epsilon).clamp_(min=0), (images + threat.epsilon).clamp_(max=1)
    adversarial = images.detach().clone()
    if start is not None:
        adversarial = start.detach().clamp(low, high)
    elif random_start:
        if generator is None:
            raise ValueError("a random start wants a generator")
        noise = torch.rand(images.shape, generator=generator, device=generator.device).to(images.device)
        adversarial.add_(noise.mul_(2).sub_(1), alpha=threat.epsilon).clamp_(low, high)
    with frozen(model), torch.enable_grad():
        for _ in range(count):
            adversarial.requires_grad_(True)
            with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
                logits = model(adversarial)
            logits = logits.float()
            value = functional.cross_entropy(logits, labels, reduction="sum") if loss == "ce" else loss(logits)
            (gradient,) = torch.autograd.grad(value, adversarial)
            adversarial = adversarial.detach().add_(gradient.sign_(), alpha=step).clamp_(low, high)
    return adversarial


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter of the model asks for a gradient inside, so that no pass computes or keeps one."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """No TF32: a GPU would round the inputs of its convolutions to 10 bits of mantissa, and calls that float32."""
    if not torch.cuda.is_available():
        yield
        return
    switches = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value
