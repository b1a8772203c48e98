"""The stored examples of a bundle: test images with their labels, and every point that attacks made of them.

What the verdicts left (`Evidence.save`) has a point for each image and attack, most of which are the clean image again:
an attack leaves an image alone that was fooled before. Only points that differ from their image are kept, each once.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcnas_edge.checkpoint import ZIP_DATE
from rcnas_edge.errors import InputError
from rcnas_edge.verify.saved import POINTS, Saved

FOLDER = "bundle"
"""Of a run."""
MOST_IMAGES = 1000
MOST_BYTES = 400_000_000
"""Of images and points, uncompressed; EXPECTED points are reckoned with for an image."""
EXPECTED = 4


@dataclass(frozen=True, eq=False)
class Stored:
    """n images float32 (n, C, H, W) with labels int64 (n,), and m points (m, C, H, W), point k of image of[k] (m,).

    `by` (m,) says which of `attacks` made a point first. `picked` (n,) are the images' places among the `attacked` ones
    of the verdicts, and `indices` (n,) those in the test set.
    """

    images: np.ndarray
    labels: np.ndarray
    points: np.ndarray
    of: np.ndarray
    by: np.ndarray
    attacks: tuple[str, ...]
    picked: np.ndarray
    indices: np.ndarray
    attacked: int

    def arrays(self) -> dict[str, np.ndarray]:
        """What is written into replay.npz."""
        names = ("images", "labels", "points", "of", "by", "picked", "indices")
        return {**{name: getattr(self, name) for name in names}, "attacks": np.array(self.attacks)}


def stored(arrays: Mapping[str, Path], *, most: int = MOST_IMAGES, most_bytes: int = MOST_BYTES) -> Stored:
    """The examples of the verdicts on these files, whose arrays lie there; they are of the same images.

    At most so many images, evenly spread over those that were attacked, so that the points fit into so many bytes.
    """
    with ExitStack() as stack:
        saved = {name: stack.enter_context(Saved(path)) for name, path in arrays.items()}
        first = next(iter(saved.values()))
        for other in saved.values():
            first.check_alike(other)
        labels = first.flags["labels"]
        images = np.concatenate(list(first.batches("images")))
        count = min(len(labels), most, max(1, most_bytes // ((1 + EXPECTED) * images[0].nbytes)))
        picked = np.unique(np.linspace(0, len(labels) - 1, count).round().astype(np.int64))
        images = images[picked]
        points, of, by, attacks = _distinct(saved, images, picked)
    return Stored(
        images=images,
        labels=labels[picked].astype(np.int64),
        points=points,
        of=of,
        by=by,
        attacks=attacks,
        picked=picked,
        indices=first.flags["indices"][picked].astype(np.int64),
        attacked=len(labels),
    )


def _distinct(
    saved: Mapping[str, Saved], images: np.ndarray, picked: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Points of the images that are neither the image nor one another, of which image, and by which attack."""
    place = {int(row): number for number, row in enumerate(picked)}
    known = {(number, _digest(image)) for number, image in enumerate(images)}
    points: list[np.ndarray] = []
    of: list[int] = []
    by: list[int] = []
    attacks: list[str] = []
    for name, one in saved.items():
        for key in one.points:
            attacks.append(f"{name}: {key.removeprefix(POINTS)}")
            row = 0
            for batch in one.batches(key):
                for point in batch:
                    number = place.get(row)
                    row += 1
                    if number is None or (number, _digest(point)) in known:
                        continue
                    known.add((number, _digest(point)))
                    points.append(point)
                    of.append(number)
                    by.append(len(attacks) - 1)
    stacked = np.stack(points) if points else np.zeros((0, *images.shape[1:]), dtype=np.float32)
    return stacked, np.array(of, dtype=np.int64), np.array(by, dtype=np.int64), tuple(attacks)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz whose bytes follow from the arrays alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as packed:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy", ZIP_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with packed.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read_replay(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a bundle's stored examples; InputError if they cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as found:
            return {key: found[key] for key in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds the stored examples of a bundle, it cannot be read: export it again") from error
