"""What a network answers on a board beside what it answered where it was checked: drift, and rates of a replay.

The file stands alone: Python 3.9 or later and numpy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.board.bundle import REFERENCE, REPLAY
from rcnas_edge.board.words import Refused

if TYPE_CHECKING:
    from rcnas_edge.board.bundle import Bundle, Network


def references(bundle: Bundle) -> dict[str, np.ndarray]:
    """The images (n, C, H, W) that answers are known of, and the logits/FILE (n, classes); Refused if they are none."""
    found = bundle.arrays(REFERENCE)
    images = found.get("images", np.zeros(0))
    whole = _are_images(images, bundle) and len(images) > 0
    for name in bundle.artefacts:
        logits = found.get(f"logits/{name}")
        whole = whole and (logits is None or _are_numbers(logits, (len(images), len(bundle.labels))))
    return _whole(found, whole, REFERENCE)


def examples(bundle: Bundle) -> dict[str, np.ndarray]:
    """What a replay is made of: images, labels (n,), points, of (m,) and answers of the host; Refused if they are none.

    Point k was made of image `of[k]`.
    """
    found = bundle.arrays(REPLAY)
    images, labels, points, of = (found.get(key, np.zeros(0)) for key in ("images", "labels", "points", "of"))
    whole = _are_images(images, bundle) and _are_images(points, bundle) and len(images) > 0
    whole = whole and _are_indices(labels, len(images), len(bundle.labels))
    whole = whole and _are_indices(of, len(points), len(images))
    for name in bundle.artefacts:
        if whole and f"host/{name}/images" in found:
            there, there_points = found[f"host/{name}/images"], found.get(f"host/{name}/points", np.zeros(0))
            whole = _are_indices(there, len(images), len(bundle.labels))
            whole = whole and _are_indices(there_points, len(points), len(bundle.labels))
    return _whole(found, whole, REPLAY)


def _are_numbers(values: np.ndarray, shape: tuple[int, ...]) -> bool:
    return values.dtype.kind == "f" and values.shape == shape and bool(np.isfinite(values).all())


def _are_images(values: np.ndarray, bundle: Bundle) -> bool:
    return values.dtype == np.float32 and _are_numbers(values, (len(values), *bundle.shape))


def _are_indices(values: np.ndarray, count: int, below: int) -> bool:
    inside = values.dtype.kind in "iu" and values.shape == (count,)
    return inside and bool(((values >= 0) & (values < below)).all())


def _whole(found: dict[str, np.ndarray], whole: bool, name: str) -> dict[str, np.ndarray]:
    if not whole:
        raise Refused(f"the arrays in the bundle's file {name} are not those of its networks: ask for a new bundle")
    return found


def compared(network: Network, images: np.ndarray, expected: np.ndarray, tolerance: float) -> dict[str, Any]:
    """How far the logits of images (n, C, H, W) are from the expected ones (n, classes), relative to the largest."""
    logits = network(images)
    if logits.shape != expected.shape:
        raise Refused(f"{network.file} gave logits {logits.shape} where {expected.shape} were expected: copy it again")
    finite = bool(np.isfinite(logits).all())
    drift = float(np.abs(logits.astype(np.float64) - expected).max() / np.abs(expected).max()) if finite else None
    same = int((logits.argmax(1) == expected.argmax(1)).sum())
    passed = finite and drift is not None and drift <= tolerance
    return {**network.about(), "drift": drift, "tolerance": tolerance, "same": same, "n": len(images), "passed": passed}


def replayed(network: Network, stored: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a network gets right of the n stored images and of the m points that attacks made of them.

    `right` and `right_points` are bits, as hex; an image is robust if it is right as it is and at each of its points.
    `host` has the same rates of the file that the network is or was made of, where it was checked, and how many of all
    n + m answers are the same; None for a file that no answers were stored of.
    """
    labels, of = stored["labels"], stored["of"]
    classes, of_points = (network(stored[key]).argmax(1) for key in ("images", "points"))
    right, right_points = classes == labels, of_points == labels[of]
    entry: dict[str, Any] = {
        **network.about(),
        "n": len(labels),
        "points": len(of),
        "clean": rate(right),
        "robust": rate(still_right(right, right_points, of)),
        "right": hexed(right),
        "right_points": hexed(right_points),
        "host": None,
    }
    if f"host/{network.of}/images" in stored:
        there, there_points = stored[f"host/{network.of}/images"], stored[f"host/{network.of}/points"]
        clean = there == labels
        robust = still_right(clean, there_points == labels[of], of)
        same = int((there == classes).sum() + (there_points == of_points).sum())
        entry["host"] = {"clean": rate(clean), "robust": rate(robust), "same": same}
    return entry


def still_right(right: np.ndarray, right_points: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Which images (n,) are right as they are and at each of their points (m,), point k being one of image of[k]."""
    found = right.copy()
    np.logical_and.at(found, of, right_points)
    return found


def hexed(flags: np.ndarray) -> str:
    """Flags as hex, eight to a byte, the first in the highest bit."""
    return np.packbits(flags).tobytes().hex()


def rate(flags: np.ndarray) -> dict[str, Any]:
    """A share with its 95 % interval (Wilson 1927)."""
    hits, total, z = int(flags.sum()), len(flags), 1.959963984540054
    value, square = hits / total, 1.959963984540054**2
    middle = (value + square / (2 * total)) / (1 + square / total)
    half = z / (1 + square / total) * math.sqrt(value * (1 - value) / total + square / (4 * total**2))
    return {
        "hits": hits,
        "total": total,
        "value": value,
        "low": max(0.0, middle - half),
        "high": min(1.0, middle + half),
    }
