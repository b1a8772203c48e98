"""What is verified and how thoroughly: a `Subject` is the very file and what may stand for it, a `Level` the effort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import nn

from rcnas_edge.export import Predict

Flags = tuple[np.ndarray, np.ndarray]
"""Per example (N,): right on the clean image, and right under every attack."""

Progress = Callable[[str, float], None]
"""Told what is done now and the share of all the work that is done."""


@dataclass(frozen=True)
class Level:
    """How much a verdict costs: images, seeds of the headline, queries per image of Square on the twin and on the file.

    `margin` is the largest loss of robust accuracy against the checkpoint, a fraction, that still counts as none. The
    sweep over epsilon takes `sweep_images` of the images and attacks each with `sweep_steps`; the sweep over steps
    takes `step_images`; with 0 there is none. `evasion_steps` are those of the search for differential evasions.
    """

    images: int
    seeds: int
    square_queries: int
    artefact_queries: int
    margin: float
    sweep_images: int = 0
    sweep_steps: int = 0
    step_images: int = 0
    evasion_steps: int = 20


@dataclass(frozen=True)
class Subject:
    """What is verified: the artefact as a function, and the networks that are attacked in its place.

    `predict` takes images float32 (N, C, H, W) in [0, 1] to logits, or probabilities, (N, classes). `differentiable` is
    the twin of this very file in torch, as `rcnas_edge.reimport` reads it back, without which a verdict is never
    "robust"; `naive` is the same without straight-through gradients. `parent` is the checkpoint that the file was made
    of, to transfer from and to lose against; without one the twin stands for it. `reference` is the teacher.
    """

    predict: Predict
    differentiable: nn.Module | None = None
    reference: nn.Module | None = None
    parent: nn.Module | None = None
    naive: nn.Module | None = None

    @property
    def quantised(self) -> bool:
        """Whether the twin says that its graph has Q/DQ nodes, so that gradients pass rounding straight through."""
        return bool(getattr(self.differentiable, "quantised", False))

    @property
    def reimported(self) -> bool:
        """Whether the twin was read back from the file, not trained."""
        return self.own_parent is not None or hasattr(self.differentiable, "quantised")

    @property
    def own_parent(self) -> nn.Module | None:
        """The parent, where it is another network than the twin."""
        return None if self.parent is self.differentiable else self.parent
