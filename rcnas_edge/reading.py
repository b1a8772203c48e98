"""Files that anybody may have made: read only if they are regular files of a size that makes sense."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from rcnas_edge.errors import InputError

MOST_TEXT = 50_000_000
"""Bytes of a text (JSON or TOML) that is read."""


def told(path: Path) -> str:
    """The name of a file in a sentence: escaped where its letters cannot be shown."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def read_limited(path: Path, most: int, what: str) -> bytes:
    """The bytes of a regular file of at most `most`; OSError if it cannot be read, InputError if it is another kind.

    `what` names it in the sentence ("an ONNX model"). A pipe is not waited for, and nothing is read of a file that is
    too large.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise InputError(f"{what} is a file, {str(path)!r} is a name that no file can have: {error}") from error
    with open(handle, "rb") as file:
        there = os.fstat(handle)
        if not stat.S_ISREG(there.st_mode):
            raise InputError(f"{what} is a regular file, {told(path)} is none: put a file there")
        content = file.read(there.st_size + 1) if there.st_size <= most else b""
    size = max(there.st_size, len(content))
    if size > most:
        raise InputError(
            f"{what} has at most {most / 1e6:g} MB, {told(path)} has {size / 1e6:.0f} MB: is it the right one?"
        )
    return content
