"""A small bundle without a run: two exported networks, reference images, and points of which the answers are known."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rcnas_edge.bundle.replay import Stored
from rcnas_edge.export import Artefact, exporter, facts
from rcnas_edge.pipeline.bundling import Contents, write_bundle
from rcnas_edge.verify import LEVELS

IMAGE, LABELS = (1, 4, 4), ("cat", "dog", "eel")
THREADS = 1


def network(seed: int) -> nn.Module:
    """Three classes in grey images of 4 x 4 pixels."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


def export_network(model: nn.Module, path: Path, opset: int = 18) -> Artefact:
    """The network as an ONNX file."""
    metadata = facts(labels=LABELS, threat="linf:0.1:10", digest="abc")
    return exporter("onnx").export(model, path, image=IMAGE, metadata=metadata, opset=opset)


def small_bundle(folder: Path, *, opset: int = 18, resize: str | None = None, replay: bool = True) -> Path:
    """A bundle with model.onnx and other.onnx, in folder/bundle."""
    files = {
        name: export_network(network(seed), folder / "artefacts" / name, opset)
        for seed, name in enumerate(("model.onnx", "other.onnx"))
    }
    predicts = {name: exporter("onnx").predict(artefact) for name, artefact in files.items()}
    generator = np.random.default_rng(0)
    about = {
        "made_by": "rcnas-edge 9.9",
        "made_of": "nothing",
        "network": "small",
        "data": "noise",
        "threat": "linf:0.1:10",
        "labels": list(LABELS),
        "input": {"shape": list(IMAGE), "colours": "grey", "resize": resize, "preprocessing": ["none"]},
        "threads": THREADS,
        "margin": LEVELS["smoke"].margin,
        "budgets": [],
        "artefacts": [
            {
                **{"file": name, "of": name, "format": "onnx", "precision": "fp32", "sha256": artefact.sha256},
                **{"bytes": artefact.bytes, "opset": opset, "tolerance": 1e-3, "latency": None, "verdict": None},
                "runtime": {"version": "1.0", "least": {17: "1.12", 18: "1.14"}[opset]},
            }
            for name, artefact in files.items()
        ],
    }
    images = generator.random((8, *IMAGE), dtype=np.float32)
    examples = known_examples(predicts["model.onnx"]) if replay else None
    write_bundle(folder / "bundle", Contents(about, files, predicts, images, examples))
    return folder / "bundle"


def known_examples(ask, count: int = 20) -> Stored:
    """Examples on which model.onnx is right as they are, and wrong on the points of every fourth image.

    Image k has the point 2 k, which is right, and every fourth also the point 2 k + 1, whose class is another.
    """
    generator = np.random.default_rng(1)
    images = generator.random((count, *IMAGE), dtype=np.float32)
    labels = ask(images).argmax(1)
    points, of, by = [], [], []
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        tries = generator.random((500, *IMAGE), dtype=np.float32)
        classes = ask(tries).argmax(1)
        for wrong in (False, True)[: 2 if number % 4 == 0 else 1]:
            points.append(image if not wrong else tries[classes != label][0])
            of.append(number)
            by.append(int(wrong))
    return Stored(
        images=images,
        labels=labels.astype(np.int64),
        points=np.stack(points),
        of=np.array(of),
        by=np.array(by),
        attacks=("model.onnx: artefact/none", "model.onnx: artefact/square"),
        picked=np.arange(count),
        indices=np.arange(count),
        attacked=count,
    )


def bare_python(folder: Path) -> Path:
    """A Python that has numpy and onnxruntime, and nothing else of this one's."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in ("numpy", "onnxruntime"):
        there = Path(find_spec(name).origin).parent  # type: ignore[union-attr, arg-type]
        for path in (there, there.with_name(f"{name}.libs")):
            if path.is_dir():
                (packages / path.name).symlink_to(path)
    return folder / "bin" / "python"
