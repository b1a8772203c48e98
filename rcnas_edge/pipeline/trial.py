"""A stranger's ONNX file is opened first by a process that may die of it: little memory, little time, no file to write.

What a graph computes can need any memory and any time, and a runtime may crash on it. The child does exactly what
comes next here (`open_answering`: load the file, show it two images) and says whether that went well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.modelfile import read_model
from rcnas_edge.pipeline.feed import Feed
from rcnas_edge.space import Shape

SECONDS = 120.0
"""That loading a file and one batch of two images may take."""
MEMORY = 2_000_000_000
"""Bytes that this may take beside four times the file's own."""
REFUSED = 2
PROGRAM = ("-P", "-m", "rcnas_edge.pipeline.trial")
"""What the child runs; the current folder may be the stranger's, and nothing is imported from there."""


def try_file(path: Path, feed: Feed, *, image: Shape, classes: int, data: str) -> None:
    """InputError if a classifier cannot be loaded and asked within SECONDS and MEMORY, with what the child said."""
    asked: dict[str, Any] = {"path": str(path), "feed": asdict(feed), "image": image, "classes": classes, "data": data}
    asked["memory"] = MEMORY
    command = [sys.executable, *PROGRAM, json.dumps(asked)]
    limits = f"{SECONDS:g} s and {MEMORY / 1e9:g} GB beside four times its own size"
    try:
        child = subprocess.run(command, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"a file answers for two images within {limits}, {path.name} is not done by then") from error
    words = child.stdout.decode("utf-8", "replace").strip()
    if child.returncode == REFUSED and words:
        raise InputError(words)
    if child.returncode:
        said = child.stderr.decode("utf-8", "replace").splitlines()[-1:]
        ended = " ".join(said)[:200] or f"signal {-child.returncode}"
        raise InputError(f"a file answers for two images within {limits}, {path.name} broke the process: {ended}")


def _limit(memory: int) -> None:
    """Bound this process, where the system can: more memory, a file written or a core dump are errors."""
    try:
        import resource
    except ImportError:  # not on this system: the time is bounded all the same
        return
    pages = Path("/proc/self/statm")
    if pages.is_file():
        most = int(pages.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))


def _try(asked: dict[str, Any]) -> int:
    from rcnas_edge.pipeline.answering import open_answering

    path = Path(asked["path"])
    given: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in asked["feed"].items()}
    try:
        serialised = read_model(path)
        _limit(asked["memory"] + 4 * len(serialised))
        open_answering(
            serialised,
            path,
            Feed(**given),
            image=tuple(asked["image"]),
            classes=asked["classes"],
            data=asked["data"],
            threads=1,
        )
    except InputError as error:
        sys.stdout.buffer.write(str(error).encode("utf-8", "replace"))
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_try(json.loads(sys.argv[1])))
