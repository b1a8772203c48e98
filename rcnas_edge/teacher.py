"""Teachers: a checkpoint of ours, one that ships with the package, a network by name, or the user's own classifier.

A teacher gives the budgets' reference cost, the soft labels and the score to keep.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from rcnas_edge.checkpoint import NETWORK, assign_weights, digest_of, file_sha256, load_weights, read_checkpoint
from rcnas_edge.data import Dataset
from rcnas_edge.errors import InputError
from rcnas_edge.nets import Family, NetworkConfig, families, family
from rcnas_edge.space import Layer

ASSETS = Path(__file__).parent / "assets"
SHIPPED = {"digits": "digits-wrn-16-2"}
"""The teacher that ships with the package, by data set."""


@dataclass(frozen=True)
class Teacher:
    """A classifier in eval mode on images in [0, 1]; `config` and `layers` are None for the user's own module.

    `folder` is the checkpoint's folder, where its attack record may lie.
    """

    name: str
    model: nn.Module
    digest: str
    family: str | None = None
    config: NetworkConfig | None = None
    layers: tuple[Layer, ...] | None = None
    folder: Path | None = None


def open_teacher(name: str | None, weights: str | None, data: Dataset) -> Teacher:
    """Find, load and try a teacher; every misfit is one InputError."""
    if name is None:
        if data.name not in SHIPPED:
            raise InputError(
                f"a teacher for {data.name} does not ship with the package: train one with "
                f"'rcnas-edge teacher --dataset {data.name} ... --out runs/teacher' and pass --teacher runs/teacher, "
                "or pass your own classifier as --teacher package.module:factory --weights FILE"
            )
        name = SHIPPED[data.name]
    folder = Path(name) if Path(name).is_dir() else ASSETS / name
    if (folder / NETWORK).is_file() and Path(name).name == folder.name:
        if weights is not None:
            raise InputError(f"--weights goes with --teacher package.module:factory, {name} has its own: leave it out")
        teacher = _from_checkpoint(folder)
    elif ":" in name:
        teacher = _from_factory(name, weights)
    elif found := _named(name, data):
        teacher = _from_name(name, weights, *found)
    else:
        shipped = ", ".join(sorted(path.parent.name for path in ASSETS.glob(f"*/{NETWORK}")))
        names = ", ".join(kind.networks for kind in families())
        raise InputError(
            f"--teacher is a checkpoint folder (of 'rcnas-edge teacher'), a network ({names}) with --weights FILE, "
            f"package.module:factory, or one that ships ({shipped}); {name!r} is none of them"
        )
    _try(teacher, data)
    return teacher


def _from_checkpoint(folder: Path) -> Teacher:
    checkpoint = read_checkpoint(folder)
    model, config = checkpoint.build()
    return Teacher(
        name=config.name,
        model=model,
        digest=digest_of([checkpoint.sha256, checkpoint.network]),
        family=checkpoint.family,
        config=config,
        layers=family(checkpoint.family).layers(config),
        folder=folder,
    )


def _named(name: str, data: Dataset) -> tuple[Family, NetworkConfig] | None:
    """The network of a family that goes by this name, for the images and classes of the data.

    Weights that were published for a family are normalised as it says, where the channels are as many.
    """
    for kind in families():
        mean, std = kind.published_moments or (data.mean, data.std)
        if len(mean) != data.image[0]:
            mean, std = data.mean, data.std
        try:
            return kind, kind.network(name, image=data.image, classes=data.classes, mean=mean, std=std)
        except InputError:
            if name.lower().startswith(f"{kind.name}-"):
                raise
    return None


def _from_name(name: str, weights: str | None, kind: Family, config: NetworkConfig) -> Teacher:
    """A network of a family with weights under the family's own names (torchvision's, where it is of torchvision)."""
    if weights is None:
        raise InputError(
            f"--teacher {name} needs --weights FILE (safetensors or a state dict); without any, train one: "
            f"rcnas-edge teacher --family {kind.name} --network {name}"
        )
    path, model = Path(weights), kind.build(config)
    assign_weights(model, load_weights(path), path)
    return Teacher(
        name=config.name,
        model=model.eval(),
        digest=digest_of([config.to_dict(), file_sha256(path)]),
        family=kind.name,
        config=config,
        layers=kind.layers(config),
    )


def _from_factory(name: str, weights: str | None) -> Teacher:
    """The user's own classifier: any torch module on images in [0, 1]."""
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # behind the installed packages, which it must not shadow
    try:
        module = importlib.import_module(module_name)
        factory = getattr(module, attribute)
        model = factory() if inspect.isroutine(factory) or inspect.isclass(factory) else factory
    except Exception as error:
        raise InputError(
            f"--teacher package.module:factory names something that makes a torch module without arguments, "
            f"{name!r} does not: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"--teacher package.module:factory makes a torch module, {name!r} made a {type(model).__name__}"
        )
    if weights is None:
        raise InputError(f"--teacher {name} needs --weights FILE (safetensors or a state dict)")
    path = Path(weights)
    assign_weights(model, load_weights(path), path)
    written = getattr(module, "__file__", None)  # its code is part of what it is; what it imports in turn is not seen
    code = file_sha256(Path(written)) if written and Path(written).is_file() else ""
    return Teacher(name=name, model=model.eval(), digest=digest_of([name, code, file_sha256(path)]))


def _try(teacher: Teacher, data: Dataset) -> None:
    """One batch through the teacher, so that a misfit is told before anything is spent."""
    images = torch.from_numpy(data.held_out.images[:2]).float() / 255
    try:
        with torch.no_grad():
            logits = teacher.model.cpu()(images)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"the teacher must take images (N, {', '.join(map(str, data.image))}) of {data.name}, "
            f"{teacher.name} does not: {reason}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, data.classes) or not bool(logits.isfinite().all()):
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"the teacher must give finite logits (N, {data.classes}) for {data.name}, {teacher.name} gives {got}"
        )
