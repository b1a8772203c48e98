"""Arrays on disk while attacks go on: each is there whole once its attack is done, and is not made again.

A folder beside the arrays' final place holds one .npy per attack, which is read back without being loaded, and what
the attack cost. It belongs to the terms of one verification; one that was killed goes on where it was. In the end the
folder becomes one .npz, copied a megabyte at a time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import numpy as np

from rcnas_edge.checkpoint import digest_of, read_json, write_json, write_whole
from rcnas_edge.errors import InputError

TERMS = "terms.json"
CHUNK = 2**20
"""Bytes that are copied at once."""


@dataclass(frozen=True)
class Spent:
    """What an attack cost: images pushed forwards and backwards, and seconds."""

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.forwards + other.forwards, self.backwards + other.backwards, self.seconds + other.seconds
        )  # fmt: skip


Fill = Callable[[np.ndarray], Spent]
"""Writes an attack's points into an array that lies on disk."""


class Keeping:
    """A folder of arrays by key, each written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys: list[str] = []

    def made(self, key: str, shape: tuple[int, ...], fill: Fill) -> tuple[np.ndarray, Spent]:
        """The float32 array of this key and what it cost; `fill` makes it, unless it was made before."""
        array, record = self._file(key, ".npy"), self._file(key, ".json")
        if not (array.is_file() and record.is_file()):

            def write(aside: Path) -> None:
                points = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float32, shape=shape)
                _reserve(aside)
                spent = fill(points)
                points.flush()
                write_json(record, asdict(spent))

            record.unlink(missing_ok=True)
            write_whole(array, write)
        self.keys.append(key)
        return np.load(array, mmap_mode="r"), Spent(**read_json(record))

    def array(self, key: str) -> np.ndarray:
        """The array of this key, on disk."""
        found: np.ndarray = np.load(self._file(key, ".npy"), mmap_mode="r")
        return found

    def pack(self, path: Path, small: Mapping[str, np.ndarray]) -> None:
        """One .npz of the arrays, after the `small` ones that never were on disk; then the folder goes."""

        def write(aside: Path) -> None:
            with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
                write_members(packed, small)
                for key in self.keys:
                    with open(self._file(key, ".npy"), "rb") as array:
                        copy_member(packed, key, array)

        write_whole(path, write)
        shutil.rmtree(self.folder)

    def _file(self, key: str, suffix: str) -> Path:
        return self.folder / (quote(key, safe=" ()") + suffix)


@contextmanager
def keeping(arrays: Path | None, terms: Mapping[str, Any] | None) -> Iterator[Keeping]:
    """Where points are kept for the arrays' final place; with None they are thrown away in the end.

    What an earlier verification left is used if it was made on these terms; terms of None say that nobody can tell.
    """
    if arrays is None:
        with TemporaryDirectory(prefix="rcnas-edge-") as scratch:
            yield Keeping(Path(scratch))
        return
    folder = arrays.with_name(f".{arrays.name}.parts")
    digest = None if terms is None else digest_of(terms)
    if digest is None or _read_terms(folder / TERMS) != digest:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / TERMS, {"digest": digest})
    try:
        yield Keeping(folder)
    finally:
        if folder.is_dir() and not any(folder.glob("*.npy")):
            shutil.rmtree(folder)


def _reserve(path: Path) -> None:
    """Take the room of a sparse file; OSError if there is none, where writing to its map would end the process."""
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def _read_terms(path: Path) -> str | None:
    try:
        return str(read_json(path)["digest"])
    except (InputError, KeyError, TypeError):
        return None


def array_sha256(array: np.ndarray) -> str:
    """The sha256 of an array's numbers, row by row, in hex."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def write_members(packed: zipfile.ZipFile, arrays: Mapping[str, np.ndarray]) -> None:
    """Add arrays to an .npz."""
    for key, array in arrays.items():
        with packed.open(f"{key}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def copy_member(packed: zipfile.ZipFile, key: str, array: Any) -> None:
    """Add what an open .npy holds to an .npz, a chunk at a time."""
    with packed.open(f"{key}.npy", "w", force_zip64=True) as member:
        shutil.copyfileobj(array, member, CHUNK)


def streamed(packed: zipfile.ZipFile, key: str, size: int) -> Iterator[np.ndarray]:
    """An array (n, ...) of an .npz, `size` rows at a time, without loading it whole."""
    with packed.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(member)
        if by_column or dtype.hasobject or not shape:
            raise InputError(f"the array {key} of a verdict lies row by row and holds numbers, this one does not")
        row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        for begin in range(0, shape[0], size):
            count = min(size, shape[0] - begin)
            yield np.frombuffer(member.read(count * row), dtype).reshape(count, *shape[1:])
