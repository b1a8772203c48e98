"""Per-example records of how a network did under the headline attack, kept beside the network they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rcnas_edge.attacks import Threat, headline
from rcnas_edge.checkpoint import read_state, write_state
from rcnas_edge.data import Dataset
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import worst_case
from rcnas_edge.pipeline.console import Advance
from rcnas_edge.verify import LEVELS, drawn_indices
from rcnas_edge.verify.witness import logits_of

FLAGS = "attacked.safetensors"


def test_indices(data: Dataset, level: str, seed: int) -> np.ndarray:
    """Which test images a level takes: those that `verify` draws."""
    if level not in LEVELS:
        raise InputError(f"--level is one of {', '.join(LEVELS)}, got {level!r}")
    return drawn_indices(len(data.test), LEVELS[level].images, seed)


def flags_depend(network: str, images: np.ndarray, labels: np.ndarray, threat: Threat, level: str) -> dict[str, Any]:
    """What a record depends on: the network's digest, the very examples, epsilon and queries."""
    examples = hashlib.sha256(np.ascontiguousarray(images).data)
    examples.update(np.ascontiguousarray(labels, dtype=np.int64).data)
    return {
        "network": network,
        "examples": examples.hexdigest()[:16],
        "epsilon": threat.epsilon,
        "square_queries": LEVELS[level].square_queries,
    }


def attacked_flags(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    threat: Threat,
    *,
    level: str,
    advance: Advance,
) -> tuple[np.ndarray, np.ndarray]:
    """Clean and robust flags (N,) of a model under the headline attack; robust is the worst case per example."""
    clean = logits_of(model, images).argmax(1) == labels
    results = headline(
        model,
        torch.from_numpy(images),
        torch.from_numpy(labels),
        threat,
        seed=0,
        square_queries=LEVELS[level].square_queries,
        progress=lambda text, share: advance(share, text),
    )
    robust = worst_case({"no attack": clean, **{name: result.robust.numpy() for name, result in results.items()}})
    return clean, robust


def write_flags(path: Path, depends: Mapping[str, Any], clean: np.ndarray, robust: np.ndarray) -> None:
    """Keep per-example flags with what they depend on."""
    tensors = {"clean": torch.from_numpy(clean.astype(np.uint8)), "robust": torch.from_numpy(robust.astype(np.uint8))}
    write_state(path, tensors, {"depends": dict(depends)})


def read_flags(path: Path, depends: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Per-example flags (clean, robust) if they were made for these dependencies, else None."""
    if not path.is_file():
        return None
    tensors, values = read_state(path)
    if values.get("depends") != dict(depends):
        return None
    return tensors["clean"].numpy().astype(bool), tensors["robust"].numpy().astype(bool)
