"""Loads and runs what ships on a device: numpy and ONNX Runtime are all it needs, never torch.

It reads images, and holds files against their hashes, as the run.py of a bundle does (`board.images`, `board.bundle`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.board.bundle import MANIFEST, Bundle, Prediction, prediction
from rcnas_edge.board.engine import open_network
from rcnas_edge.board.images import images_of
from rcnas_edge.board.words import Refused
from rcnas_edge.checkpoint import read_json
from rcnas_edge.errors import InputError, MissingPackage
from rcnas_edge.modelfile import check_model, read_model

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["Classifier", "Prediction", "load", "open_session"]

MODEL = "model.onnx"


@dataclass(frozen=True, eq=False)
class Classifier:
    """A shipped network, loaded: `image` is (C, H, W), `labels` one per class, `facts` what is said of the file.

    `run` takes float32 (N, C, H, W) in [0, 1] to logits (N, classes). With `fit`, as the bundle's manifest may declare,
    image files of another size are scaled until their shorter side fits, and their centre is cut out.
    """

    image: tuple[int, int, int]
    labels: tuple[str, ...]
    facts: Mapping[str, Any]
    run: Callable[[np.ndarray], np.ndarray]
    fit: bool = False

    def predict(self, images: Any) -> Prediction:
        """Classify an image or a list of them: paths, images of Pillow, or arrays, of which each may hold N images.

        Arrays are 8-bit pixels or floats in [0, 1], (C, H, W) or (H, W, C), or (H, W) where C is 1. InputError for what
        is of another size, kind or range.
        """
        with _input_errors():
            pixels = images_of(images, self.image, fit=self.fit)
            return prediction(self.logits(pixels), self.labels, len(pixels), "the file")

    def logits(self, images: Any) -> np.ndarray:
        """The network's raw output (N, classes) for images as `predict` takes them."""
        with _input_errors():
            pixels = images_of(images, self.image, fit=self.fit)
        if not len(pixels):
            return np.zeros((0, len(self.labels)), dtype=np.float32)
        return np.asarray(self.run(pixels))


def load(path: str | Path, *, threads: int | None = None, model: str | None = None) -> Classifier:
    """Open a bundle (its folder, or one of the files in it), or a single exported file, for prediction.

    Of a bundle it is the main network or `model`, with the bundle's number of threads if none is given; every byte that
    is used must be the one that its manifest names. A single file has one thread, and if its sidecar `<file>.json`
    lies beside it the sha256 that this names. Raises InputError for a file that is missing, changed or swapped, a
    runtime of another version than the file needs, or a file that does not say what it takes.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST).is_file():
        return _of_bundle(folder, path.name if path.is_file() and path.name != MANIFEST else model, threads)
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"a shipped network is a file, {path} is not there: give the .onnx file or its folder")
    serialised = read_model(path)
    _check_sidecar(path, serialised)
    session = open_session(serialised, path, 1 if threads is None else threads)
    facts = dict(session.get_modelmeta().custom_metadata_map)
    image, labels = _json_list(facts, "image", path), _json_list(facts, "labels", path)
    if len(image) != 3 or not all(isinstance(size, int) and size > 0 for size in image):
        raise InputError(f"{path} must say its image as [C, H, W], it says {image}: export it again")
    feed = session.get_inputs()[0].name
    return Classifier(
        (image[0], image[1], image[2]),
        tuple(str(label) for label in labels),
        facts,
        lambda images: np.asarray(session.run(None, {feed: images})[0]),
    )


def _of_bundle(folder: Path, model: str | None, threads: int | None) -> Classifier:
    with _input_errors():
        bundle = Bundle(folder)
        about = bundle.artefact(model)
        if about["format"] == "onnx":
            check_model(bundle.read(about["file"]), about["file"])
        network = open_network(bundle, model, threads)
    facts = {**bundle.manifest, **about, "digest": bundle.digest}
    return Classifier(bundle.shape, bundle.labels, facts, network, bundle.fit)


@contextmanager
def _input_errors() -> Iterator[None]:
    """What the modules that stand alone refuse, as our own error."""
    try:
        yield
    except Refused as error:
        raise InputError(str(error)) from error


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
        # without a fallback: it would print that it tries the same once more
        return onnxruntime.InferenceSession(
            serialised, options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} must be a model that ONNX Runtime loads, it is not: {reason}") from error
