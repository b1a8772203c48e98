"""Verify the file that ships: attack its differentiable twin, replay every adversarial example on it, attack it itself.

An fp32 artefact has the checkpoint as its differentiable twin, once both agree (parity). What counts is the worst case
per example over every attack and every source, as the artefact sees it. The attacks: `rcnas_edge.examination`; the
signs that they were misled: `rcnas_edge.masking`; how all that becomes a decision: `rcnas_edge.decision`.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from torch import Tensor

from rcnas_edge.attacks import Threat
from rcnas_edge.decision import decide
from rcnas_edge.errors import InputError
from rcnas_edge.examination import Examination, Flags, Level, Progress, Subject
from rcnas_edge.verdict import Findings, Gates, Verdict

__all__ = ["LEVELS", "Gates", "Level", "Subject", "Verdict", "drawn_indices", "saved_flags", "verify"]

LEVELS = {
    "smoke": Level(
        images=256, seeds=1, square_queries=200, artefact_queries=200, margin=0.03, sweep_images=128, sweep_steps=20
    ),
    "standard": Level(
        images=1000, seeds=1, square_queries=500, artefact_queries=1000, margin=0.03, sweep_images=200, sweep_steps=40
    ),
    "publish": Level(
        images=10_000,
        seeds=3,
        square_queries=5000,
        artefact_queries=5000,
        margin=0.01,
        sweep_images=1000,
        sweep_steps=100,
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
    progress: Progress | None = None,
    reference_right: Flags | None = None,
) -> Verdict:
    """Is the artefact still robust? Attacks it on images that training has never seen, and decides.

    images (N, C, H, W) are float32 in [0, 1], labels (N,) classes; a level takes at most its number of them, drawn
    without replacement by the seed. `reference_right` are flags (clean, robust), each (N,), of a reference that was
    attacked before; they stand in for `subject.reference`. `arrays` is where the flags of every example and every
    adversarial image go (npz, see `Examination.save`). `progress` is told (what, share done). The same seed gives the
    same verdict, its seconds aside.
    """
    began, depth = time.perf_counter(), _level(level)
    drawn_images, drawn_labels, indices = _draw(images, labels, depth.images, seed)
    reference = None if reference_right is None else _drawn_flags(reference_right, len(images), indices)
    examination = Examination(
        subject,
        drawn_images,
        drawn_labels,
        threat,
        depth=depth,
        seed=seed,
        tell=progress or (lambda text, share: None),
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
    return np.ascontiguousarray(images[indices]), labels[indices].astype(np.int64), indices


def _drawn_flags(flags: Flags, total: int, indices: np.ndarray) -> Flags:
    clean, robust = (np.asarray(one, dtype=bool) for one in flags)
    if clean.shape != (total,) or robust.shape != (total,):
        raise InputError(
            f"a reference has one flag per image ({total}), got {clean.shape} clean, {robust.shape} robust"
        )
    if (robust & ~clean).any():
        raise InputError("what a reference gets right under attack it gets right without, these flags say otherwise")
    return clean[indices], robust[indices]


def _not_checked(findings: Findings, depth: Level) -> tuple[str, ...]:
    texts = [
        "other precisions (int8, fp16): the verdict is of the named file only",
        "devices and runtimes other than this machine's CPU",
        "a re-import of the exported graph: gradients come from the checkpoint",
        f"threats other than {findings.threat}, and sweeps over epsilon and steps",
        "differential evasion: a search for images that only the file, and not the checkpoint, gets wrong",
    ]
    if findings.eps_sweep:
        texts[3] = f"threats other than {findings.threat}; at other epsilons one weak attack on part of the images only"
    if findings.parity is None:
        texts[2] = "white-box attacks: there is no differentiable twin, and the exported graph is not re-imported"
    if findings.reference is None:
        texts.append("the loss against a teacher: no reference was given")
    if findings.n < depth.images:
        texts.append(f"{depth.images} images, as the level asks: there were {findings.n}")
    return tuple(texts)
