"""The stage that packs what ships: `bundle/` with the files, a manifest, stored examples, and run.py to check it all.

A bundle is a function of the run's other stages: it carries a digest of what it was made of, is made anew when one of
them changed or one of its files did, and lies aside until it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcnas_edge import __version__
from rcnas_edge.board.bundle import BLANK, BUNDLE, MANIFEST, PACE, REFERENCE, REPLAY, Bundle, sealed
from rcnas_edge.board.words import Refused
from rcnas_edge.bundle.program import program
from rcnas_edge.bundle.readme import readme
from rcnas_edge.bundle.replay import FOLDER, Stored, stored, write_arrays
from rcnas_edge.checkpoint import digest_of, file_sha256
from rcnas_edge.export import Artefact, Predict, exporter
from rcnas_edge.measure.timing import pace_model
from rcnas_edge.pipeline.outcome import report_values
from rcnas_edge.pipeline.stages import Pipeline
from rcnas_edge.pipeline.verifying import arrays_of
from rcnas_edge.setting import TaskSetting
from rcnas_edge.verify import LEVELS

REFERENCES = 16
"""Images with the logits that were given for them."""
SCHEMA = 1
"""Of what a bundle is made of; raised when the same stages would give another bundle."""
LEAST_RUNTIME = {17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17"}
"""The ONNX Runtime that first read an opset (its compatibility table); files are of the least IR version of theirs."""
TOLERANCES = {"fp32": 1e-3}
"""Largest logit drift on another machine, relative to the largest logit: sums are taken in another order."""
COARSE = 0.05
"""The same in fp16 and int8, whose roundings differ from one processor to the next."""
KEPT = ("file", "format", "precision", "sha256", "bytes", "latency", "verdict", "built")
TOLD = ("targets", "budgets", "versions")
"""Of report.json."""


def make_bundle(pipeline: Pipeline) -> Path:
    """Pack what the run has so far into its folder bundle/, unless that is there already, whole and of the same."""
    run = pipeline.opened.run
    folder, aside, old = (run / name for name in (FOLDER, f".{FOLDER}.new", f".{FOLDER}.old"))
    for left in (aside, old):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    files = pipeline.artefacts()
    for artefact in files.values():  # of other bytes, or for other gates: it says nothing of what is packed
        pipeline.verifying.drop_other(artefact)
    values = report_values(pipeline)
    about = manifest_values(pipeline.opened.setting, files, values, pipeline)
    made_of = digest_of({**about, "versions": None, "schema": SCHEMA, "arrays": _arrays(pipeline, files)})
    if is_whole(folder, made_of):
        return folder
    with pipeline.opened.console.task("packing the bundle", 1.0):
        write_bundle(aside, _contents(pipeline, files, {**about, "made_of": made_of}))
    if folder.exists():
        os.replace(folder, old)
    os.replace(aside, folder)
    shutil.rmtree(old, ignore_errors=True)
    pipeline.opened.console.say(f"bundle: {folder} ({sum(path.stat().st_size for path in folder.iterdir())} bytes)")
    return folder


def is_whole(folder: Path, made_of: str) -> bool:
    """Whether a bundle is there that was made of this, and every file of it is as it was made."""
    try:
        bundle = Bundle(folder)
    except Refused:
        return False
    return bundle.manifest.get("made_of") == made_of and not bundle.wrong()


def manifest_values(
    setting: TaskSetting, files: Mapping[str, Artefact], values: Mapping[str, Any], pipeline: Pipeline
) -> dict[str, Any]:
    """What the manifest says, but for the files' hashes and what the stored examples are."""
    data = pipeline.opened.task.data
    channels = data.image[0]
    told = {Path(one["path"]).name: one for one in values["artefacts"]}
    return {
        "made_by": f"rcnas-edge {__version__}",
        "network": values["architecture"]["name"],
        "data": data.name,
        "threat": str(pipeline.opened.task.threat),
        "labels": [str(label) for label in data.class_names],
        "input": {
            "shape": list(data.image),
            "layout": "nchw",
            "dtype": "float32",
            "range": [0, 1],
            "colours": {1: "grey", 3: "RGB"}.get(channels),
            "resize": "fit" if setting.dataset == "folder" else None,
            "preprocessing": preprocessing(setting, data.image),
        },
        "threads": setting.targets[0].threads,
        "margin": LEVELS[setting.level].margin,
        "artefacts": [_about(artefact, files, told[name], setting) for name, artefact in files.items()],
        **{key: values[key] for key in TOLD},
        "program": hashlib.sha256(program("run").encode()).hexdigest(),
    }


def preprocessing(setting: TaskSetting, image: tuple[int, int, int]) -> list[str]:
    """What is done to an image before the network, one sentence each."""
    channels, height, width = image
    steps = (
        [f"colours become {'RGB' if channels == 3 else 'grey (ITU-R 601)'}, alpha is dropped"] if channels < 4 else []
    )
    if setting.dataset == "folder":
        steps.append(f"the shorter side is scaled to {height} pixels (bilinear), and the centre cut out")
    else:
        steps.append(f"the size is {width} x {height} pixels: nothing is scaled unless --resize asks for it")
    return [*steps, "8-bit pixels are divided by 255", "the network normalises by itself: pixels stay in [0, 1]"]


def _about(
    artefact: Artefact, files: Mapping[str, Artefact], told: Mapping[str, Any], setting: TaskSetting
) -> dict[str, Any]:
    """What the manifest says of one file; `of` is the ONNX file whose answers an engine is held against."""
    alike = [name for name, other in files.items() if other.format == "onnx" and other.precision == artefact.precision]
    own = artefact.format == "onnx"
    built = told["built"] or {}
    version = {"version": str(built.get("builder")), "least": None}
    if own:
        version = {"version": _onnxruntime(), "least": LEAST_RUNTIME.get(setting.opset)}
    return {
        **{key: value for key, value in told.items() if key in KEPT},
        "file": artefact.path.name,
        "of": artefact.path.name if own else next(iter(alike), next(iter(files))),
        "opset": setting.opset,
        "runtime": version,
        "tolerance": TOLERANCES.get(artefact.precision, COARSE),
    }


def _onnxruntime() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _arrays(pipeline: Pipeline, files: Mapping[str, Artefact]) -> dict[str, str]:
    """The sha256 of the arrays of every verdict that there is."""
    found = {name: arrays_of(pipeline.opened.run, artefact) for name, artefact in attacked(pipeline, files).items()}
    return {name: file_sha256(path) for name, path in found.items()}


def attacked(pipeline: Pipeline, files: Mapping[str, Artefact]) -> dict[str, Artefact]:
    """The files that have a verdict, with its arrays."""
    return {
        name: artefact
        for name, artefact in files.items()
        if arrays_of(pipeline.opened.run, artefact).is_file() and pipeline.verifying.known_verdict(artefact) is not None
    }


def _contents(pipeline: Pipeline, files: Mapping[str, Artefact], about: Mapping[str, Any]) -> Contents:
    """What is packed of a run."""
    setting, run = pipeline.opened.setting, pipeline.opened.run
    arrays = {name: arrays_of(run, artefact) for name, artefact in attacked(pipeline, files).items()}
    return Contents(
        about=about,
        artefacts=files,
        predicts={
            name: exporter(artefact.format).predict(artefact, threads=setting.targets[0].threads)
            for name, artefact in files.items()
            if artefact.format == setting.format
        },
        images=pipeline.opened.task.data.test.take(pipeline.opened.test_indices[:REFERENCES]).floats(),
        stored=stored(arrays) if arrays else None,
    )


@dataclass(frozen=True, eq=False)
class Contents:
    """What goes into a bundle: what the manifest says, the files by name, and their answers.

    `predicts` run the ONNX files here; `images` float32 (n, C, H, W) are those that reference logits are given for;
    `stored` are the examples to replay, None before the files were attacked.
    """

    about: Mapping[str, Any]
    artefacts: Mapping[str, Artefact]
    predicts: Mapping[str, Predict]
    images: np.ndarray
    stored: Stored | None


def write_bundle(folder: Path, contents: Contents) -> None:
    """Write every file of a bundle into a new folder, the manifest last, and flush them to the disk."""
    folder.mkdir(parents=True)
    for name, artefact in contents.artefacts.items():
        artefact.check()
        shutil.copyfile(artefact.path, folder / name)
    (folder / "run.py").write_text(program("run"), encoding="utf-8")
    (folder / PACE).write_bytes(pace_model())
    logits = {f"logits/{name}": ask(contents.images) for name, ask in contents.predicts.items()}
    write_arrays(folder / REFERENCE, {"images": contents.images, **logits})
    about, found = {**contents.about, "replay": None}, contents.stored
    if found is not None:
        host = {
            f"host/{name}/{kind}": told for name, ask in contents.predicts.items() for kind, told in _host(ask, found)
        }
        write_arrays(folder / REPLAY, {**found.arrays(), **host})
        about["replay"] = {
            "n": len(found.labels),
            "points": len(found.of),
            "of_images": found.attacked,
            "attacks": list(found.attacks),
        }
    (folder / "README.md").write_text(readme(about), encoding="utf-8")
    hashes = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    text = json.dumps({"bundle": BUNDLE, "digest": BLANK, **about, "files": hashes}, indent=2, allow_nan=False) + "\n"
    (folder / MANIFEST).write_bytes(text.replace(BLANK, sealed(text), 1).encode())
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())


def _host(ask: Predict, found: Stored) -> list[tuple[str, np.ndarray]]:
    return [(kind, _classes(ask, getattr(found, kind))) for kind in ("images", "points")]


def _classes(ask: Predict, images: np.ndarray) -> np.ndarray:
    parts = [ask(images[start : start + 256]).argmax(1) for start in range(0, len(images), 256)]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
