"""What ships: an `Artefact` is one file with its sha256; an `Exporter` writes and runs it; `exporter(name)` finds one.

Exporters are plugins of the group `rcnas_edge.exporters`. What every one of them owes is here: the facts that the
file carries, the check that the file answers as the trained network does, and the sidecar beside the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from rcnas_edge.checkpoint import file_sha256, read_json, write_json
from rcnas_edge.errors import InputError
from rcnas_edge.plugins import EXPORTERS, check_owed, in_words, load
from rcnas_edge.space import Shape

if TYPE_CHECKING:
    from torch import nn

    from rcnas_edge.calibrating import Calibration

OPSET = 18
"""What torch's exporter writes without a conversion; every runtime of the last two years reads it."""

BATCHES = (1, 5, 16)
"""Batch sizes at which an exported file must answer as the network does: exports often freeze the batch."""

TOLERANCE = 1e-4
"""Largest logit drift of an fp32 file, relative to the largest logit."""

STEADINESS = 1e-3
"""Largest logit drift of a file in fp16 or int8 between two batch sizes, relative to the largest logit."""

Predict = Callable[[np.ndarray], np.ndarray]
"""Images float32 (N, C, H, W) in [0, 1] to logits (N, classes)."""


@dataclass(frozen=True)
class Artefact:
    """One exported file: where it is, what it is, and the sha256 of the very bytes that ship."""

    path: Path
    format: str
    precision: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if len(self.sha256) != 64 or self.bytes < 1:
            raise InputError(f"an artefact has a sha256 of 64 hex digits and bytes, got {self.sha256!r}, {self.bytes}")

    @classmethod
    def of(cls, path: Path, *, format: str, precision: str) -> Artefact:
        """The artefact that a file on disk is."""
        return cls(path, format, precision, file_sha256(path), path.stat().st_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "path": self.path.as_posix()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Artefact:
        """The opposite of `to_dict`; InputError on a missing or unknown value."""
        try:
            return cls(**{**values, "path": Path(values["path"])})
        except (KeyError, TypeError) as error:
            raise InputError(
                f"an artefact has path, format, precision, sha256 and bytes, got {dict(values)}"
            ) from error

    def check(self) -> None:
        """Raise InputError unless the file is there and still has these bytes."""
        if not self.path.is_file():
            raise InputError(f"the artefact {self.path} is a file, it is not there: export it again")
        if file_sha256(self.path) != self.sha256:
            raise InputError(
                f"the artefact {self.path} has sha256 {self.sha256[:12]}..., the file there has another: "
                "it was changed after the export, export and verify it again"
            )


class Exporter(Protocol):
    """Writes a network as a file of one format, and runs such a file."""

    format: str
    suffix: str
    """What the names of its files end in, as ".onnx"."""
    precisions: tuple[str, ...]
    """Those that it writes, of fp32, fp16 and int8; a plugin that names none writes fp32 (`precisions_of`)."""

    def settings(self) -> Mapping[str, Any]:
        """What a file depends on beside the network: the packages that write it, with versions, and how.

        Raises MissingPackage if one of them has to be installed first.
        """

    def export(
        self,
        model: nn.Module,
        path: Path,
        *,
        image: Shape,
        metadata: Mapping[str, str],
        opset: int = OPSET,
        precision: str = "fp32",
        calibration: Calibration | None = None,
    ) -> Artefact:
        """Write the network for images (C, H, W); the file carries `metadata` and is checked against the network.

        int8 wants calibration images. An exporter that writes fp32 alone needs neither of the last two parameters.
        """

    def predict(self, artefact: Artefact, *, threads: int = 1) -> Predict:
        """The file, loaded once, as a function from images to logits; UncheckedError if it cannot run here."""


def exporter(name: str) -> Exporter:
    """The exporter that a plugin registered under this name, as "onnx"."""
    made = load(EXPORTERS, name)
    try:
        if isinstance(made, type) or (callable(made) and not hasattr(made, "export")):
            made = made()
    except (Exception, SystemExit) as error:  # whatever a plugin raises
        raise InputError(f"the exporter {name!r} is made without arguments, it is not: {in_words(error)}") from error
    check_owed(made, ("format", "suffix", "settings", "export", "predict"), f"the exporter {name!r}")
    return cast(Exporter, made)


def precisions_of(kind: Exporter) -> tuple[str, ...]:
    """The precisions that an exporter writes; a plugin that says nothing of them writes fp32."""
    return tuple(getattr(kind, "precisions", ("fp32",)))


def export_in(
    kind: Exporter,
    precision: str,
    model: nn.Module,
    path: Path,
    *,
    image: Shape,
    metadata: Mapping[str, str],
    opset: int = OPSET,
    calibration: Calibration | None = None,
) -> Artefact:
    """Write the network by an exporter in one of its precisions; InputError for another one."""
    if precision not in precisions_of(kind):
        raise InputError(
            f"a file of the format {kind.format} is written in {', '.join(precisions_of(kind))}, got {precision!r}"
        )
    if precision == "fp32":
        return kind.export(model, path, image=image, metadata=metadata, opset=opset)
    return kind.export(
        model, path, image=image, metadata=metadata, opset=opset, precision=precision, calibration=calibration
    )


def calibrated(calibration: Calibration | None) -> Calibration:
    """The calibration that an int8 file needs; InputError if there is none."""
    if calibration is None:
        raise InputError("an int8 file is calibrated on images, got none: pass calibration=calibration_images(...)")
    return calibration


def facts(
    *, labels: Sequence[str], threat: str = "", digest: str = "", versions: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What a shipped file says of itself, as texts: labels (JSON list), threat model, checkpoint digest, versions.

    An exporter adds `image` (JSON [C, H, W]), `input_range` (JSON [0, 1]) and, where none is given, a digest of the
    weights. Nothing of the machine goes in: the same network gives the same file.
    """
    texts = {"labels": json.dumps([str(label) for label in labels]), "threat": threat, "digest": digest}
    if versions:
        texts["versions"] = json.dumps(dict(sorted(versions.items())))
    return {key: text for key, text in texts.items() if text}


def weights_digest(model: nn.Module) -> str:
    """The sha256, in hex, of a network's state: names, types, shapes and values."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu().numpy()
        sha.update(f"{name} {array.dtype} {array.shape};".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def relative_drift(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Per example (N,) the largest |logits - reference| (N, classes), relative to the largest |reference| of all."""
    if reference.shape != logits.shape or reference.ndim != 2:
        raise InputError(
            f"two models are compared on logits (N, classes) of one shape, got {reference.shape} and {logits.shape}: "
            "they have other classes, or the file's batch is frozen"
        )
    scale = max(float(np.abs(reference).max(initial=0.0)), 1e-12)
    return np.asarray(np.abs(logits.astype(np.float64) - reference).max(axis=1) / scale)


def check_answers(
    model: nn.Module, predict: Predict, image: Shape, *, name: str, tolerance: float = TOLERANCE
) -> float:
    """The largest relative logit drift between a network (on the CPU) and its file at every batch size of BATCHES.

    Raises InputError if it is above the tolerance: such a file must not ship.
    """
    import torch

    generator, worst = torch.Generator().manual_seed(0), 0.0
    for batch in BATCHES:
        images = torch.rand((batch, *image), generator=generator)
        with torch.no_grad():
            reference = model(images).numpy()
        try:
            logits = predict(images.numpy())
        except Exception as error:  # a runtime raises types of its own; a frozen batch is the usual cause
            raise InputError(
                f"an exported file takes any batch size, {name} fails on a batch of {batch}: {_first_line(error)}; "
                "remove shapes that are written as numbers from the network's forward"
            ) from error
        drift = float(relative_drift(reference, logits).max())
        worst = max(worst, drift)
        if not drift <= tolerance:  # a drift that is not a number is refused too
            raise InputError(
                f"an exported file answers as the network does (relative drift of the logits <= {tolerance:g}), "
                f"{name} drifts by {drift:.3g} on a batch of {batch}: the network does something that the format "
                "does not capture, such as randomness, numpy or a branch on values"
            )
    return worst


def sample(image: Shape, calibration: Calibration | None) -> np.ndarray:
    """Images (16, C, H, W) to compare answers on: from both ends of the calibration's, or uniform noise."""
    count = max(BATCHES)
    if calibration is None:
        return np.random.default_rng(0).random((count, *image), dtype=np.float32)
    return calibration.images[np.linspace(0, len(calibration.images) - 1, count).round().astype(int)]


def check_steady(model: nn.Module, predict: Predict, images: np.ndarray, *, name: str) -> float:
    """The largest relative logit drift between a network (on the CPU) and its file in fp16 or int8, which is told.

    Images float32 (16, C, H, W). Raises InputError if the file gives logits that are not finite, or other ones for
    the same images in batches of BATCHES.
    """
    import torch

    with torch.no_grad():
        reference = model(torch.from_numpy(images)).numpy()
    whole = predict(images)
    drift = float(relative_drift(reference, whole).max())
    if not np.isfinite(whole).all():
        raise InputError(
            f"a file gives finite logits, {name} does not: values of the network leave the range of its precision"
        )
    for batch in BATCHES:
        apart = float(relative_drift(whole[:batch], predict(images[:batch])).max())
        if not apart <= STEADINESS:
            raise InputError(
                f"a file gives an image the same logits in any batch (relative drift <= {STEADINESS:g}), {name} drifts "
                f"by {apart:.3g} in batches of {batch}: something in it depends on the other images of the batch"
            )
    return drift


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def sidecar(path: Path) -> Path:
    """The JSON file beside an artefact: model.onnx has model.onnx.json."""
    return path.with_name(path.name + ".json")


def write_sidecar(artefact: Artefact, metadata: Mapping[str, str], **more: Any) -> Path:
    """Write what an artefact is beside it, whole; its path is kept relative, so that the folder can be moved."""
    values = {"schema": 1, **artefact.to_dict(), "path": artefact.path.name, **more}
    write_json(sidecar(artefact.path), {**values, "metadata": dict(sorted(metadata.items()))})
    return sidecar(artefact.path)


def read_artefact(path: Path) -> Artefact:
    """Open an exported file by its sidecar; InputError if either is missing or the bytes are not those described."""
    values = read_json(sidecar(path))
    if not isinstance(values, dict) or values.get("schema") != 1:
        raise InputError(f"{sidecar(path)} must describe an artefact of schema 1, it does not: export it again")
    keys = ("format", "precision", "sha256", "bytes")
    artefact = Artefact.from_dict({"path": path, **{key: values[key] for key in keys if key in values}})
    artefact.check()
    return artefact


def read_built(path: Path) -> dict[str, Any]:
    """How an exported file was built, as its sidecar says it: what its exporter tells beside what every one tells."""
    values = read_json(sidecar(path))
    common = ("schema", "path", "format", "precision", "sha256", "bytes", "metadata")
    return {key: value for key, value in values.items() if key not in common}
