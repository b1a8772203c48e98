"""Outputs in a form that attacks can use: probabilities become their logarithm, huge logits become moderate ones.

A gradient of the cross-entropy is exactly zero in float32 where the softmax is 1 to the last bit (Carlini and Wagner,
"Towards evaluating the robustness of neural networks", 2017, section IV-A, broke defensive distillation by this), and
a softmax of a softmax is nearly flat. Neither repair changes which class is largest, so what is attacked is the same
classifier; what was repaired is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rcnas_edge.attacks.square import margins

SATURATED = 24 * math.log(2)
"""A margin of logits, 16.6, beyond which float32 knows a softmax of exactly 1: a mantissa of 24 bits."""
MODERATE = 5.0
"""About the median margin that huge logits are brought down to."""
ROUNDED = 0.05
"""How far probabilities may be off a sum of 1; those of an int8 file are rounded to 1/256 each."""
LEAST = float(np.finfo(np.float32).tiny)
"""The least probability that has a logarithm here."""


@dataclass(frozen=True)
class Form:
    """How outputs become logits to climb: the logarithm of `probabilities`, divided by `scale`, a power of two."""

    probabilities: bool = False
    scale: float = 1.0
    margin: float = 0.0
    """The median margin before it was scaled."""

    @classmethod
    def of(cls, outputs: np.ndarray) -> Form:
        """The form for a network that answers clean images with outputs (N, classes)."""
        sums = outputs.sum(axis=1)
        bounded = outputs.min() >= 0 and outputs.max() <= 1 + ROUNDED
        probabilities = bool(bounded and np.abs(sums - 1).max() <= ROUNDED)
        logits = cls(probabilities).logits(outputs)
        typical = float(np.median(margins(logits, logits.argmax(axis=1))))
        scale = 2.0 ** round(math.log2(typical / MODERATE)) if typical > SATURATED else 1.0
        return cls(probabilities, scale, typical)

    @property
    def trivial(self) -> bool:
        """Whether outputs are climbed as they are."""
        return not self.probabilities and self.scale == 1

    def logits(self, outputs: np.ndarray) -> np.ndarray:
        """What is climbed (N, classes), of outputs (N, classes)."""
        if self.trivial:
            return outputs
        if self.probabilities:
            outputs = np.log(np.maximum(outputs, LEAST))
        return np.asarray(outputs / self.scale, dtype=np.float32)

    def __str__(self) -> str:
        """What was repaired, in words; empty if nothing was."""
        words = []
        if self.probabilities:
            words.append("outputs are probabilities (softmax): attacks run on their logarithm")
        if self.scale != 1:
            what = "log-probabilities" if self.probabilities else "logits"
            words.append(
                f"{what} are so large (median margin {self.margin:.3g}) that cross-entropy has no gradient in float32: "
                f"attacks run on {what} / {self.scale:g}"
            )
        return "; ".join(words) + ", which changes no class" if words else ""


class Formed(nn.Module):
    """A network whose outputs are in a form; it puts every image into the same class as the network itself."""

    def __init__(self, network: nn.Module, form: Form) -> None:
        super().__init__()
        self.network, self.form = network, form
        self.train(network.training)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        outputs: Tensor = self.network(images)
        if self.form.probabilities:
            outputs = torch.log(outputs.clamp_min(LEAST))
        return outputs / self.form.scale


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) of logits (N, classes)."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
