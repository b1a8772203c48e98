"""Builds and runs a bundle's networks as TensorRT engines on a board with an NVIDIA GPU.

The file stands alone: Python 3.9 or later, numpy, NVIDIA's package tensorrt or tensorrt_rtx, and libcudart by ctypes.
An engine is strongly typed: each layer computes in the type that the graph gives it, TF32 is off, and what types those
are is counted. Written from TensorRT's documented Python API and tested on a stand-in; it was never run on a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.board.bundle import BATCH, Bundle, Network
from rcnas_edge.board.tensorrt import PACKAGES, TO_DEVICE, TensorRt, open_runtime
from rcnas_edge.board.timing import Runner
from rcnas_edge.board.words import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

TO_HOST = 2
"""cudaMemcpyDeviceToHost."""
BATCHES = (1, 1, BATCH)
"""Images at once that an engine takes: the least, those it is fastest for, the most."""
BUILT = "built."
"""How the names of engines begin that were built on the board."""


class Loaded:
    """An engine with room for BATCH images and their logits on the GPU; called with images it gives logits.

    Images float32 (N, C, H, W) and logits (N, classes), N at most BATCH, lie in the host's memory: the copies there and
    back belong to a call, as they do for whoever uses the network.
    """

    def __init__(self, of: TensorRt, serialised: bytes) -> None:
        self.of = of
        self.held: dict[str, ctypes.c_void_p] = {}
        self.engine = of.runtime.deserialize_cuda_engine(serialised)
        self.context: Any = self.engine.create_execution_context() if self.engine is not None else None
        if self.context is None:
            raise Refused("this GPU does not load the engine, or has no room for it: build one here by 'build-engine'")
        names = [self.engine.get_tensor_name(place) for place in range(self.engine.num_io_tensors)]
        modes = {name: self.engine.get_tensor_mode(name) for name in names}
        (self.images,) = (name for name in names if modes[name] == of.trt.TensorIOMode.INPUT)
        (self.logits,) = (name for name in names if modes[name] == of.trt.TensorIOMode.OUTPUT)
        self.classes = int(self.engine.get_tensor_shape(self.logits)[-1])
        image = tuple(self.engine.get_tensor_shape(self.images))[1:]
        for name, size in ((self.images, int(np.prod(image))), (self.logits, self.classes)):
            room = ctypes.c_void_p()
            of.check(of.cuda.cudaMalloc(ctypes.byref(room), ctypes.c_size_t(4 * BATCH * size)), "memory for a tensor")
            self.held[name] = room
            self.context.set_tensor_address(name, room.value)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images, dtype=np.float32)
        answer = np.empty((len(images), self.classes), dtype=np.float32)
        self.context.set_input_shape(self.images, images.shape)
        self._copy(self.held[self.images], images, images.ctypes.data_as(ctypes.c_void_p), TO_DEVICE)
        if not self.context.execute_async_v3(self.of.stream.value):
            raise Refused("the engine does not run")
        self.of.check(self.of.cuda.cudaStreamSynchronize(self.of.stream), "an execution")
        self._copy(answer.ctypes.data_as(ctypes.c_void_p), answer, self.held[self.logits], TO_HOST)
        return answer

    def _copy(self, to: ctypes.c_void_p, values: np.ndarray, source: ctypes.c_void_p, way: int) -> None:
        self.of.check(self.of.cuda.cudaMemcpy(to, source, ctypes.c_size_t(values.nbytes), way), "a copy")

    def __del__(self) -> None:
        for room in self.held.values():
            self.of.cuda.cudaFree(room)


def engine_network(bundle: Bundle, about: Mapping[str, Any], serialised: bytes) -> Network:
    """An engine of a bundle, or one built on this board, on the first GPU; Refused for another version's engine."""
    package, _, version = str(about["runtime"]["version"]).partition(" ")
    name = next((name for name, of in PACKAGES.items() if of == package), None)
    if name is None:
        raise Refused(f"an engine is run by tensorrt or tensorrt_rtx, {about['file']} was built by {package!r}")
    of = open_runtime(name, Refused, Runner)
    if of.version != f"{package} {version}":
        raise Refused(
            f"an engine runs on the version that built it: {about['file']} was built by {package} {version}, here is "
            f"{of.version}: install that version, or build one here by 'build-engine'"
        )
    loaded, digest = Loaded(of, serialised), hashlib.sha256(serialised).hexdigest()
    source = str(about["of"])
    return Network(about["file"], digest, source, bundle.files[source], of.version, of.provider, 1, loaded)


def open_network(bundle: Bundle, name: str | None, threads: int | None) -> Network:
    """A network of the bundle, or an engine that was built beside it on this board."""
    if name is not None and name.startswith(BUILT):
        about = _read_built(bundle, name)
        return engine_network(bundle, about, (bundle.folder / name).read_bytes())
    about = bundle.artefact(name)
    if about["format"] == "tensorrt":
        return engine_network(bundle, about, bundle.read(about["file"]))
    return bundle.open(name, threads)


def build_engine(bundle: Bundle, name: str | None, runtime: str) -> dict[str, Any]:
    """Build a strongly typed engine of one of the bundle's ONNX files, beside it; and what it is and computes in."""
    source = bundle.artefact(name)
    if source["format"] != "onnx":
        raise Refused(f"an engine is built of an ONNX file, --model {source['file']} is none: name another")
    of = open_runtime(runtime, Refused, Runner)
    if not hasattr(of.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        raise Refused(f"a strongly typed engine is built by TensorRT 10 or later, here is {of.version}: install it")
    graph = bundle.read(source["file"])
    serialised = of.built(graph, BATCHES)
    file = f"{BUILT}{Path(source['file']).stem}.engine"
    about = {
        "file": file,
        "sha256": hashlib.sha256(serialised).hexdigest(),
        "of": source["file"],
        "of_sha256": hashlib.sha256(graph).hexdigest(),
        "format": "tensorrt",
        "runtime": {"version": of.version, "least": None},
        "gpu": of.provider,
        "bytes": len(serialised),
        "tf32": False,
        **typed(of, graph),
    }
    try:
        (bundle.folder / file).write_bytes(serialised)
        (bundle.folder / f"{file}.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise Refused(f"{bundle.folder / file} cannot be written ({error.strerror or error}): make room") from error
    return about


def typed(of: TensorRt, graph: bytes) -> dict[str, Any]:
    """Whether the network that TensorRT makes of a graph is strongly typed, and how many layers give which type."""
    trt = of.trt
    network = trt.Builder(of.log).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if not trt.OnnxParser(network, of.log).parse(graph):
        raise Refused("TensorRT does not read this model")
    layers = (network.get_layer(place) for place in range(network.num_layers))
    types = Counter(layer.get_output(0).dtype.name.lower() for layer in layers)
    strongly = network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return {"strongly_typed": bool(strongly), "layers": dict(sorted(types.items()))}


def _read_built(bundle: Bundle, name: str) -> dict[str, Any]:
    """What was written of an engine that was built here; Refused if it is another, or of another network."""
    try:
        about = json.loads((bundle.folder / f"{name}.json").read_text(encoding="utf-8"))
        whole = hashlib.sha256((bundle.folder / name).read_bytes()).hexdigest() == about["sha256"]
        same = bundle.files.get(about["of"]) == about["of_sha256"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise Refused(
            f"{name} is an engine that 'build-engine' wrote, it cannot be read ({error}): build it"
        ) from error
    if not whole or not same:
        raise Refused(f"{name} is not the engine that was built here of this bundle's network: build it again")
    return dict(about)
