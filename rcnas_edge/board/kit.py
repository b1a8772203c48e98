"""A kit of models on a board, and the results that are written of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import zipfile
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rcnas_edge.board.words import Refused

KIT = 1
"""Version of the kit's manifest and of results.json; raised when either, or a specimen, changes."""


class Kit:
    """The files of a kit, in a folder or still in the zip; each is held against its hash when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place
        if not place.exists():
            raise Refused(
                f"a kit is a folder or zip of 'rcnas-edge profile kit', {place} is not there: name it by --kit"
            )
        try:
            self.archive = None if place.is_dir() else zipfile.ZipFile(place)
            raw = self._bytes("manifest.json")
            self.manifest: dict[str, Any] = json.loads(raw)
            version = self.manifest["kit"]
        except (KeyError, TypeError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise Refused(
                f"a kit has a manifest.json, {place} has none that can be read ({error}): copy it again"
            ) from error
        if version != KIT:
            raise Refused(f"this measure.py reads kits of version {KIT}, got {version!r}: take the one of the kit")
        self.digest = hashlib.sha256(raw).hexdigest()[:16]

    def read(self, name: str) -> bytes:
        """One file of the kit."""
        try:
            found = self._bytes(name)
        except (KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
            raise Refused(f"the kit's file {name} cannot be read ({error}): copy the kit again") from error
        if hashlib.sha256(found).hexdigest() != self.manifest["files"].get(name):
            raise Refused(f"the kit's file {name} is not as it was packed: copy the kit again")
        return found

    def check(self) -> str:
        """Read every file, and say that they are whole."""
        sizes = [len(self.read(name)) for name in self.manifest["files"]]
        return f"all {len(sizes)} files of the kit are as they were packed, {sum(sizes) / 1e6:.0f} MB"

    def _bytes(self, name: str) -> bytes:
        return (self.place / name).read_bytes() if self.archive is None else self.archive.read(name)


class Results:
    """results.json: what was timed so far; written whole, so that a kill leaves the last state or the one before."""

    SAVE_SECONDS = 3.0

    def __init__(self, path: Path, start: dict[str, Any]) -> None:
        """Go on from the file if it is there, of the same kit and machine; else begin with `start`."""
        self.path, self.content = path, start
        self.saved = -math.inf
        if not path.exists():
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            same = [(key, known[key], start[key]) for key in ("results", "kit", "runtime", "machine")]
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise Refused(
                f"{path} is to be the results of this kit, it cannot be read ({error}): move it away"
            ) from error
        for key, there, here in same:
            of = ("cpu", "features", "runtime") if key == "machine" else ()
            if [there[part] for part in of] != [here[part] for part in of] if of else there != here:
                raise Refused(f"{path} holds results of another {key}: move it away, or name another file by --out")
        self.content = known

    def save(self, *, now: bool = True) -> None:
        """Write the file: `now`, or if the last time is long enough ago."""
        if not now and time.monotonic() - self.saved < self.SAVE_SECONDS:
            return
        aside = self.path.with_name(f".{self.path.name}.part")
        try:
            with open(aside, "w", encoding="utf-8") as file:
                json.dump(self.content, file, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
        except OSError as error:
            raise Refused(
                f"{self.path} cannot be written ({error.strerror or error}): make room, or name another --out"
            ) from error
        self.saved = time.monotonic()

    def of(self, threads: int) -> dict[str, Any]:
        """What is known with so many threads."""
        empty: dict[str, Any] = {
            "pace_ms": None,
            "references_ms": [],
            "pairs": {},
            "networks": {},
            "failed": {},
            "seconds": 0.0,
        }
        return self.content["threads"].setdefault(str(threads), {**empty, "seen": {}, "when": now()})


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
