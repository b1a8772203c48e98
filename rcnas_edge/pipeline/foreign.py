"""Any ONNX classifier as what `verify` takes: a function and a network on images in [0, 1], whatever the file wants.

A file says how large its images are and in which order it has their axes; what range of numbers it was trained on only
its user knows (`rcnas_edge.pipeline.feed`). Both are applied alike before the file and before its re-import.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rcnas_edge.export import Predict
from rcnas_edge.modelfile import read_model
from rcnas_edge.pipeline.answering import open_answering
from rcnas_edge.pipeline.feed import Feed
from rcnas_edge.reimport import Agreement, Reimported, agreement, reimport
from rcnas_edge.space import Shape


class Fed(nn.Module):
    """A re-imported file on images (N, C, H, W) in [0, 1]: logits (N, classes)."""

    mean: Tensor
    std: Tensor
    low: Tensor
    reach: Tensor

    def __init__(self, network: Reimported, feed: Feed, layout: str, channels: int) -> None:
        super().__init__()
        self.network, self.quantised = network, network.quantised
        self.last = layout == "nhwc"
        given = dict(zip(("mean", "std"), map(torch.from_numpy, feed.moments(channels)), strict=True))
        given |= {"low": torch.tensor(feed.low), "reach": torch.tensor(feed.high - feed.low)}
        for name, value in given.items():
            self.register_buffer(name, value)

    def forward(self, images: Tensor) -> Tensor:
        """What the file gives for these images."""
        given = self.low + self.reach * ((images - self.mean) / self.std)
        return self.network(given.permute(0, 2, 3, 1) if self.last else given).flatten(1)


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX classifier, loaded: `predict` takes images float32 (N, C, H, W) in [0, 1] to its output (N, classes).

    `image` is (C, H, W), `batch` what the file fixes or None, `layout` how it has its axes; `told` is what was assumed
    of it, one sentence each.
    """

    path: Path
    sha256: str
    bytes: int
    image: Shape
    classes: int
    batch: int | None
    layout: str
    feed: Feed
    predict: Predict
    told: tuple[str, ...]

    def twin(self, *, straight_through: bool = True) -> Fed:
        """Its re-import on the same images; InputError names what of it is not supported."""
        network = reimport(self.path, straight_through=straight_through)
        return Fed(network, self.feed, self.layout, self.image[0]).eval()

    def agreement(self, twin: nn.Module, images: np.ndarray) -> Agreement:
        """File against its re-import (on the CPU) on images (N, C, H, W) in [0, 1]."""
        with torch.no_grad():
            found = twin(torch.from_numpy(images)).numpy()
        return agreement(self.predict(images), found, quantised=bool(getattr(twin, "quantised", False)))


def open_file(path: Path, feed: Feed, *, image: Shape, classes: int, data: str, threads: int = 1) -> OnnxFile:
    """Load a classifier for images (C, H, W) and classes of a data set; every misfit is one InputError.

    `data` is what the data set is called.
    """
    path = Path(path)
    serialised = read_model(path)
    answering = open_answering(serialised, path, feed, image=image, classes=classes, data=data, threads=threads)
    return OnnxFile(
        path=path,
        sha256=hashlib.sha256(serialised).hexdigest(),
        bytes=len(serialised),
        image=image,
        classes=classes,
        feed=feed,
        **vars(answering),
    )
