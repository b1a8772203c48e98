"""Doubles for verifications: a linear network whose truth is known, and the file that answers as a network does."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from rcnas_edge.export import Predict


class Linear(nn.Module):
    """Logits W x; `noise` is what an export did to the weights."""

    def __init__(self, noise: float = 0.0, scale: float = 1.0, *, classes: int = 4) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(classes, 16, generator=draw))
        self.weight.data += noise * torch.randn(classes, 16, generator=draw)
        self.weight.data *= scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - 0.5).flatten(1) @ self.weight.T


def numpy_of(model: nn.Module) -> Predict:
    """The artefact that answers as the model does."""

    def predict(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(images)).numpy()

    return predict
