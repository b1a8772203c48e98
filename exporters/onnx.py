"""Exports to one ONNX file, weights inside, batch dynamic, with facts about itself; runs it on ONNX Runtime's CPU."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from importlib import metadata as packages
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.checkpoint import write_whole
from rcnas_edge.errors import InputError
from rcnas_edge.export import OPSET, Artefact, Predict, check_answers, weights_digest, write_sidecar
from rcnas_edge.quiet import quiet
from rcnas_edge.space import Shape

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    import torch

LEAST_OPSET = 17
INPUT, OUTPUT = "images", "logits"


class OnnxExporter:
    """A network as one .onnx file in fp32: checked, reproducible to the byte, with batch as a free dimension."""

    format = "onnx"
    suffix = ".onnx"
    precision = "fp32"

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
    ) -> Artefact:
        """Write the network, in eval mode, for images (C, H, W) in [0, 1], and a sidecar `<path>.json`.

        The file is refused, and nothing is written, unless it answers as the network does at batches of 1, 5 and 16
        (relative logit drift <= 1e-4). The network itself is left as it is. The same network and metadata give the
        same bytes. `metadata` is as `export.facts` makes it.
        """
        if opset < LEAST_OPSET:
            raise InputError(f"--opset is at least {LEAST_OPSET}, got {opset}: {OPSET} is what most runtimes read")
        path = Path(path)
        twin = _copied(model)
        texts = self._texts(twin, image, metadata)
        _check_classes(twin, image, texts)
        proto = _translate(twin, image, opset)
        _anonymise(proto, texts)
        serialised = proto.SerializeToString(deterministic=True)
        drift = check_answers(twin, _session_predict(_session(serialised, 1, path.name)), image, name=path.name)
        write_whole(path, lambda aside: _write(aside, serialised))
        artefact = Artefact.of(path, format=self.format, precision=self.precision)
        write_sidecar(artefact, texts, opset=opset, relative_drift=drift)
        return artefact

    def predict(self, artefact: Artefact, *, threads: int = 1) -> Predict:
        """The file on ONNX Runtime's CPU provider: images float32 (N, C, H, W) in [0, 1] to logits (N, classes)."""
        artefact.check()
        return _session_predict(_session(str(artefact.path), threads, artefact.path.name))

    def _texts(self, model: torch.nn.Module, image: Shape, metadata: Mapping[str, str]) -> dict[str, str]:
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise InputError(f"an ONNX file carries texts by name, got {dict(metadata)}: write other values as JSON")
        versions = {"rcnas-edge": _version("rcnas-edge"), **self.settings()}
        return {
            "digest": weights_digest(model),
            "versions": json.dumps(versions, sort_keys=True),
            **metadata,
            "image": json.dumps(list(image)),
            "input_range": json.dumps([0, 1]),
        }


def _version(package: str) -> str:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return "unknown"


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
            raise _untraceable(model, error) from error
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
            onnx.checker.check_model(proto, full_check=True)
        except InputError:
            raise
        except Exception as error:  # likewise, the translator and the checker
            raise _untranslatable(traced, error, opset) from error
    return proto


def _untraceable(model: torch.nn.Module, error: Exception) -> InputError:
    message = _sentence(error)
    if "specialized" in str(error) or "Constraints violated" in str(error):
        return InputError(
            "an exported network takes any batch size, this one fixes it while it runs: write -1 or "
            f"images.shape[0] for the batch in its forward ({message})"
        )
    return InputError(
        f"an exported network can be traced, {_layer_of(model, error.__traceback__)} cannot: {message}; "
        "branches on the values of a tensor, numpy and printing of values have to leave its forward"
    )


def _layer_of(model: torch.nn.Module, traceback: TracebackType | None) -> str:
    """The innermost layer whose forward was running: its path in the network and its class."""
    paths = {id(module): name or "the network itself" for name, module in model.named_modules()}
    found = "a layer of it"
    while traceback is not None:
        code = traceback.tb_frame.f_code
        owner = traceback.tb_frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if code.co_name == "forward" and id(owner) in paths:
            found = f"{paths[id(owner)]} ({type(owner).__name__}, line {traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found


def _untranslatable(traced: Any, error: Exception, opset: int) -> InputError:
    """Name the operator that has no ONNX form, and the layer that uses it."""
    texts: list[str] = []
    cause = error
    while cause is not None and len(texts) < 8:
        texts.append(str(cause))
        cause = cause.__cause__  # type: ignore[assignment]
    operator = re.search(r"OpOverload\(op='([\w.:]+)'", "\n".join(texts))
    if operator is None:
        return InputError(f"a network is written in ONNX opset {opset}, this one is not: {_sentence(error)}")
    for node in traced.graph.nodes:
        if operator[1] in str(node.target):
            scopes = list((node.meta.get("nn_module_stack") or {}).values())
            layer = f" (layer {scopes[-1][0] or 'the network itself'})" if scopes else ""
            break
    else:
        layer = ""
    return InputError(
        f"every operator of a network has a form in ONNX opset {opset}, {operator[1]!r}{layer} has none: "
        "replace the layer, or register a translation with torch.onnx"
    )


def _sentence(error: Exception) -> str:
    """The first telling line of a long message, without colours and C++ signatures."""
    plain = re.sub(r"\x1b\[\d+m|/\S+:\d+ \S.*?\) (?=[A-Z])", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".;:")


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
            f"an exported network can be copied, this one cannot: {_sentence(error)}; keep files, locks and tensors "
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
            f"a network is exported for images it takes, {image} it does not: {_sentence(error)}"
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


def _write(aside: Path, serialised: bytes) -> None:
    aside.write_bytes(serialised)


def _session(model: str | bytes, threads: int, name: str) -> onnxruntime.InferenceSession:
    import onnxruntime

    if threads < 1:
        raise InputError(f"a session has at least one thread, got {threads}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # threads that spin while they wait halve the throughput on a busy machine, and gain 5 % on an idle one
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no public base
        raise InputError(f"{name} must be a model that ONNX Runtime loads, it is not: {_sentence(error)}") from error


def _session_predict(session: onnxruntime.InferenceSession) -> Predict:
    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([OUTPUT], {INPUT: np.ascontiguousarray(images, dtype=np.float32)})[0])

    return predict
