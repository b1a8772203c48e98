"""What fuzz tests share: settings, and a process of its own with little memory that opens what nobody should trust.

Run as a program it is that process: a line of JSON {"kind", "path"} is answered by a line {"words"} with the sentence
of a refusal, empty if the thing was taken and then behaved, or {"bug"} with a traceback.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

SEEDED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SECONDS = 60.0
"""That nothing may take."""
MEMORY = 1_500_000_000
"""Bytes that the process may take beside what it has when it begins."""
IMAGE = (1, 6, 6)
CLASSES = 10


class Opener:
    """A process that opens one thing after the other; one that dies is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.died = folder, 0
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, kind: str, path: Path) -> str:
        """The sentence of a refusal, "" for what was taken; "died: ..." if it was the end of the process."""
        if self.process is None:
            self.process = self._start()
            self._ask({"kind": "ready", "path": ""}, 120.0)
        before = self.contents()
        said = self._ask({"kind": kind, "path": str(path)}, SECONDS)
        assert "bug" not in said, said["bug"]
        written = sorted(set(self.contents()) - set(before))
        assert not written, f"written outside: {written}"
        return str(said["words"])

    def contents(self) -> list[str]:
        """What lies in the process's own folder, where a careless reader would write."""
        return sorted(os.listdir(self.folder))

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=self.folder, env=environment)

    def _ask(self, question: dict[str, str], seconds: float) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            if not waiting.select(seconds):
                self.close()
                raise AssertionError(f"no answer within {seconds:g} s")
        line = self.process.stdout.readline()
        if line:
            return dict(json.loads(line))
        code = self.process.wait()
        self.close()
        self.died += 1
        return {"words": f"died: {code}"}


def assert_sentence(words: str) -> None:
    """One line that can be shown to people."""
    assert words.isprintable(), repr(words)
    assert len(words) < 1500, words
    assert "Traceback" not in words


def open_onnx(path: Path) -> None:
    """What `rcnas-edge verify` does with a file before it is attacked."""
    import numpy as np

    from rcnas_edge.errors import InputError
    from rcnas_edge.pipeline.feed import Feed
    from rcnas_edge.pipeline.foreign import open_file

    file = open_file(path, Feed(), image=IMAGE, classes=CLASSES, data="pictures")
    images = np.random.default_rng(0).random((5, *IMAGE), dtype=np.float32)
    answered = file.predict(images)
    assert answered.shape == (5, CLASSES)
    assert answered.dtype == np.float32
    try:
        twin = file.twin()
    except InputError as error:
        assert_sentence(str(error))
        return
    found = file.agreement(twin, images)
    assert_sentence(found.fault or "")


def open_checkpoint(path: Path) -> None:
    """A folder of `rcnas-edge teacher`, as --teacher takes it."""
    import torch

    from rcnas_edge.checkpoint import read_checkpoint

    model, config = read_checkpoint(path).build()
    with torch.no_grad():
        assert model(torch.zeros(2, *config.image)).shape == (2, config.classes)


def open_weights(path: Path) -> None:
    """A file of --weights."""
    from rcnas_edge.checkpoint import load_weights

    for name, tensor in load_weights(path).items():
        assert isinstance(name, str)
        assert tensor.shape is not None


def open_images(path: Path) -> None:
    """A folder of --dataset folder."""
    from rcnas_edge.data import load_dataset

    data = load_dataset("folder", root=path, image_size=8)
    assert data.image == (3, 8, 8)
    assert len(data.train) + len(data.held_out) + len(data.test) > 0


def open_bundle(path: Path) -> None:
    """A bundle, as Python and its own run.py open it: predictions, the selftest and the replay."""
    import numpy as np

    from rcnas_edge.board.bundle import REPLAY, Bundle
    from rcnas_edge.board.checks import compared, examples, references, replayed
    from rcnas_edge.board.engine import open_network
    from rcnas_edge.board.words import Refused
    from rcnas_edge.deploy import load
    from rcnas_edge.errors import InputError

    classifier = load(path)
    said = classifier.predict(np.zeros((2, *classifier.image), dtype=np.float32))
    assert said.probabilities.shape == (2, len(classifier.labels))
    assert set(said.labels) <= set(classifier.labels)
    try:
        bundle = Bundle(path)
        for words in bundle.wrong().values():
            raise Refused(words)
        known = references(bundle)
        for name, about in bundle.artefacts.items():
            if about["format"] == "onnx" and f"logits/{name}" in known:
                compared(open_network(bundle, name, 1), known["images"], known[f"logits/{name}"], about["tolerance"])
        if REPLAY in bundle.files:
            entry = replayed(open_network(bundle, None, 1), examples(bundle))
            assert 0 <= entry["robust"]["value"] <= entry["clean"]["value"] <= 1
    except Refused as error:
        raise InputError(str(error)) from error


KINDS: dict[str, Callable[[Path], None]] = {
    "ready": lambda path: None,
    "onnx": open_onnx,
    "checkpoint": open_checkpoint,
    "weights": open_weights,
    "images": open_images,
    "bundle": open_bundle,
}


def main() -> None:
    import resource

    import torch

    import rcnas_edge.pipeline.foreign
    from rcnas_edge.errors import RcnasError

    assert rcnas_edge.pipeline.foreign
    torch.set_num_threads(1)
    pages = Path("/proc/self/statm")
    if pages.is_file():
        most = int(pages.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {"words": ""}
        started = time.monotonic()
        try:
            KINDS[asked["kind"]](Path(asked["path"]))
        except RcnasError as error:
            answer = {"words": str(error)}
        except BaseException:  # whatever else it is, it is a bug, and the test says so
            answer = {"bug": traceback.format_exc()}
        answer["seconds"] = f"{time.monotonic() - started:.3f}"
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
