"""The arrays that a verdict left (`Evidence.save`), read again: flags at once, points a batch at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rcnas_edge.errors import InputError
from rcnas_edge.verify.keeping import Fill, Spent, array_sha256, streamed
from rcnas_edge.verify.witness import BATCH

POINTS = "points/"


class Saved:
    """The arrays of one verdict: flags at once, points a batch at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = zipfile.ZipFile(path)
            names = [name.removesuffix(".npy") for name in self.file.namelist()]
            self.points = [name for name in names if name.startswith(POINTS)]
            large = {"images", *self.points, *(name for name in names if "/points/" in name)}
            with np.load(path, allow_pickle=False) as found:
                self.flags = {name: found[name] for name in names if name not in large}
            self.images_sha256 = str(self.flags["images/sha256"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} holds the arrays of a verdict, it does not: verify the file again") from error

    def __enter__(self) -> Saved:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def check_images(self, images: np.ndarray) -> None:
        """InputError unless these are the images (n, C, H, W) that were attacked."""
        if array_sha256(images) != self.images_sha256:
            raise InputError(
                f"points are transferred between the same images, {self.path.name} is of different ones: "
                "verify both with the same data, level and seed"
            )

    def check_alike(self, other: Saved) -> None:
        """InputError unless both attacked the very same images."""
        same = np.array_equal(self.flags["indices"], other.flags["indices"])
        if not same or self.images_sha256 != other.images_sha256:
            raise InputError(
                f"adversarial examples are replayed on verdicts of the same images, {self.path.name} and "
                f"{other.path.name} are of different ones: verify both with the same data, level and seed"
            )

    def made_on(self, *sources: str) -> dict[str, str]:
        """The keys of points by the name of their attack, of the first of these sources that has any."""
        for source in sources:
            prefix = f"{POINTS}{source}/"
            found = {key.removeprefix(prefix): key for key in self.points if key.startswith(prefix)}
            if found:
                return found
        return {}

    def copied(self, key: str) -> Fill:
        """Points as they are, at no cost."""

        def fill(points: np.ndarray) -> Spent:
            begin = 0
            for part in self.batches(key):
                points[begin : begin + len(part)] = part
                begin += len(part)
            return Spent()

        return fill

    def batches(self, key: str) -> Iterator[np.ndarray]:
        """An array (n, C, H, W), a batch at a time."""
        return streamed(self.file, key, BATCH)
