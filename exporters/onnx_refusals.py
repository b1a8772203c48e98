"""Why a network has no ONNX form, in one sentence that names the layer: what torch raises is pages long."""

from __future__ import annotations

import re
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rcnas_edge.errors import InputError

if TYPE_CHECKING:
    from torch import nn


def untraceable(model: nn.Module, error: Exception) -> InputError:
    """Why torch could not trace a network: its batch is fixed, or a layer does what no trace can hold."""
    message = sentence(error)
    if "specialized" in str(error) or "Constraints violated" in str(error):
        return InputError(
            "an exported network takes any batch size, this one fixes it while it runs: write -1 or "
            f"images.shape[0] for the batch in its forward ({message})"
        )
    return InputError(
        f"an exported network can be traced, {_layer_of(model, error.__traceback__)} cannot: {message}; "
        "branches on the values of a tensor, numpy and printing of values have to leave its forward"
    )


def _layer_of(model: nn.Module, traceback: TracebackType | None) -> str:
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


def untranslatable(traced: Any, error: Exception, opset: int) -> InputError:
    """Name the operator that has no ONNX form, and the layer that uses it."""
    texts: list[str] = []
    cause = error
    while cause is not None and len(texts) < 8:
        texts.append(str(cause))
        cause = cause.__cause__  # type: ignore[assignment]
    operator = re.search(r"OpOverload\(op='([\w.:]+)'", "\n".join(texts))
    if operator is None:
        return InputError(f"a network is written in ONNX opset {opset}, this one is not: {sentence(error)}")
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


def sentence(error: Exception) -> str:
    """The first telling line of a long message, without colours and C++ signatures."""
    plain = re.sub(r"\x1b\[\d+m|/\S+:\d+ \S.*?\) (?=[A-Z])", "", str(error))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".;:")
