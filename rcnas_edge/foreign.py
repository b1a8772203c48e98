"""Any ONNX classifier as what `verify` takes: a function and a network on images in [0, 1], whatever the file wants.

A file says how large its images are and in which order it has their axes; what range of numbers it was trained on only
its user knows (`rcnas_edge.feed`). Both are applied alike before the file and before its re-import.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rcnas_edge.deploy import open_session
from rcnas_edge.errors import InputError
from rcnas_edge.export import Predict
from rcnas_edge.feed import Feed
from rcnas_edge.reimport import Agreement, Reimported, agreement, reimport
from rcnas_edge.space import Shape

if TYPE_CHECKING:
    import onnxruntime

KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
"""Types of images that a file may take, as ONNX Runtime calls them."""


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
    try:
        serialised = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} must be an ONNX file that can be read, it is not: {error.strerror}") from error
    session = open_session(serialised, path, threads)
    for what, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        if len(values) != 1:
            names = ", ".join(value.name for value in values)
            raise InputError(f"a classifier has one {what}, {path.name} has {len(values)}: {names}")
    batch, layout, told = _layout(session.get_inputs()[0], feed, image, data, path.name)
    run = _Session(session, feed, layout, image[0], batch, path.name)
    _check_output(run.predict(np.zeros((2, *image), dtype=np.float32)), classes, data, path.name)
    if batch is not None:
        filled = "" if batch == 1 else ", the last batch filled up with its last image"
        told += (f"{path.name} takes batches of {batch} only: images are given {batch} at a time{filled}",)
    return OnnxFile(
        path=path,
        sha256=hashlib.sha256(serialised).hexdigest(),
        bytes=len(serialised),
        image=image,
        classes=classes,
        batch=batch,
        layout=layout,
        feed=feed,
        predict=run.predict,
        told=(*told, f"{path.name} is given {feed.words()}"),
    )


class _Session:
    """A session fed with images in [0, 1]."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        feed: Feed,
        layout: str,
        channels: int,
        batch: int | None,
        name: str,
    ) -> None:
        self.session, self.layout, self.batch, self.name = session, layout, batch, name
        self.mean, self.std = feed.moments(channels)
        self.low, self.reach = np.float32(feed.low), np.float32(feed.high - feed.low)
        self.input, self.kind = session.get_inputs()[0].name, KINDS[session.get_inputs()[0].type]

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Images float32 (N, C, H, W) in [0, 1] to the output float32 (N, classes)."""
        given = self.low + self.reach * ((images - self.mean) / self.std)
        given = given.transpose(0, 2, 3, 1) if self.layout == "nhwc" else given
        size = self.batch or max(len(given), 1)
        parts = [self._run(given[at : at + size]) for at in range(0, len(given), size)]
        return np.concatenate(parts)

    def _run(self, images: np.ndarray) -> np.ndarray:
        """One batch; of a fixed size what is missing is the last image again."""
        missing = 0 if self.batch is None else self.batch - len(images)
        given = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images
        try:
            output = self.session.run(None, {self.input: np.ascontiguousarray(given, dtype=self.kind)})[0]
        except Exception as error:  # ONNX Runtime's exceptions have no public base
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{self.name} must take a batch of {len(given)} images, it does not: {reason}") from error
        flat = np.asarray(output, dtype=np.float32).reshape(len(output), -1) if np.ndim(output) else output
        return flat[: len(images)] if np.ndim(flat) == 2 else np.asarray(flat)


def _layout(value: Any, feed: Feed, image: Shape, data: str, name: str) -> tuple[int | None, str, tuple[str, ...]]:
    """The fixed batch size or None, the layout, and what was assumed; InputError if the images do not fit."""
    sizes = [size if isinstance(size, int) and size > 0 else None for size in value.shape or []]
    if value.type not in KINDS:
        raise InputError(f"images are real numbers, the input {value.name!r} of {name} is of type {value.type}")
    shown = "x".join("N" if size is None else str(size) for size in sizes)
    if len(sizes) != 4:
        raise InputError(
            f"images are a batch of four dimensions, the input {value.name!r} of {name} has {len(sizes)} ({shown})"
        )
    channels, height, width = image
    wanted = {"nchw": (channels, height, width), "nhwc": (height, width, channels)}
    fitting = [
        layout
        for layout, shape in wanted.items()
        if all(size in (None, asked) for size, asked in zip(sizes[1:], shape, strict=True))
    ]
    chosen = feed.layout or (fitting[0] if fitting else "")
    if chosen not in fitting:
        asked = "" if not feed.layout else f" as {feed.layout.upper()}"
        raise InputError(
            f"a file is verified on images that it takes, {name} takes {shown}{asked} and {data} has "
            f"{channels}x{height}x{width} (channels x height x width): {_way_out(sizes, feed, fitting, image)}"
        )
    if feed.layout:
        return sizes[0], chosen, ()
    doubt = "; --layout nhwc if that is wrong" if len(fitting) > 1 else ""
    return sizes[0], chosen, (f"{name} takes images as {chosen.upper()} (its input is {shown}){doubt}",)


def _way_out(sizes: list[int | None], feed: Feed, fitting: list[str], image: Shape) -> str:
    if feed.layout and fitting:
        return f"leave --layout out, or say {fitting[0]}"
    own = {sizes[1], sizes[3]}
    if image[0] not in own and None not in own:
        return "they differ in channels (1 is grey, 3 is colour), choose another data set"
    return "choose another data set, or --dataset folder with --image-size"


def _check_output(output: np.ndarray, classes: int, data: str, name: str) -> None:
    if output.ndim != 2 or len(output) != 2:
        raise InputError(f"a classifier gives (N, classes), {name} gives {output.shape} for 2 images")
    if output.shape[1] != classes:
        raise InputError(
            f"a file is verified on data of its own classes, {name} has {output.shape[1]} and {data} has {classes}"
        )
