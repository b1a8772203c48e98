"""results.json of a bundle: what was found on a board so far, written whole after every step.

The file stands alone: Python 3.9 or later and numpy.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rcnas_edge.board.bundle import BUNDLE, REPLAY, Bundle
from rcnas_edge.board.machine import machine
from rcnas_edge.board.words import Refused


class Found:
    """results.json: what every command found on this board so far, about one bundle."""

    def __init__(self, bundle: Bundle, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "results": BUNDLE,
            "bundle": {
                "digest": bundle.digest,
                "made_by": bundle.manifest["made_by"],
                "replay": bundle.files.get(REPLAY),
            },
            "machine": machine(""),
            "selftest": None,
            "bench": [],
            "replay": [],
            "predict": [],
            "engines": [],
        }
        del self.content["machine"]["runtime"]  # each entry has its own
        if not path.exists():
            return
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            of_bundle = set(known) == set(self.content)
        except (OSError, TypeError, ValueError):
            known, of_bundle = None, False
        if not of_bundle:
            raise Refused(f"{path} is not the results of a bundle, it would be lost: name another file by --out")
        if known["bundle"] == self.content["bundle"] and known["machine"] == self.content["machine"]:
            self.content = known
        else:
            say(f"{path} was of another bundle or machine: it begins anew")

    def keep(self, part: str, entry: dict[str, Any], *keys: str) -> None:
        """Add an entry to a part in the place of one with the same values of these keys, and write the file whole."""
        entry = {**entry, "when": now()}
        others = [one for one in self.content[part] if any(one[key] != entry[key] for key in keys)]
        self.content[part] = [*others, entry]
        self.save()

    def save(self) -> None:
        """Write the file: a kill leaves the one before."""
        aside = self.path.with_name(f".{self.path.name}.part")
        try:
            with open(aside, "w", encoding="utf-8") as file:
                json.dump(self.content, file, allow_nan=False, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
        except OSError as error:
            raise Refused(
                f"{self.path} cannot be written ({error.strerror or error}): make room, or name another --out"
            ) from error


def say(text: str) -> None:
    """One line for the person at the board; standard output is left to results.json where no terminal reads it."""
    stream = sys.stdout if sys.stdout.isatty() else sys.stderr
    stream.write(f"{text}\n")
    stream.flush()


def now() -> str:
    """The time, to a second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
