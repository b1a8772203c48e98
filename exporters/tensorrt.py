"""Exports to a TensorRT engine, built from the network's ONNX graph by `tensorrt` or `tensorrt_rtx` in one code path.

The network definition is strongly typed: every layer computes in the type that the graph gives it, TF32 is off, and
what types those are is counted and kept beside the file. tensorrt_rtx builds on any machine, for NVIDIA GPUs of
compute capability 8.0, 8.6, 8.9, 12.0 and later; tensorrt builds for the GPU it finds. Running wants a GPU.
"""

from __future__ import annotations

import copy
import importlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnas_edge_exporters.onnx_session import open_session, session_predict
from rcnas_edge_exporters.tensorrt_engine import Engine, first_error, listener, missing_gpu
from rcnas_edge_exporters.tensorrt_proof import Proof, prove

from rcnas_edge.checkpoint import read_json, write_whole
from rcnas_edge.errors import InputError, MissingPackage, UncheckedError
from rcnas_edge.export import (
    OPSET,
    Artefact,
    Predict,
    calibrated,
    check_answers,
    check_steady,
    exporter,
    sample,
    sidecar,
    write_sidecar,
)
from rcnas_edge.quantise import fp16_model, int8_model
from rcnas_edge.space import Shape

if TYPE_CHECKING:
    from torch import nn

    from rcnas_edge.calibrating import Calibration

BUILDERS = ("tensorrt_rtx", "tensorrt")
"""Packages with the same API: the first builds without a GPU, the second for the GPU at hand, and is taken there."""

INSTALL = "pip install tensorrt-rtx (Linux x86-64 and Windows), or tensorrt"

BATCH = {"min": 1, "opt": 1, "max": 16}
"""Images at once that the engine takes, and those that it is fastest for."""

TOLERANCE = 1e-3
"""Largest logit drift of an engine, relative to the largest logit: its kernels add up in another order (Winograd)."""


@dataclass(frozen=True)
class Built:
    """A serialised engine, the image (C, H, W) it takes, the types it computes in, and what the builder warned of.

    The two flags are as network and configuration had them when it was built.
    """

    serialised: bytes
    image: Shape
    proof: Proof
    strongly_typed: bool
    tf32: bool
    warnings: tuple[str, ...]


class TensorRtExporter:
    """A network as one .engine file, with a sidecar of facts like every artefact's."""

    format = "tensorrt"
    suffix = ".engine"
    precisions = ("fp32", "fp16", "int8")

    def settings(self) -> Mapping[str, Any]:
        """Which package builds, for which GPUs, and for which batches."""
        trt = builder()
        return {
            "builder": f"{trt.__name__} {trt.__version__}",
            "compute_capabilities": targets(trt),
            "batch": dict(BATCH),
        }

    def export(
        self,
        model: nn.Module,
        path: Path,
        *,
        image: Shape,
        metadata: Mapping[str, str],
        opset: int = OPSET,
        precision: str = "fp32",
        calibration: Calibration | None = None,
    ) -> Artefact:
        """Write the network as an engine by way of its ONNX graph, which is checked against the network first.

        For fp16 and int8 (s8s8, which is calibrated on images) the engine is built of that graph in this precision,
        once ONNX Runtime has run it: the sidecar tells how far it drifts from the network (`graph_drift`).
        """
        if precision not in self.precisions:
            raise InputError(f"an engine's precision is one of {', '.join(self.precisions)}, got {precision!r}")
        builder()  # told before the work, as is a calibration that is missing
        more = _scheme(calibrated(calibration)) if precision == "int8" else {}
        with tempfile.TemporaryDirectory() as folder:
            file = exporter("onnx").export(
                model, Path(folder) / "model.onnx", image=image, metadata=metadata, opset=opset
            )
            texts, graph = read_json(sidecar(file.path))["metadata"], file.path.read_bytes()
        if precision == "fp16":
            graph = fp16_model(graph)
        elif precision == "int8":
            graph = int8_model(graph, calibrated(calibration).batches(), scheme="s8s8")
        if precision != "fp32":
            texts = {**texts, "precision": precision}
            session = session_predict(open_session(graph, 1, Path(path).name))
            more["graph_drift"] = steady_drift(model, session, image, Path(path).name, calibration)
        return self.build(
            graph, Path(path), metadata=texts, model=model, precision=precision, calibration=calibration, told=more
        )

    def build(
        self,
        graph: bytes,
        path: Path,
        *,
        metadata: Mapping[str, str],
        model: nn.Module | None = None,
        precision: str | None = None,
        calibration: Calibration | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """Write the engine of an ONNX graph whose one input is images (batch, C, H, W), and a sidecar `<path>.json`.

        Where a GPU can load it, an engine in fp32 must answer as `model` does (relative logit drift <= 1e-3), and one
        in another precision alike at each batch; the inspector tells its layers. Elsewhere the sidecar says why not.
        Two builds of one graph differ in some bytes. Raises InputError, and writes nothing, for a graph that TensorRT
        does not read or build, or whose layers are not all in the `precision` that was asked for.
        """
        trt, settings = builder(), self.settings()
        built = build_engine(trt, graph, BATCH)
        if precision is not None and built.proof.precision != precision:
            raise InputError(
                f"an engine in {precision} multiplies in it alone, the network of {path.name} has multiply-accumulates "
                f"in {dict(built.proof.macs)}: a layer of it was not converted"
            )
        loaded: dict[str, Any] = {"relative_drift": None, "inspected_layers": None, "not_checked": None}
        try:
            engine = load(trt, built.serialised)
            loaded["inspected_layers"] = engine.layers()
            if model is not None:
                loaded["relative_drift"] = drift(model, engine, built, path.name, calibration)
        except UncheckedError as error:
            loaded["not_checked"] = str(error)
        write_whole(path, lambda aside: aside.write_bytes(built.serialised))
        artefact = Artefact.of(path, format=self.format, precision=built.proof.precision)
        texts = {**metadata, "versions": _with_builder(metadata, trt)}
        flags = {"strongly_typed": built.strongly_typed, "tf32": built.tf32, "warnings": list(built.warnings)}
        write_sidecar(artefact, texts, **settings, **(told or {}), **flags, **asdict(built.proof), **loaded)
        return artefact

    def predict(self, artefact: Artefact, *, threads: int = 1) -> Predict:
        """The engine on this machine's GPU; UncheckedError where there is none, or one that does not load it."""
        artefact.check()
        if reason := missing_gpu():
            raise UncheckedError(reason)
        return load(_builder_of(artefact), artefact.path.read_bytes())

    def inspect(self, artefact: Artefact) -> dict[str, int]:
        """How many layers of the engine give which data type, as its runtime tells; UncheckedError as for `predict`."""
        engine = self.predict(artefact)
        assert isinstance(engine, Engine)
        return engine.layers()


def builder() -> Any:
    """The package that builds here, imported; MissingPackage without either of them."""
    order = BUILDERS if missing_gpu() else BUILDERS[::-1]
    broken = []
    for name in order:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except Exception as error:  # a library of it that is missing or of another version
            broken.append(f"the package {name} is there and does not load ({error}): install it again")
    if broken:
        raise InputError(broken[0])
    raise MissingPackage("tensorrt-rtx", "a TensorRT engine", INSTALL)


def targets(trt: Any) -> str:
    """The compute capabilities that an engine is built for."""
    if trt.__name__ == "tensorrt_rtx":
        return "8.0, 8.6, 8.9, 12.0 and later"
    if missing_gpu():
        return "none"
    import torch

    return ".".join(map(str, torch.cuda.get_device_capability()))


def build_engine(trt: Any, graph: bytes, batch: Mapping[str, int]) -> Built:
    """Parse an ONNX graph into a strongly typed network with a dynamic batch, and build it."""
    log = listener(trt)
    try:
        maker = trt.Builder(log)
    except TypeError as error:  # its constructor gave nothing
        raise InputError(
            f"{trt.__name__} builds engines where there is an NVIDIA GPU, here it does not ({first_error(log)}): "
            "pip install tensorrt-rtx, which needs none to build"
        ) from error
    network = maker.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        raise _unread(parser, log)
    if network.num_inputs != 1 or len(network.get_input(0).shape) != 4 or network.get_input(0).shape[0] != -1:
        shapes = [tuple(network.get_input(index).shape) for index in range(network.num_inputs)]
        raise InputError(f"an engine is built for one input (batch, C, H, W) with a free batch, got inputs {shapes}")
    fed = network.get_input(0)
    image = tuple(fed.shape)[1:]
    profile = maker.create_optimization_profile()
    profile.set_shape(fed.name, *((batch[name], *image) for name in ("min", "opt", "max")))
    config = maker.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and a float32 layer would multiply in 10 bits
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector can tell types
    config.add_optimization_profile(profile)
    proof = prove(trt, network)
    serialised = maker.build_serialized_network(network, config)
    if serialised is None:
        raise InputError(
            f"TensorRT builds an engine of the network that it has read, of this one it does not: {first_error(log)}"
        )
    return Built(
        bytes(serialised),
        (image[0], image[1], image[2]),
        proof,
        strongly_typed=network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        tf32=config.get_flag(trt.BuilderFlag.TF32),
        warnings=tuple(log.warnings),
    )


def load(trt: Any, serialised: bytes) -> Engine:
    """The engine on this machine's GPU; UncheckedError where there is none, or one that does not load it."""
    if reason := missing_gpu():
        raise UncheckedError(reason)
    return Engine(trt, serialised)


def drift(model: nn.Module, predict: Predict, built: Built, name: str, calibration: Calibration | None = None) -> float:
    """The largest relative logit drift against a network, whose copy on the CPU in eval mode is asked.

    It is told of an engine in fp16 or int8, and bounded (TOLERANCE) for any other.
    """
    if built.proof.precision in ("fp16", "int8"):
        return steady_drift(model, predict, built.image, name, calibration)
    return check_answers(_twin(model), predict, built.image, name=name, tolerance=TOLERANCE)


def steady_drift(model: nn.Module, predict: Predict, image: Shape, name: str, calibration: Calibration | None) -> float:
    """The largest relative logit drift of an engine, or of its graph, in fp16 or int8 (`export.check_steady`)."""
    return check_steady(_twin(model), predict, sample(image, calibration), name=name)


def _twin(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).cpu().eval()


def _scheme(calibration: Calibration) -> dict[str, Any]:
    return {"scheme": "s8s8", "calibration": calibration.facts()}


def _unread(parser: Any, log: Any) -> InputError:
    """The first node that the parser does not take, by its operator and name."""
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        if not error.node_operator():
            continue
        why = " ".join(error.desc().split())[:300].rstrip(".;: ")
        why = f"{error.code().name}: {why}" if why not in ("", "false") else error.code().name
        node = error.node_name() or f"number {error.node()}"
        return InputError(
            f"TensorRT reads every node of a graph that becomes an engine, {error.node_operator()!r} (node {node}) it "
            f"does not: {why}; replace that layer of the network, or ship it without an engine"
        )
    return InputError(f"an engine is built from an ONNX graph, this is none: {first_error(log)}")


def _with_builder(metadata: Mapping[str, str], trt: Any) -> str:
    versions = json.loads(metadata.get("versions", "{}"))
    return json.dumps({**versions, trt.__name__: trt.__version__}, sort_keys=True)


def _builder_of(artefact: Artefact) -> Any:
    """The package that built an engine, which alone runs it; by its sidecar."""
    beside = sidecar(artefact.path)
    name = str(read_json(beside).get("builder", "")).split(" ")[0] if beside.is_file() else builder().__name__
    if name not in BUILDERS:
        raise InputError(f"an engine is run by the package that built it, {beside} names none: export it again")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.replace("_", "-")
        raise MissingPackage(package, "running this engine", f"pip install {package}") from error
