"""Exports to one ONNX file, weights inside, batch dynamic, with facts about itself; runs it on ONNX Runtime's CPU."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from importlib import metadata as packages
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnas_edge_exporters.onnx_refusals import sentence, untraceable, untranslatable
from rcnas_edge_exporters.onnx_session import INPUT, OUTPUT, inspected, open_session, session_predict

from rcnas_edge.checkpoint import write_whole
from rcnas_edge.errors import InputError
from rcnas_edge.export import (
    OPSET,
    Artefact,
    Predict,
    calibrated,
    check_answers,
    check_steady,
    sample,
    weights_digest,
    write_sidecar,
)
from rcnas_edge.precision import check_precision, counted
from rcnas_edge.quantise import fp16_model, int8_model
from rcnas_edge.quiet import quiet
from rcnas_edge.space import Shape

if TYPE_CHECKING:
    import onnx
    import torch

    from rcnas_edge.calibrating import Calibration

LEAST_OPSET = 17


class OnnxExporter:
    """A network as one .onnx file: checked, reproducible to the byte, with batch as a free dimension."""

    format = "onnx"
    suffix = ".onnx"
    precisions = ("fp32", "fp16", "int8")

    def settings(self) -> Mapping[str, str]:
        """The versions of the packages that write the file."""
        return {name: _version(name) for name in ("torch", "onnx", "onnxscript")}

    def export(
        self,
        model: torch.nn.Module,
        path: Path,
        *,
        image: Shape,
        metadata: Mapping[str, str],
        opset: int = OPSET,
        precision: str = "fp32",
        calibration: Calibration | None = None,
    ) -> Artefact:
        """Write the network, in eval mode, for images (C, H, W) in [0, 1], and a sidecar `<path>.json`.

        The graph in fp32 is refused, and nothing is written, unless it answers as the network does at batches of 1, 5
        and 16 (relative logit drift <= 1e-4). A file in fp16 or int8 (u8s8, which is calibrated on images) is made of
        that graph; it must compute every layer in its precision and answer alike at each batch, and how far it drifts
        from the network is told in the sidecar. The network itself is left as it is. The same network, metadata and
        images give the same bytes. `metadata` is as `export.facts` makes it.
        """
        if opset < LEAST_OPSET:
            raise InputError(f"--opset is at least {LEAST_OPSET}, got {opset}: {OPSET} is what most runtimes read")
        if precision == "int8":
            calibrated(calibration)  # told before the work
        path = Path(path)
        twin = _copied(model)
        texts = self._texts(twin, image, metadata, precision)
        _check_classes(twin, image, texts)
        proto = _translate(twin, image, opset)
        _anonymise(proto, texts)
        serialised = proto.SerializeToString(deterministic=True)
        told: dict[str, Any] = {
            "opset": opset,
            "relative_drift": check_answers(twin, _predict(serialised, path), image, name=path.name),
        }
        if precision != "fp32":
            serialised, more = _converted(serialised, precision, calibration)
            drift = check_steady(twin, _predict(serialised, path), sample(image, calibration), name=path.name)
            told |= {**more, "relative_drift": drift, "inspected_layers": inspected(serialised, path.name)}
            check_precision(serialised, precision)
        write_whole(path, lambda aside: aside.write_bytes(serialised))
        artefact = Artefact.of(path, format=self.format, precision=precision)
        write_sidecar(artefact, texts, **told, **proof(serialised))
        return artefact

    def predict(self, artefact: Artefact, *, threads: int = 1) -> Predict:
        """The file on ONNX Runtime's CPU provider: images float32 (N, C, H, W) in [0, 1] to logits (N, classes)."""
        artefact.check()
        return session_predict(open_session(str(artefact.path), threads, artefact.path.name))

    def inspect(self, artefact: Artefact) -> dict[str, int]:
        """How many layers of the file this machine's CPU computes in which type, by the runtime's own graph."""
        artefact.check()
        return inspected(str(artefact.path), artefact.path.name)

    def _texts(
        self, model: torch.nn.Module, image: Shape, metadata: Mapping[str, str], precision: str
    ) -> dict[str, str]:
        if precision not in self.precisions:
            raise InputError(f"an ONNX file's precision is one of {', '.join(self.precisions)}, got {precision!r}")
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise InputError(f"an ONNX file carries texts by name, got {dict(metadata)}: write other values as JSON")
        versions = {"rcnas-edge": _version("rcnas-edge"), **self.settings()}
        if precision != "fp32":
            versions["onnxruntime"] = _runtime()
        return {
            "digest": weights_digest(model),
            "versions": json.dumps(versions, sort_keys=True),
            **metadata,
            "image": json.dumps(list(image)),
            "input_range": json.dumps([0, 1]),
            **({} if precision == "fp32" else {"precision": precision}),
        }


def proof(serialised: bytes) -> dict[str, dict[str, int]]:
    """Layers and multiply-accumulates of an ONNX graph by the precision they compute in, for a sidecar."""
    found = counted(serialised)
    return {
        "layers": {name: count.layers for name, count in found.items()},
        "macs": {name: count.macs for name, count in found.items()},
    }


def _predict(serialised: bytes, path: Path) -> Predict:
    return session_predict(open_session(serialised, 1, path.name))


def _converted(serialised: bytes, precision: str, calibration: Calibration | None) -> tuple[bytes, dict[str, Any]]:
    """The graph in another precision, and how it was made."""
    if precision == "fp16":
        return fp16_model(serialised), {}
    images = calibrated(calibration)
    made = int8_model(serialised, images.batches(), scheme="u8s8")
    return made, {"scheme": "u8s8", "calibration": images.facts()}


def _version(package: str) -> str:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return "unknown"


def _runtime() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _translate(model: torch.nn.Module, image: Shape, opset: int) -> onnx.ModelProto:
    """Trace and translate; an untraceable network becomes one sentence that names the layer and what it does there."""
    import onnx
    import torch

    example = (torch.rand((2, *image), generator=torch.Generator().manual_seed(0)),)
    dynamic = ({0: torch.export.Dim("batch")},)
    with quiet():
        try:
            traced = torch.export.export(model, example, dynamic_shapes=dynamic, strict=False)
        except InputError:
            raise
        except Exception as error:  # the tracer raises dozens of types
            raise untraceable(model, error) from error
        try:
            program = torch.onnx.export(
                traced,
                dynamo=True,
                external_data=False,
                opset_version=max(opset, OPSET),
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
            proto = program.model_proto  # type: ignore[union-attr]
            if opset < OPSET:
                _lower_to_17(proto)
            written = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
            if written != opset:
                raise InputError(f"--opset is one that torch's exporter can write, got {opset} (it writes {written})")
            # the exporter writes the newest IR version, which old runtimes refuse although they read the opset
            least = onnx.helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)
            proto.ir_version = min(proto.ir_version, least)
            onnx.checker.check_model(proto, full_check=True)
        except InputError:
            raise
        except Exception as error:  # likewise, the translator and the checker
            raise untranslatable(traced, error, opset) from error
    return proto


def _lower_to_17(proto: onnx.ModelProto) -> None:
    """Write opset 18 as 17: what our networks use of 18 is only the axes of reductions as an input.

    torch's own conversion fails on ReduceMean. Operators that this leaves wrong are found by the checker.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    freed: set[str] = set()
    for node in proto.graph.node:
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) == 2:
            axes = node.input.pop()
            node.attribute.append(helper.make_attribute("axes", numpy_helper.to_array(constants[axes]).tolist()))
            kept = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend(kept)
            freed.add(axes)
        elif node.op_type == "Split":  # without a number of outputs 17 splits evenly over the outputs there are
            kept = [attribute for attribute in node.attribute if attribute.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(kept)
    read = {name for node in proto.graph.node for name in node.input}
    left = [tensor for tensor in proto.graph.initializer if tensor.name in read or tensor.name not in freed]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(left)
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = LEAST_OPSET


def _copied(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU in eval mode, so that the caller's network stays where and as it is."""
    try:
        return copy.deepcopy(model).cpu().eval()
    except Exception as error:  # whatever the network's own attributes raise
        raise InputError(
            f"an exported network can be copied, this one cannot: {sentence(error)}; keep files, locks and tensors "
            "with a history out of its attributes"
        ) from error


def _check_classes(model: torch.nn.Module, image: Shape, texts: Mapping[str, str]) -> None:
    """Run the network once: it takes such images, gives logits, and has one label per class."""
    import torch

    try:
        with torch.no_grad():
            logits = model(torch.zeros((2, *image)))
    except InputError:
        raise
    except Exception as error:  # whatever the network's layers raise
        raise InputError(
            f"a network is exported for images it takes, {image} it does not: {sentence(error)}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 2:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"an exported network gives logits (N, classes), got {got} for 2 images: wrap it so that it does"
        )
    labels = json.loads(texts.get("labels", "null"))
    if labels is not None and len(labels) != logits.shape[1]:
        raise InputError(f"a network has one label per class, got {len(labels)} for {logits.shape[1]} classes")


def _anonymise(proto: onnx.ModelProto, texts: Mapping[str, str]) -> None:
    """Leave in the file nothing of the machine (torch writes stack traces with its paths), then the facts, sorted."""
    from onnx import helper

    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, proto):
        del part.metadata_props[:]
        part.doc_string = ""
    helper.set_model_props(proto, dict(sorted(texts.items())))
