"""ONNX Runtime's CPU sessions: a file opened, run on images, and asked what the runtime made of its layers."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rcnas_edge_exporters.onnx_refusals import sentence

from rcnas_edge.errors import InputError
from rcnas_edge.export import Predict
from rcnas_edge.precision import layer_types

if TYPE_CHECKING:
    import onnxruntime

INPUT, OUTPUT = "images", "logits"


def open_session(
    model: str | bytes, threads: int, name: str, *, optimised: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session on the CPU; `optimised` also writes the graph that the runtime makes of the model."""
    import onnxruntime

    if threads < 1:
        raise InputError(f"a session has at least one thread, got {threads}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # threads that spin while they wait halve the throughput on a busy machine, and gain 5 % on an idle one
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        raise InputError(f"{name} must be a model that ONNX Runtime loads, it is not: {sentence(error)}") from error


def session_predict(session: onnxruntime.InferenceSession) -> Predict:
    """The session as a function from images to logits."""

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([OUTPUT], {INPUT: np.ascontiguousarray(images, dtype=np.float32)})[0])

    return predict


def inspected(model: str | bytes, name: str) -> dict[str, int]:
    """How many layers compute in which type on this machine's CPU, by the graph that the runtime made of the model.

    A processor has kernels of its own for some types: float16 is computed in float32 on most.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "optimised.onnx"
        open_session(model, 1, name, optimised=made)
        return dict(sorted(Counter(layer.precision for layer in layer_types(made.read_bytes())).items()))
