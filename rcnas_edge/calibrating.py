"""The images that an int8 model is calibrated on: of the training split, half clean and half adversarial.

An attacker drives activations out of the range that clean images reach; a scale that was made without adversarial
images clips them, and the file answers them as the network does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rcnas_edge.attacks import Threat, pgd
from rcnas_edge.data import Dataset
from rcnas_edge.errors import InputError
from rcnas_edge.process import prepare_process

IMAGES = 512
"""Images that a model is calibrated on, unless it is said otherwise."""

BATCH = 64
"""Images of one batch, of an attack and of a calibration."""


@dataclass(frozen=True)
class Calibration:
    """Images float32 (N, C, H, W) in [0, 1], the first `clean` as they are, the others attacked under `threat`."""

    images: np.ndarray
    clean: int
    threat: str = ""

    def __post_init__(self) -> None:
        if self.images.dtype != np.float32 or self.images.ndim != 4 or not len(self.images):
            raise InputError(
                f"calibration images are float32 (N, C, H, W), got {self.images.dtype} {self.images.shape}"
            )
        if not 0 <= self.clean <= len(self.images):
            raise InputError(f"of {len(self.images)} calibration images 0 to all are clean, got {self.clean}")

    def batches(self) -> Iterator[np.ndarray]:
        """The images in batches (n, C, H, W)."""
        for start in range(0, len(self.images), BATCH):
            yield self.images[start : start + BATCH]

    def facts(self) -> dict[str, Any]:
        """How many images of which kind, as JSON values."""
        return {"clean": self.clean, "adversarial": len(self.images) - self.clean, "threat": self.threat}


def calibration_images(
    model: nn.Module, data: Dataset, threat: Threat, *, count: int = IMAGES, seed: int = 0
) -> Calibration:
    """`count` different training images, drawn by the seed; the second half under PGD on the model.

    The attack is the threat's own (its steps, a random start). The model is asked in eval mode on the device where it
    lies, and left as it was. Where the split has fewer images, all of it is taken.
    """
    if count < 2:
        raise InputError(f"a calibration takes at least 2 images, one clean and one adversarial, got {count}")
    prepare_process()
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:count]
    split = data.train.take(chosen)
    images, labels = split.floats(), torch.from_numpy(split.labels)
    clean = (len(images) + 1) // 2
    weights = next(model.parameters(), None)
    device = torch.device("cpu") if weights is None else weights.device
    generator = torch.Generator().manual_seed(seed)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for start in range(clean, len(images), BATCH):
            part = torch.from_numpy(images[start : start + BATCH]).to(device)
            truth = labels[start : start + BATCH].to(device)
            images[start : start + BATCH] = pgd(model, part, truth, threat, generator=generator).cpu().numpy()
    finally:
        for module, training in modes:
            module.training = training
    return Calibration(images, clean, str(threat))
