"""A session of any ONNX classifier, fed with images in [0, 1]: which of its axes is which, and whether it fits.

Without torch, so that a file can be tried in a process of its own that starts in a moment (`trial`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.deploy import open_session
from rcnas_edge.errors import InputError
from rcnas_edge.pipeline.feed import Feed
from rcnas_edge.space import Shape

if TYPE_CHECKING:
    import onnxruntime

KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
"""Types of images that a file may take, as ONNX Runtime calls them."""


@dataclass(frozen=True)
class Answering:
    """A loaded file: `predict` takes images float32 (N, C, H, W) in [0, 1] to its output (N, classes).

    `batch` is what the file fixes or None, `layout` how it has its axes; `told` is what was assumed of it.
    """

    predict: Callable[[np.ndarray], np.ndarray]
    batch: int | None
    layout: str
    told: tuple[str, ...]


def open_answering(
    serialised: bytes, path: Path, feed: Feed, *, image: Shape, classes: int, data: str, threads: int
) -> Answering:
    """Load a classifier and show it two images; every misfit with the data set, called `data`, is one InputError."""
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
    return Answering(run.predict, batch, layout, (*told, f"{path.name} is given {feed.words()}"))


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
