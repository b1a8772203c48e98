"""A TensorRT engine on an NVIDIA GPU: loaded, run on images from the host's memory, and asked about its layers.

Written against TensorRT's Python API of names and addresses (10 and later, and tensorrt_rtx); torch owns the memory
on the GPU, so that nothing else has to be installed.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import torch

from rcnas_edge.errors import UncheckedError

TYPES = ("BFLOAT16", "BF16", "FLOAT", "FP32", "HALF", "FP16", "INT8", "INT32", "INT64", "BOOL", "FP8", "FP4")
NAMES = {"BFLOAT16": "bfloat16", "BF16": "bfloat16", "FLOAT": "float32", "FP32": "float32", "HALF": "float16"}
NAMES |= {"FP16": "float16", "FP8": "float8", "FP4": "float4"}
"""How the inspector writes data types within its names of formats, the longer ones first, and our names of them."""


def missing_gpu() -> str | None:
    """Why no engine can run on this machine, None if one can."""
    if torch.version.cuda is None:
        return "no NVIDIA GPU that torch can use (it is built without CUDA)"
    return None if torch.cuda.is_available() else "no NVIDIA GPU"


def listener(trt: Any) -> Any:
    """A logger of TensorRT that keeps warnings and errors as sentences instead of printing them."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.warnings: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(" ".join(message.split()))
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(" ".join(message.split()))

    return Listener()


def first_error(log: Any) -> str:
    """The first error that TensorRT told, shortened; what follows it are consequences."""
    return str(log.errors[0])[:300].rstrip(".;: ") if log.errors else "TensorRT does not say why"


class Engine:
    """An engine with an execution context and a stream of its own; called with images it gives logits.

    Images float32 (N, C, H, W) in [0, 1] and logits (N, classes) lie in the host's memory; any N, in parts that the
    engine's batch profile takes.
    """

    def __init__(self, trt: Any, serialised: bytes, *, device: str = "cuda") -> None:
        self.trt, self.device, self.log = trt, device, listener(trt)
        self.runtime = trt.Runtime(self.log)
        self.engine = self.runtime.deserialize_cuda_engine(serialised)
        if self.engine is None:
            raise UncheckedError(f"this GPU does not load the engine: {first_error(self.log)}")
        self.context = self.engine.create_execution_context()
        if self.context is None:
            raise UncheckedError(f"this GPU has no room to run the engine: {first_error(self.log)}")
        self.stream = torch.cuda.Stream() if device == "cuda" else None
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        modes = {name: self.engine.get_tensor_mode(name) for name in names}
        (self.images,) = (name for name in names if modes[name] == trt.TensorIOMode.INPUT)
        (self.logits,) = (name for name in names if modes[name] == trt.TensorIOMode.OUTPUT)
        self.most = int(self.engine.get_tensor_profile_shape(self.images, 0)[2][0])
        self.classes = int(self.engine.get_tensor_shape(self.logits)[-1])

    @property
    def provider(self) -> str:
        """The device that it runs on."""
        return torch.cuda.get_device_name() if self.device == "cuda" else self.device

    def __call__(self, images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images, dtype=np.float32)
        parts = [self._part(images[start : start + self.most]) for start in range(0, len(images), self.most)]
        return np.concatenate(parts) if parts else np.zeros((0, self.classes), dtype=np.float32)

    def _part(self, images: np.ndarray) -> np.ndarray:
        context, handle = self.context, 0 if self.stream is None else self.stream.cuda_stream
        with torch.cuda.stream(self.stream):  # copies and the engine in one order; without a stream this does nothing
            fed = torch.from_numpy(images).to(self.device)
            answer = torch.empty((len(images), self.classes), dtype=torch.float32, device=self.device)
            ready = (
                context.set_input_shape(self.images, tuple(fed.shape))
                and context.set_tensor_address(self.images, fed.data_ptr())
                and context.set_tensor_address(self.logits, answer.data_ptr())
                and context.execute_async_v3(handle)
            )
            if not ready:
                raise UncheckedError(f"the engine does not run images {images.shape}: {first_error(self.log)}")
            return np.array(answer.cpu())  # waits for the stream

    def layers(self) -> dict[str, int]:
        """How many layers of the built engine give which data type, by TensorRT's engine inspector."""
        inspector = self.engine.create_engine_inspector()
        inspector.execution_context = self.context
        told = json.loads(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))
        return inspected(told)


def inspected(told: dict[str, Any]) -> dict[str, int]:
    """Count the layers of an inspector's JSON by the data type of their first output."""
    found: Counter[str] = Counter()
    for layer in told.get("Layers", []):
        outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
        words = str(outputs[0].get("Format/Datatype", "")) if outputs else ""
        key = next((name for name in TYPES if name in words.upper()), "")
        found[NAMES.get(key, key.lower()) or "not told"] += 1
    return dict(sorted(found.items()))
