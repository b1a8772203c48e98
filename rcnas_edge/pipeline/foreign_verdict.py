"""The verdict on any ONNX classifier: open it, read it back, attack it, and write down what was found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rcnas_edge.attacks import Threat
from rcnas_edge.checkpoint import write_json, write_whole
from rcnas_edge.data import Dataset, load_dataset
from rcnas_edge.errors import InputError
from rcnas_edge.pipeline.console import Console
from rcnas_edge.pipeline.feed import Feed
from rcnas_edge.pipeline.foreign import OnnxFile, open_file
from rcnas_edge.pipeline.outcome import versions
from rcnas_edge.pipeline.trial import try_file
from rcnas_edge.process import prepare_process
from rcnas_edge.report.html import document
from rcnas_edge.report.markup import element
from rcnas_edge.report.verdict import artefacts
from rcnas_edge.task import open_device
from rcnas_edge.teacher import open_teacher
from rcnas_edge.verify import LEVELS, Gates, Subject, Verdict, verify

JSON, ARRAYS, PAGE = "verdict.json", "verdict.npz", "verdict.html"
COMPARED = 64
"""Test images on which a file and its re-import are compared before anything is attacked."""


@dataclass(frozen=True)
class FileSetting:
    """What is asked about a file: the flags of `rcnas-edge verify MODEL`, with underscores."""

    dataset: str = "digits"
    data_root: str | None = None
    image_size: int | None = None
    subset: int | None = None
    attack: str | None = None
    level: str = "standard"
    layout: str | None = None
    input_range: str | None = None
    mean: str | None = None
    std: str | None = None
    reference: str | None = None
    parent: str | None = None
    white_box: bool = True
    min_robust: float | None = None
    max_robust_drop: float | None = None
    seed: int = 0
    device: str = "auto"


def verify_file(model: Path, setting: FileSetting, out: Path | None, console: Console) -> Verdict:
    """Attack an ONNX classifier on test images and decide; verdict.json, .npz and .html go to the folder `out`.

    A file that cannot be read back, or does not answer as its re-import does, is attacked without gradients; the
    verdict is never "robust". A verification that was killed goes on where the same is asked with the same folder.
    """
    if setting.level not in LEVELS:
        raise InputError(f"--level is one of {', '.join(LEVELS)}, got {setting.level!r}")
    if not 0 <= setting.seed < 2**31:
        raise InputError(f"--seed is between 0 and 2147483647, got {setting.seed}")
    prepare_process()
    gates = Gates(setting.min_robust, setting.max_robust_drop)
    feed = Feed.parse(layout=setting.layout, input_range=setting.input_range, mean=setting.mean, std=setting.std)
    data = load_dataset(
        setting.dataset,
        root=None if setting.data_root is None else Path(setting.data_root),
        image_size=setting.image_size,
        subset=setting.subset,
    )
    threat = Threat.parse(setting.attack or data.threat)
    device = open_device(setting.device)
    opened = _open(model, feed, data)
    images, labels = data.test.floats(), data.test.labels
    twin, naive, doubts = _twins(opened, images[:COMPARED], white_box=setting.white_box)
    told = [*opened.told, *doubts]
    others: dict[str, nn.Module | None] = {}
    for option in ("reference", "parent"):
        name = getattr(setting, option)
        others[option] = None if name is None else _network(name, option, feed, data, images[:COMPARED])
        if name is not None:
            told.append(f"--{option} {name} {_alike(opened, others[option], images[:COMPARED])}")
    for sentence in told:
        console.say(sentence)
    networks = {"differentiable": twin, "naive": naive, **others}
    subject = Subject(opened.predict, **{name: one and one.to(device) for name, one in networks.items()})
    count = min(len(images), LEVELS[setting.level].images)
    with console.task(f"verify: {count} test images of {data.name}, {threat}", 1.0) as advance:
        verdict = verify(
            subject,
            images,
            labels,
            threat,
            level=setting.level,
            gates=gates,
            seed=setting.seed,
            name=model.name,
            sha256=opened.sha256,
            arrays=None if out is None else out / ARRAYS,
            resume=twin is not None,  # its buffers tell one feed from another
            progress=lambda text, share: advance(share, text),
        )
    if out is not None:
        _write(out, opened, setting, verdict, told, _precision(twin))
    return verdict


def _open(path: Path, feed: Feed, data: Dataset) -> OnnxFile:
    threads = torch.get_num_threads()
    try_file(path, feed, image=data.image, classes=data.classes, data=data.name)
    return open_file(path, feed, image=data.image, classes=data.classes, data=data.name, threads=threads)


def _twins(
    opened: OnnxFile, images: np.ndarray, *, white_box: bool
) -> tuple[nn.Module | None, nn.Module | None, tuple[str, ...]]:
    """The re-import, and of a file that rounds the one with its true gradients too; none, and why, if it differs."""
    if not white_box:
        return None, None, ("attacked without gradients, as asked",)
    try:
        twin = opened.twin()
    except InputError as error:
        return None, None, (f"attacked without gradients: {error}",)
    found = opened.agreement(twin, images)
    if found.fault:
        return None, None, (f"attacked without gradients: {found.fault}",)
    naive = opened.twin(straight_through=False) if twin.quantised else None
    return twin, naive, (f"read back and differentiable: largest drift {found.drift:.2g} on {len(images)} images",)


def _network(name: str, option: str, feed: Feed, data: Dataset, images: np.ndarray) -> nn.Module:
    """Another network to compare with: an ONNX file, given what the file is given, or what --teacher takes."""
    if not name.endswith(".onnx"):
        return open_teacher(name, None, data).model
    opened = _open(Path(name), feed, data)
    twin = opened.twin()
    fault = opened.agreement(twin, images).fault
    if fault:
        raise InputError(f"--{option} is a network that can be attacked, {name} cannot: {fault}")
    return twin


def _alike(opened: OnnxFile, other: nn.Module | None, images: np.ndarray) -> str:
    assert other is not None
    found = opened.agreement(other, images)
    return f"puts {found.argmax.hits} of {found.argmax.total} test images into the same class as {opened.path.name}"


def _precision(twin: nn.Module | None) -> str:
    network = getattr(twin, "network", None)
    if network is None:
        return "precision not known"
    return "int8" if network.quantised else "fp16" if network.half_precision else "fp32"


def _write(
    out: Path, opened: OnnxFile, setting: FileSetting, verdict: Verdict, told: list[str], precision: str
) -> None:
    """The verdict for programs, and as one page that fetches nothing."""
    out.mkdir(parents=True, exist_ok=True)
    file: dict[str, Any] = {"path": str(opened.path), "format": "onnx", "precision": precision, "sha256": opened.sha256}
    file |= {"bytes": opened.bytes, "layout": opened.layout, "batch": opened.batch}
    said: dict[str, Any] = {"schema": 1, "file": file, "asked": vars(setting), "told": told}
    write_json(out / JSON, {**said, "verdict": verdict.to_dict(), "versions": versions()})
    shown = {**file, "path": opened.path.name, "latency": None, "built": None, "verdict": verdict.to_dict()}
    page = document(
        f"{opened.path.name}: rcnas-edge verify",
        element(
            "main",
            element("h1", f"{opened.path.name} is {verdict.decision}"),
            element("p", "; ".join(verdict.reasons) + ".", class_="lede"),
            *artefacts({"artefacts": [shown], "teacher": None}),
            element("h3", "What was assumed, and what was not checked"),
            element("ul", *(element("li", sentence) for sentence in (*told, *verdict.not_checked))),
        ),
    )
    write_whole(out / PAGE, lambda aside: aside.write_text(page, encoding="utf-8"))
