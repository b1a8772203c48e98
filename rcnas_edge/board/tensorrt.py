"""Runs a kit's models as TensorRT engines on a board with an NVIDIA GPU: the measure_tensorrt.py of a kit.

It needs NVIDIA's package tensorrt or tensorrt_rtx, and libcudart by ctypes; nothing else, and nothing of ours. Each
model becomes an engine in memory (strongly typed, TF32 off, batch 1) and lies with its image on the GPU: what is timed
is one execution and the wait for it, without copies. Written from TensorRT's documented Python API and tested on a
stand-in; it was never run on a GPU.
"""

from __future__ import annotations

import ctypes
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

PLAN = "onnxruntime"
"""The kernels that TensorRT is taken to run: those of the plain layout."""
PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
LIBRARIES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
TO_DEVICE = 1
"""cudaMemcpyHostToDevice."""


def open_runtime(name: str, refused: type[Exception], runner: Callable[[Callable[[], object]], Any]) -> TensorRt:
    """The runtime of a name; `refused` is raised with one sentence where it cannot be had here."""
    try:
        trt = importlib.import_module(PACKAGES[name])
    except Exception as error:  # missing, or one of its libraries is
        raise refused(f"--runtime {name} needs the package {PACKAGES[name]}, which does not load ({error})") from error
    return TensorRt(name, trt, _cuda(refused), refused, runner)


def _cuda(refused: type[Exception]) -> Any:
    for library in LIBRARIES:
        try:
            return ctypes.CDLL(library)
        except OSError:
            continue
    raise refused(f"an engine is run with CUDA's runtime, none of {', '.join(LIBRARIES)} loads: install CUDA")


class TensorRt:
    """NVIDIA's runtime on the first GPU, with a stream of its own."""

    def __init__(
        self, name: str, trt: Any, cuda: Any, refused: type[Exception], runner: Callable[[Callable[[], object]], Any]
    ) -> None:
        self.name_of_runtime, self.trt, self.cuda, self.refused, self.runner = name, trt, cuda, refused, runner
        self.version = f"{trt.__name__} {trt.__version__}"
        self.provider = gpu() or "NVIDIA GPU"
        self.stream = ctypes.c_void_p()
        self.check(cuda.cudaStreamCreate(ctypes.byref(self.stream)), "a stream")
        self.log = trt.Logger(trt.Logger.ERROR)
        self.runtime = trt.Runtime(self.log)

    def name(self, probe: bytes, plans: Any) -> tuple[str, str]:
        """The runtime of a profile that this one is, and the plan that it wants."""
        return self.name_of_runtime, PLAN

    def check(self, code: int, what: str) -> None:
        """Raise unless a call of CUDA's runtime gave 0."""
        if code:
            raise self.refused(f"{what} on the GPU was refused, CUDA error {code}")

    def open(self, model: bytes, threads: int) -> Any:
        """The model as an engine, ready to run on one image; threads mean nothing on a GPU."""
        return self.runner(Engine(self, self.built(model)).run)

    def built(self, model: bytes, batches: tuple[int, int, int] = (1, 1, 1)) -> bytes:
        """The serialised engine of an ONNX model whose only open size is the batch: the least, the usual, the most."""
        trt = self.trt
        maker = trt.Builder(self.log)
        network = maker.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self.log)
        if not parser.parse(model):
            why = parser.get_error(0).desc() if parser.num_errors else "it does not say why"
            raise self.refused(f"TensorRT does not read this model: {' '.join(str(why).split())[:200]}")
        config = maker.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and float32 would multiply in 10 bits
        fed = network.get_input(0)
        shape = tuple(fed.shape)
        if min(shape) < 0:
            profile = maker.create_optimization_profile()
            profile.set_shape(fed.name, *(tuple(size if size > 0 else batch for size in shape) for batch in batches))
            config.add_optimization_profile(profile)
        serialised = maker.build_serialized_network(network, config)
        if serialised is None:
            raise self.refused("TensorRT does not build an engine of this model")
        return bytes(serialised)


class Engine:
    """An engine with its tensors on the GPU: a random image, and room for the answer."""

    def __init__(self, of: TensorRt, serialised: bytes) -> None:
        self.of = of
        self.held: list[ctypes.c_void_p] = []
        self.engine = of.runtime.deserialize_cuda_engine(serialised)
        self.context: Any = self.engine.create_execution_context() if self.engine is not None else None
        if self.context is None:
            raise of.refused("this GPU does not load the engine, or has no room for it")
        generator = np.random.default_rng(0)
        names = [self.engine.get_tensor_name(place) for place in range(self.engine.num_io_tensors)]
        for name in sorted(names, key=lambda name: self.engine.get_tensor_mode(name) != of.trt.TensorIOMode.INPUT):
            shape = tuple(self.context.get_tensor_shape(name))
            if self.engine.get_tensor_mode(name) == of.trt.TensorIOMode.INPUT:
                shape = tuple(size if size > 0 else 1 for size in shape)
                self.context.set_input_shape(name, shape)
            values = generator.random(shape, dtype=np.float32)
            room = ctypes.c_void_p()
            of.check(of.cuda.cudaMalloc(ctypes.byref(room), ctypes.c_size_t(values.nbytes)), "memory for a tensor")
            self.held.append(room)
            size = ctypes.c_size_t(values.nbytes)
            of.check(of.cuda.cudaMemcpy(room, values.ctypes.data_as(ctypes.c_void_p), size, TO_DEVICE), "a copy")
            self.context.set_tensor_address(name, room.value)

    def run(self) -> None:
        """One execution, and the wait for it."""
        if not self.context.execute_async_v3(self.of.stream.value):
            raise self.of.refused("the engine does not run")
        self.of.check(self.of.cuda.cudaStreamSynchronize(self.of.stream), "an execution")

    def __del__(self) -> None:
        for room in self.held:
            self.of.cuda.cudaFree(room)


def gpu() -> str:
    """The name of the first GPU, as its driver tells; empty where it does not."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return ""
