"""An ONNX file as a differentiable network: `reimport` reads it, `Reimported` computes what the file computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from rcnas_edge.errors import InputError
from rcnas_edge.reimport.graph import Graph, Node, read_graph
from rcnas_edge.reimport.operators import OPERATORS, SCALED_ALIKE, WITH_SCALES
from rcnas_edge.reimport.quantised import Scaled, real


@dataclass(frozen=True)
class Step:
    """One node as a function of values by name; `last` are the names that nobody reads after it."""

    node: Node
    function: Callable[..., Any]
    last: tuple[str, ...] = ()

    def run(self, values: dict[str, Any]) -> None:
        """Read the inputs, write the outputs."""
        inputs = [values[name] if name else None for name in self.node.inputs]
        result = self._apply(inputs)
        outputs = result if isinstance(result, (list, tuple)) else (result,)
        values.update(zip(self.node.outputs, outputs, strict=False))
        for name in self.last:
            values.pop(name, None)

    def _apply(self, inputs: list[Any]) -> Any:
        operator = self.node.operator
        if (
            operator in SCALED_ALIKE
            and isinstance(inputs[0], Scaled)
            and (inputs[0].scale.ndim == 0 or operator == "Relu")
        ):
            return replace(inputs[0], whole=self.function(inputs[0].whole, *inputs[1:]))
        return self.function(*(inputs if operator in WITH_SCALES else map(real, inputs)))


class Reimported(nn.Module):
    """An ONNX classifier in torch: images (N, ...) float32 as the file takes them to its output (N, classes).

    It has no parameters: what the file holds are buffers, so that `.to(device)` works. Numbers of 16 bits are computed
    in 32, as ONNX Runtime does on a CPU. `quantised` says whether the file rounds (QuantizeLinear); with
    `straight_through` rounding passes the gradient, else it is zero there, as it really is. A batch size that the file
    fixes (`batch`) is free here.
    """

    def __init__(self, graph: Graph, *, straight_through: bool, name: str) -> None:
        super().__init__()
        self.name, self.straight_through = name, straight_through
        self.quantised, self.half_precision = graph.quantised, graph.half
        self.input, self.output, self.image, self.batch = graph.input, graph.output, graph.image, graph.batch
        self.steps: tuple[Step, ...] = ()
        self.fixed: dict[str, Any] = {}
        self.stored: dict[str, tuple[str, ...]] = {}
        steps = self._fold(graph)
        self._keep(graph.constants, steps)
        self._try()

    def forward(self, images: Tensor) -> Tensor:
        """What the file computes for images (N, ...)."""
        values = self._values(images)
        for step in self.steps:
            step.run(values)
        return real(values[self.output])

    def _values(self, images: Tensor) -> dict[str, Any]:
        """The image and the constants, by name."""
        values: dict[str, Any] = {**self.fixed, self.input: images}
        for name, buffers in self.stored.items():
            tensors = [getattr(self, buffer) for buffer in buffers]
            values[name] = tensors[0] if len(tensors) == 1 else Scaled(*tensors)
        return values

    def _fold(self, graph: Graph) -> list[Step]:
        """Build every node; those that read constants only are computed now."""
        steps, known = [], graph.constants
        for node in graph.nodes:
            step = self._build(node)
            if all(name in known for name in node.inputs if name):
                with _told(node, self.name):
                    step.run(known)
            else:
                steps.append(step)
        if not steps:
            raise InputError(f"a classifier's output depends on the image, that of {self.name} does not")
        return steps

    def _build(self, node: Node) -> Step:
        if node.operator not in OPERATORS:
            raise InputError(
                f"{self.name} cannot be attacked white-box: the operator {node} is not supported; supported are "
                + ", ".join(sorted(OPERATORS))
            )
        with _told(node, self.name):
            function = OPERATORS[node.operator](node)
        if node.operator == "QuantizeLinear":
            function = partial(function, straight_through=self.straight_through)
        return Step(node, function)

    def _keep(self, constants: dict[str, Any], steps: list[Step]) -> None:
        """Keep the constants that are read: real numbers as buffers, whole ones, which are shapes, where they are."""
        readers: dict[str, int] = {}
        for place, step in enumerate(steps):
            readers |= dict.fromkeys(step.node.inputs, place)
        for name in readers:
            value = constants.get(name)
            if isinstance(value, Scaled):
                self._store(name, value.whole, value.scale)
            elif isinstance(value, Tensor) and (value.is_floating_point() or value.dtype in (torch.uint8, torch.int8)):
                self._store(name, value)
            elif value is not None:
                self.fixed[name] = value
        last: dict[int, list[str]] = {}
        for name, place in readers.items():
            if name != self.output:
                last.setdefault(place, []).append(name)
        self.steps = tuple(
            Step(step.node, step.function, tuple(last.get(place, ()))) for place, step in enumerate(steps)
        )

    def _store(self, name: str, *tensors: Tensor) -> None:
        buffers: list[str] = []
        for tensor in tensors:
            buffers.append(f"constant_{len(self.stored)}_{len(buffers)}")
            self.register_buffer(buffers[-1], tensor)
        self.stored[name] = tuple(buffers)

    def _try(self) -> None:
        """Run once, so that what cannot be computed is known now, with its node."""
        if None in self.image[1:]:
            return
        sizes = [size or 1 for size in self.image]
        images = torch.rand(sizes, generator=torch.Generator().manual_seed(0)).requires_grad_()
        values = self._values(images)
        for step in self.steps:
            with _told(step.node, self.name):
                step.run(values)


@contextmanager
def _told(node: Node, name: str) -> Iterator[None]:
    """Whatever a node raises becomes one sentence that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # torch raises many types for shapes that do not fit
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"{name} cannot be attacked white-box: {node}: {reason[:200]}") from error


def reimport(model: bytes | Path | onnx.ModelProto, *, straight_through: bool = True, name: str = "") -> Reimported:
    """Read an ONNX classifier as a differentiable network, in eval mode, on the CPU.

    `name` is what errors call it. Raises InputError, which names operator and node, for what is not supported. Whether
    the network answers as the file does is for `agreement` to say: attack it only then.
    """
    called = name or (model.name if isinstance(model, Path) else "the model")
    network = Reimported(read_graph(model, name=called), straight_through=straight_through, name=called)
    return network.eval()
