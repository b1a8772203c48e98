"""Opens a bundle on the board that it was made for: every file held against its hash, networks ready to be run.

The file stands alone: Python 3.9 or later, numpy and onnxruntime, or NVIDIA's package for an engine. A bundle is a
folder with a manifest.json, which names the sha256 of every other file and carries a digest of itself.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.board.images import images_of
from rcnas_edge.board.timing import open_session
from rcnas_edge.board.words import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BUNDLE = 1
"""Version of the manifest and of the results.json of a bundle."""
MANIFEST = "manifest.json"
REFERENCE, REPLAY, PACE = "reference.npz", "replay.npz", "pace.onnx"
BATCH = 16
"""Images that are run at once: what every engine takes."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""Of a bundle's file."""
MOST_BYTES, MOST_MANIFEST = 2_000_000_000, 20_000_000
"""Of a file of a bundle, and of its manifest."""
MOST_LETTERS, MOST_NUMBER = 1000, 10_000
"""Of a name, and of a size, a number of threads or an opset."""
MOST_UNPACKED = 50
"""How many times larger arrays become: pixels and points shrink to a tenth at the most."""
DAMAGED = (ArithmeticError, EOFError, KeyError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
           zipfile.BadZipFile, zlib.error)  # fmt: skip
"""What numpy and zipfile raise for files that are not whole."""
BLANK = "0" * 64
"""Stands in the manifest where its own digest does, while the digest is taken."""


def _bytes_of(path: Path, most: int) -> bytes:
    """The bytes of a regular file; Refused if it is none or has more than `most`."""
    there = path.stat()
    if not stat.S_ISREG(there.st_mode) or there.st_size > most:
        raise Refused(f"a bundle has files of at most {most} bytes, {path} is none: copy it again")
    return path.read_bytes()


def _check_types(manifest: Mapping[str, Any]) -> None:
    """ValueError unless the values of a manifest that this program uses are what they ought to be."""
    texts = [*manifest["labels"], *manifest["files"], *manifest["files"].values()]
    numbers = [*manifest["input"]["shape"], manifest["threads"]]
    for one in manifest["artefacts"]:
        version = one["runtime"]
        texts += [one["file"], one["of"], one["format"], version["version"], version["least"] or ""]
        numbers += [one["opset"]]
        if not (isinstance(one["tolerance"], float) and 0 < one["tolerance"] < math.inf):
            raise ValueError(f"a tolerance is a number above 0, it says {str(one['tolerance'])[:80]}")
    for text in texts:
        if not (isinstance(text, str) and text.isprintable() and len(text) <= MOST_LETTERS):
            raise ValueError(f"names are texts of at most {MOST_LETTERS} letters, it says {ascii(text)[:80]}")
    for number in numbers:
        if not (type(number) is int and 0 < number <= MOST_NUMBER):
            raise ValueError(f"sizes and threads are from 1 to {MOST_NUMBER}, it says {ascii(number)[:80]}")
    margin = manifest["margin"]
    if not (type(margin) in (int, float) and 0 <= margin <= 1):
        raise ValueError(f"the margin is a share, it says {ascii(margin)[:80]}")
    if not isinstance(manifest["labels"], list) or len(manifest["labels"]) < 2:
        raise ValueError("there are at least two labels")


def sealed(text: str) -> str:
    """The digest of a manifest's text in which BLANK stands for the digest."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


class Bundle:
    """A bundle's folder with its manifest; each file is held against its hash when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            text = _bytes_of(folder / MANIFEST, MOST_MANIFEST).decode("utf-8")
            self.manifest: dict[str, Any] = json.loads(text)
            version, told = self.manifest["bundle"], self.manifest["digest"]
            _check_types(self.manifest)
            self.files: dict[str, str] = {str(name): str(digest) for name, digest in self.manifest["files"].items()}
            self.artefacts: dict[str, dict[str, Any]] = {one["file"]: one for one in self.manifest["artefacts"]}
            channels, height, width = (int(size) for size in self.manifest["input"]["shape"])
            self.shape = channels, height, width
            self.labels = tuple(str(label) for label in self.manifest["labels"])
            self.fit = self.manifest["input"]["resize"] == "fit"
            self.main, self.threads = next(iter(self.artefacts)), int(self.manifest["threads"])
            for one in self.artefacts.values():
                _ = [(self.files[one[key]], self.artefacts[one[key]]) for key in ("file", "of")]
        except OSError as error:
            raise Refused(
                f"a bundle is a folder with a {MANIFEST}, {folder} has none that can be read "
                f"({error.strerror or error}): copy the whole folder"
            ) from error
        except (AttributeError, KeyError, StopIteration, TypeError, ValueError, RecursionError) as error:
            raise Refused(f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error}): copy it again") from error
        if version != BUNDLE:
            raise Refused(f"this program reads bundles of version {BUNDLE}, got {version!r}: take the run.py in it")
        if len(str(told)) != len(BLANK) or sealed(text.replace(str(told), BLANK, 1)) != told:
            raise Refused(f"{folder / MANIFEST} is not as it was made, its digest is another: copy it again")
        self.digest = str(told)
        for name in self.files:
            if not NAME.fullmatch(name):
                raise Refused(
                    f"a bundle's files lie in its own folder, {folder / MANIFEST} names {name!r}: do not use it"
                )

    def read(self, name: str) -> bytes:
        """One file of the bundle; Refused if it is not the one that the manifest names."""
        try:
            found = _bytes_of(self.folder / name, MOST_BYTES)
        except OSError as error:
            raise Refused(
                f"the bundle's file {name} cannot be read ({error.strerror or error}): copy it again"
            ) from error
        digest = hashlib.sha256(found).hexdigest()
        if digest != self.files.get(name):
            raise Refused(f"the bundle's file {name} is not as it was made{self._instead(name, digest)}: copy it again")
        return found

    def _instead(self, name: str, digest: str) -> str:
        """Which other file lies in its place, if it is one of the bundle."""
        other = next((other for other, of in self.files.items() if of == digest and other != name), None)
        return f" (sha256 {digest[:12]}...)" if other is None else f", it is {other}"

    def wrong(self) -> dict[str, str]:
        """Every file that is not as it was made, and what is wrong with it."""
        found = {}
        for name in self.files:
            try:
                self.read(name)
            except Refused as error:
                found[name] = str(error)
        return found

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of an .npz of the bundle."""
        raw = self.read(name)
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as packed:
                unpacked = sum(member.file_size for member in packed.infolist())
            if unpacked > MOST_UNPACKED * len(raw) + 1_000_000:
                raise ValueError(f"its {len(raw)} bytes would become {unpacked}")
            with np.load(io.BytesIO(raw), allow_pickle=False) as found:
                return {key: found[key] for key in found.files}
        except DAMAGED as error:
            raise Refused(
                f"the bundle's file {name} holds arrays, numpy {np.__version__} reads none: {error}"
            ) from error

    def artefact(self, name: str | None) -> dict[str, Any]:
        """What the manifest says of a network, of the main one without a name."""
        found = self.artefacts.get(name or self.main)
        if found is None:
            raise Refused(f"--model is one of {', '.join(self.artefacts)}, got {name!r}")
        return found

    def open(self, name: str | None = None, threads: int | None = None) -> Network:
        """A network of the bundle, ready to run, with the bundle's number of threads if no other is given."""
        about, count = self.artefact(name), self.threads if threads is None else threads
        if about["format"] != "onnx":
            raise Refused(
                f"{about['file']} is an engine for an NVIDIA GPU: take another --model, or run.py on that GPU"
            )
        return onnx_network(about, self.read(about["file"]), count)


@dataclass(frozen=True, eq=False)
class Network:
    """A function from images float32 (N, C, H, W) to logits (N, classes), any N; `runtime` says what computes it.

    `run` takes at most BATCH images. `of`, with its digest, is the ONNX file that an engine was built of, else the file
    itself.
    """

    file: str
    sha256: str
    of: str
    of_sha256: str
    runtime: str
    provider: str
    threads: int
    run: Callable[[np.ndarray], np.ndarray]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        parts = [self.run(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)

    def about(self) -> dict[str, Any]:
        """What results say of it."""
        names = ("file", "sha256", "of", "of_sha256", "runtime", "provider", "threads")
        return {name: getattr(self, name) for name in names}


def onnx_network(about: Mapping[str, Any], model: bytes, threads: int) -> Network:
    """An ONNX file of a bundle on ONNX Runtime's CPU."""
    if threads < 1:
        raise Refused(f"a network runs on at least one thread, got {threads}")
    runtime = check_runtime(about)
    try:
        session = open_session(model, threads)
    except Refused as error:
        why = " ".join(str(error.__cause__ or error).split())[:200]
        raise Refused(
            f"{runtime} does not run {about['file']}, which was checked with onnxruntime {about['runtime']['version']} "
            f"(opset {about['opset']}): install that version ({why})"
        ) from error
    feed = session.get_inputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {feed: np.ascontiguousarray(images, dtype=np.float32)})[0])

    digest = hashlib.sha256(model).hexdigest()
    return Network(about["file"], digest, about["file"], digest, runtime, "CPUExecutionProvider", threads, run)


def check_runtime(about: Mapping[str, Any]) -> str:
    """ONNX Runtime here, with its version; Refused if there is none, or one that is older than the file needs."""
    try:
        import onnxruntime
    except ImportError as error:
        raise Refused(
            f"running {about['file']} needs onnxruntime, which does not load ({error}): pip install onnxruntime"
        ) from error
    here, least = str(onnxruntime.__version__), about["runtime"]["least"]
    if least and numbers_of(here) < numbers_of(least):
        raise Refused(
            f"{about['file']} (opset {about['opset']}) needs onnxruntime {least} or later, here is {here}: install a "
            "later one, or ask for a bundle made with --opset 17"
        )
    return f"onnxruntime {here}"


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, to compare it by."""
    found = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of N images: classes int64 (N,), their labels, and probabilities float32 (N, classes)."""

    classes: np.ndarray
    labels: tuple[str, ...]
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)


def predicted(network: Network, given: Any, bundle: Bundle, *, fit: bool = False) -> Prediction:
    """Classify images of any kind that `images_of` reads."""
    images = images_of(given, bundle.shape, fit=fit or bundle.fit)
    return prediction(network(images), bundle.labels, len(images), network.file)


def prediction(logits: np.ndarray, labels: tuple[str, ...], count: int, name: str) -> Prediction:
    """Of the logits of so many images; Refused unless there is one for each label and image."""
    if not count:
        logits = np.zeros((0, len(labels)), dtype=np.float32)
    if logits.shape != (count, len(labels)):
        raise Refused(
            f"{name} must give one logit per label ({len(labels)}) and image, it gave {logits.shape} for {count} "
            "images: export it again"
        )
    probabilities = softmax(logits)
    classes = probabilities.argmax(axis=1).astype(np.int64)
    return Prediction(classes, tuple(labels[index] for index in classes), probabilities)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float32 (N, classes), computed in float64 so that every row adds up to one."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return (shifted / shifted.sum(axis=1, keepdims=True)).astype(np.float32)
