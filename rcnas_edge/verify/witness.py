"""What one model makes of the examples: the file, its twin or its parent, and every point that it was shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from rcnas_edge.attacks.threat import full_precision
from rcnas_edge.errors import InputError, UncheckedError
from rcnas_edge.export import Predict
from rcnas_edge.verify import masking
from rcnas_edge.verify.forms import Form, Formed

BATCH = 256
PIECE = 2**29
"""Bytes of images that are attacked at once: 43,690 of CIFAR's, 891 of 224 x 224 in colour."""

Ask = Callable[[np.ndarray], np.ndarray]
"""Points float32 (n, C, H, W), which may lie on disk, to outputs (n, classes)."""


class Witness:
    """One model on the examples: which it gets right, clean and under every point that it was shown."""

    def __init__(self, ask: Ask, images: np.ndarray, labels: np.ndarray, network: nn.Module | None = None) -> None:
        """images float32 (n, C, H, W), labels (n,); `network` is what is attacked, in the form of its outputs."""
        self.ask, self.labels = ask, labels
        self.outputs = ask(images)
        self.form = Form.of(self.outputs)
        self.network = network if network is None or self.form.trivial else Formed(network, self.form)
        self.clean = self.outputs.argmax(1) == labels
        self.robust = self.clean.copy()

    @classmethod
    def of_network(cls, network: nn.Module, images: np.ndarray, labels: np.ndarray) -> Witness:
        """A network in torch, on its own device."""
        return cls(lambda points: logits_of(network, points), images, labels, network)

    @property
    def attacked(self) -> nn.Module:
        """The network that attacks climb, in the form of its outputs."""
        assert self.network is not None, "the artefact itself has no gradients to climb"
        return self.network

    def shown(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs (n, classes) for points (n, C, H, W), one of each example, and whether each is right (n,)."""
        outputs = self.ask(points)
        right = outputs.argmax(1) == self.labels
        self.robust &= right
        return outputs, right


def asked(predict: Predict) -> Ask:
    """The artefact in batches; its answers are checked."""

    def ask(points: np.ndarray) -> np.ndarray:
        outputs = np.concatenate([predict(part) for part in batches(points)])
        if outputs.ndim != 2 or len(outputs) != len(points):
            raise InputError(f"an artefact gives logits (N, classes), got {outputs.shape} for {len(points)} images")
        if outputs.shape[1] < 2:
            raise InputError("an artefact tells two or more classes apart, this one gives a single number per image")
        if not np.isfinite(outputs).all():
            raise UncheckedError(
                "robustness is of finite logits, the artefact gives NaN or infinity: nothing is claimed about it"
            )
        return outputs

    return ask


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits float32 (N, classes) of a network in eval mode, on its own device, for images (N, C, H, W)."""
    with masking.evaluating(model), full_precision(), torch.no_grad():
        logits = torch.cat([model(on(part, model)).float().cpu() for part in batches(images)])
    if not torch.isfinite(logits).all():
        raise UncheckedError(
            "robustness is of finite logits, the attacked network gives NaN or infinity: nothing is claimed about it"
        )
    return logits.numpy()


def on(array: np.ndarray, model: nn.Module) -> Tensor:
    """A copy of the array on the model's device."""
    first = next((value for value in (*model.parameters(), *model.buffers())), torch.empty(0))
    return torch.from_numpy(np.array(array)).to(first.device)


def batches(points: np.ndarray, size: int = BATCH) -> Iterator[np.ndarray]:
    """Points (n, C, H, W) in memory, a batch at a time."""
    for begin in range(0, len(points), size):
        yield np.array(points[begin : begin + size], dtype=np.float32, order="C")


def pieces(index: np.ndarray, images: np.ndarray) -> list[np.ndarray]:
    """The index (m,) of images in parts that are attacked at once: memory holds about a PIECE of them."""
    count = max(BATCH, PIECE // max(images[0].nbytes, 1))
    return np.array_split(index, -(-len(index) // count)) if len(index) else []
