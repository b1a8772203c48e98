"""Verify the file that ships: attack its differentiable twin, replay every adversarial example on it, attack it itself.

The twin of a file is what `rcnas_edge.reimport` reads back from it; an fp32 artefact may have its checkpoint, once both
agree (parity). What counts is the worst case per example over every attack and every source, as the artefact sees it.
The attacks: `examination`; the signs that they were misled: `masking`; how all that becomes a decision: `decision`;
points of other files shown to this one: `replay`.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnas_edge.attacks import Threat
from rcnas_edge.checkpoint import file_sha256
from rcnas_edge.errors import InputError, UncheckedError
from rcnas_edge.export import weights_digest
from rcnas_edge.verdict import Findings, Gates, Verdict
from rcnas_edge.verify.decision import decide
from rcnas_edge.verify.examination import Examination
from rcnas_edge.verify.keeping import array_sha256, keeping
from rcnas_edge.verify.subject import Flags, Level, Progress, Subject

__all__ = ["LEVELS", "Gates", "Level", "Subject", "Verdict", "drawn_indices", "saved_flags", "verify"]

LEVELS = {
    "smoke": Level(
        images=256,
        seeds=1,
        square_queries=200,
        artefact_queries=200,
        margin=0.03,
        sweep_images=128,
        sweep_steps=20,
        step_images=64,
        evasion_steps=20,
    ),
    "standard": Level(
        images=1000,
        seeds=1,
        square_queries=500,
        artefact_queries=1000,
        margin=0.03,
        sweep_images=200,
        sweep_steps=40,
        step_images=200,
        evasion_steps=40,
    ),
    "publish": Level(
        images=10_000,
        seeds=3,
        square_queries=5000,
        artefact_queries=5000,
        margin=0.01,
        sweep_images=1000,
        sweep_steps=100,
        step_images=1000,
        evasion_steps=100,
    ),
}


def verify(
    subject: Subject,
    images: np.ndarray | Tensor,
    labels: np.ndarray | Tensor,
    threat: Threat,
    *,
    level: str | Level = "standard",
    gates: Gates = Gates(),  # noqa: B008 - a frozen value
    seed: int = 0,
    name: str = "model.onnx",
    sha256: str = "",
    arrays: Path | None = None,
    resume: bool = True,
    progress: Progress | None = None,
    reference_right: Flags | None = None,
    transferred: Path | None = None,
) -> Verdict:
    """Is the artefact still robust? Attacks it on images that training has never seen, and decides.

    images (N, C, H, W) are float32 in [0, 1], labels (N,) classes; a level takes at most its number of them, drawn
    without replacement by the seed. `reference_right` are flags (clean, robust), each (N,), of a reference that was
    attacked before; they stand in for `subject.reference`. `transferred` are the arrays of a verdict on another file of
    the same parent: the points in it that were made on the parent are shown to this file, in place of new ones.

    `arrays` is where the flags of every example and every adversarial image go (npz, see `Examination.save`). Each
    attack's points lie beside it once the attack is done, so a verification that was killed goes on with the attack it
    was at, to the same verdict, where the same call is made for a file that `sha256` names; not with `resume` False.
    `progress` is told (what, share done). The same seed gives the same verdict, its seconds aside.
    """
    began, depth = time.perf_counter(), _level(level)
    drawn_images, drawn_labels, indices = _draw(images, labels, depth.images, seed)
    reference = None if reference_right is None else _drawn_flags(reference_right, len(images), indices)
    resumed = resume and arrays is not None and sha256 != ""
    terms = None
    if resumed:
        terms = _terms(subject, drawn_images, drawn_labels, threat, depth, seed, sha256)
        terms["transferred"] = None if transferred is None else file_sha256(transferred)
    with _memory_told(), keeping(arrays, terms) as kept:
        examination = Examination(
            subject,
            drawn_images,
            drawn_labels,
            threat,
            depth=depth,
            seed=seed,
            tell=progress or (lambda text, share: None),
            kept=kept,
            attacked_reference=reference is not None,
            transferred=transferred,
        )
        findings = examination.run(reference)
        if arrays is not None:
            examination.save(arrays, indices)
    decision, reasons = decide(findings, gates, depth.margin)
    return Verdict(
        decision=decision,
        reasons=reasons,
        findings=findings,
        gates=gates,
        margin=depth.margin,
        level=level if isinstance(level, str) else "custom",
        seed=seed,
        name=name,
        sha256=sha256,
        not_checked=_not_checked(findings, depth),
        seconds=round(time.perf_counter() - began, 3),
        drawn=_drawn(len(indices), len(images), seed),
    )


def saved_flags(arrays: Path) -> Flags:
    """The flags (clean, robust), each (n,), of a verdict's saved arrays, as `reference_right` takes them."""
    with np.load(arrays, allow_pickle=False) as saved:
        return saved["clean"], saved["robust"]


def drawn_indices(total: int, count: int, seed: int) -> np.ndarray:
    """Which of `total` examples are taken, ascending: all, or `count` of them drawn without replacement by the seed."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:count]) if count < total else np.arange(total)


def _level(level: str | Level) -> Level:
    if isinstance(level, Level):
        return level
    if level not in LEVELS:
        raise InputError(f"a level of verification is one of {', '.join(LEVELS)}, got {level!r}")
    return LEVELS[level]


def _draw(
    images: np.ndarray | Tensor, labels: np.ndarray | Tensor, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At most `count` examples with their indices, in the order they had."""
    images, labels = (one.detach().cpu().numpy() if isinstance(one, Tensor) else one for one in (images, labels))
    if images.dtype != np.float32 or images.ndim != 4 or not len(images):
        raise InputError(f"images are float32 (N, C, H, W) with N >= 1, got {images.dtype} {images.shape}")
    if not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            f"images are in [0, 1], got {images.min():.4g} to {images.max():.4g}: divide 8-bit images by 255, and "
            "leave normalisation to the network"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels are one class per image ({len(images)}), got {labels.dtype} {labels.shape}")
    indices = drawn_indices(len(images), count, seed)
    taken = images if len(indices) == len(images) else images[indices]  # all of them may be gigabytes: no copy
    return np.ascontiguousarray(taken), labels[indices].astype(np.int64), indices


def _drawn(count: int, total: int, seed: int) -> str:
    if count == total:
        return f"all {total} images that were given"
    return f"{count} of {total} images, drawn without replacement by seed {seed}"


def _drawn_flags(flags: Flags, total: int, indices: np.ndarray) -> Flags:
    clean, robust = (np.asarray(one, dtype=bool) for one in flags)
    if clean.shape != (total,) or robust.shape != (total,):
        raise InputError(
            f"a reference has one flag per image ({total}), got {clean.shape} clean, {robust.shape} robust"
        )
    if (robust & ~clean).any():
        raise InputError("what a reference gets right under attack it gets right without, these flags say otherwise")
    return clean[indices], robust[indices]


def _terms(
    subject: Subject,
    images: np.ndarray,
    labels: np.ndarray,
    threat: Threat,
    depth: Level,
    seed: int,
    sha256: str,
) -> dict[str, Any]:
    """What every adversarial point depends on; the gates are not part of it."""
    networks = {name: getattr(subject, name) for name in ("differentiable", "parent", "naive", "reference")}
    return {
        "file": sha256,
        "networks": {name: None if one is None else weights_digest(one) for name, one in networks.items()},
        "images": array_sha256(images),
        "labels": array_sha256(labels),
        "threat": [threat.norm, threat.epsilon, threat.steps, threat.step],
        "level": asdict(depth),
        "seed": seed,
        "versions": [importlib.metadata.version(package) for package in ("rcnas-edge", "torch", "numpy")],
    }


@contextmanager
def _memory_told() -> Iterator[None]:
    """Memory that ran out is one sentence with a way out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in text:
            raise UncheckedError(
                "the attacks take more memory than this GPU has left, so nothing is claimed: run them with --device cpu"
            ) from error
        if isinstance(error, MemoryError) or "can't allocate memory" in text:
            raise UncheckedError(
                "the attacks take more memory than this machine has left, so nothing is claimed: give fewer images, or "
                "--level smoke"
            ) from error
        raise


def _not_checked(findings: Findings, depth: Level) -> tuple[str, ...]:
    """What nobody should read into the findings, one sentence each: what was done is not among it."""
    texts = [
        "other files of the same network, in another format or precision: the verdict is of the named file only",
        "devices and runtimes other than the one that answered here",
    ]
    if "rounding" in findings.twin:
        texts[1] += ": a processor without VNNI may saturate 8-bit sums, and answer otherwise"
    if findings.parity is None:
        texts.append("white-box attacks: there is no differentiable twin, and the exported graph is not re-imported")
    elif not findings.twin.startswith("re-import"):
        texts.append("a re-import of the exported graph: gradients come from the checkpoint")
    curves = ["epsilon"] * (not findings.eps_sweep) + ["steps"] * (not findings.step_sweep)
    threats = f"threats other than {findings.threat}"
    if findings.eps_sweep:
        threats += "; at other epsilons one weak attack on part of the images only"
    texts.append(threats + (f", and sweeps over {' and '.join(curves)}" if curves else ""))
    if findings.evasion is None:
        texts.append("differential evasion: a search for images that only the file, and not the checkpoint, gets wrong")
    if findings.checkpoint is None and findings.parity is not None:
        texts.append("the loss against the network that the file was made of: no checkpoint was given")
    if findings.reference is None:
        texts.append("the loss against a teacher: no reference was given")
    if findings.n < depth.images:
        texts.append(f"{depth.images} images, as the level asks: there were {findings.n}")
    return tuple(texts)
