"""Loads and runs a shipped file on a device: numpy and ONNX Runtime are all it needs, never torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.checkpoint import read_json
from rcnas_edge.errors import InputError, MissingPackage
from rcnas_edge.modelfile import check_model, read_model

if TYPE_CHECKING:
    import onnxruntime

MODEL = "model.onnx"
SLACK = 1e-6
"""Float rounding that a pixel may stand outside [0, 1]."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of N images: classes int64 (N,), their labels, and probabilities float32 (N, classes)."""

    classes: np.ndarray
    labels: tuple[str, ...]
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A shipped network, loaded: `image` is (C, H, W), `labels` one per class, `facts` what the file says of itself."""

    image: tuple[int, int, int]
    labels: tuple[str, ...]
    facts: Mapping[str, str]
    session: onnxruntime.InferenceSession

    def predict(self, images: np.ndarray) -> Prediction:
        """Classify images (N, C, H, W) of float pixels in [0, 1]; any N, InputError for anything else."""
        probabilities = _softmax(self.logits(images))
        classes = probabilities.argmax(axis=1).astype(np.int64)
        return Prediction(classes, tuple(self.labels[index] for index in classes), probabilities)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The network's raw output (N, classes) for images (N, C, H, W) of float pixels in [0, 1]."""
        images = self._checked(images)
        if not len(images):
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        logits = np.asarray(self.session.run(None, {self.session.get_inputs()[0].name: images})[0])
        if logits.shape != (len(images), len(self.labels)):
            raise InputError(
                f"the file must give one logit per label ({len(self.labels)}) and image, it gave {logits.shape} for "
                f"{len(images)} images: export it again"
            )
        return logits

    def _checked(self, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != self.image:
            hint = "; a single image becomes a batch by image[None]" if images.shape == self.image else ""
            raise InputError(f"images have the shape (N, {', '.join(map(str, self.image))}), got {images.shape}{hint}")
        if not np.issubdtype(images.dtype, np.floating):
            raise InputError(f"pixels are floats in [0, 1], got {images.dtype}: divide 8-bit images by 255")
        if images.size and not (images.min() >= -SLACK and images.max() <= 1 + SLACK):  # NaN is refused too
            raise InputError(
                f"pixels are in [0, 1], got {images.min():.4g} to {images.max():.4g}: divide 8-bit images by 255, and "
                "do not normalise, the network does that itself"
            )
        return np.ascontiguousarray(images, dtype=np.float32)


def load(path: str | Path, *, threads: int = 1) -> Classifier:
    """Open a shipped file (or a folder with model.onnx) for prediction on the CPU, with this many threads.

    If the sidecar `<file>.json` lies beside it, the file must have the sha256 that it names: it is then the very file
    that was verified. Raises InputError for a file that is missing, changed, or does not say what it takes.
    """
    path = Path(path)
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"a shipped network is a file, {path} is not there: give the .onnx file or its folder")
    serialised = read_model(path)
    _check_sidecar(path, serialised)
    session = open_session(serialised, path, threads)
    facts = dict(session.get_modelmeta().custom_metadata_map)
    image, labels = _json_list(facts, "image", path), _json_list(facts, "labels", path)
    if len(image) != 3 or not all(isinstance(size, int) and size > 0 for size in image):
        raise InputError(f"{path} must say its image as [C, H, W], it says {image}: export it again")
    return Classifier((image[0], image[1], image[2]), tuple(str(label) for label in labels), facts, session)


def _check_sidecar(path: Path, serialised: bytes) -> None:
    beside = path.with_name(path.name + ".json")
    if not beside.is_file():
        return
    values = read_json(beside)
    expected = values.get("sha256") if isinstance(values, dict) else None
    if expected != hashlib.sha256(serialised).hexdigest():
        raise InputError(
            f"{path} must be the file that {beside.name} names by sha256, it is not: it was changed after it was "
            "verified, copy both files again"
        )


def _json_list(facts: Mapping[str, str], key: str, path: Path) -> list[Any]:
    try:
        values = json.loads(facts[key])
    except (KeyError, ValueError) as error:
        raise InputError(
            f"a shipped file says its {key} in its metadata, {path} does not: export it with labels by rcnas-edge"
        ) from error
    if not isinstance(values, list) or not values:
        raise InputError(f"a shipped file says its {key} as a list, {path} says {facts[key]!r}: export it again")
    return values


def open_session(serialised: bytes, path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A model on ONNX Runtime's CPU; InputError, which names `path`, if it is none that the runtime loads."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage("onnxruntime", "running a shipped file", "pip install onnxruntime") from error
    if threads < 1:
        raise InputError(f"a network runs on at least one thread, got {threads}")
    check_model(serialised, path.name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(serialised, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} must be a model that ONNX Runtime loads, it is not: {reason}") from error


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float32 (N, classes), computed in float64 so that every row adds up to one."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
