"""Times specimens and whole networks on this machine for a latency table: short samples, held against a reference.

A table has hundreds of rows, so none can have the seconds of a final number. Each sample is taken in turns with a fixed
reference kernel, waits for turns in which that runs at its pace, and is brought to one pace by what drift is left. The
samples are those of `board.timing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rcnas_edge.board.timing import Pace, difference, network_ms
from rcnas_edge.measure.rowgraph import graph_of
from rcnas_edge.measure.specimen import specimen
from rcnas_edge.measure.timing import reference_model, session_runner
from rcnas_edge.profile.fusion import Kernel
from rcnas_edge.quantise import int8_model
from rcnas_edge.space import Layer


class KernelTimer(Protocol):
    """What a table asks of whoever times: this machine, or what another one has written down."""

    @property
    def pace(self) -> float:
        """ms of the reference kernel that all answers are brought to."""

    @property
    def spread(self) -> float:
        """Coefficient of variation of the reference kernel so far."""

    @property
    def passes(self) -> int:
        """Timings that an answer is the median of."""

    @property
    def waited(self) -> float:
        """Seconds so far in which it waited for the machine; they are no part of a budget."""

    def difference(self, kernel: Kernel, copies: int) -> float:
        """ms that a specimen of so many copies of a kernel takes more than one of a single copy."""


class Timer(KernelTimer, Protocol):
    """One that times whole networks too."""

    def network(self, layers: Sequence[Layer]) -> float:
        """ms of a whole network for one image."""


class Outrun(Exception):
    """The machine has become quicker than the pace that a table was begun with: `ms` of the reference kernel now."""

    def __init__(self, ms: float) -> None:
        super().__init__(f"the reference kernel takes {ms:.3g} ms now")
        self.ms = ms


class Stopwatch:
    """This machine, with so many threads, in fp32 or int8. `pace` is the reference kernel's of an earlier measurement,
    in ms; it is in fp32 always. A `strict` one raises `Outrun` where the machine turns out to be quicker than that: a
    small network gains more than the reference kernel does, so what was timed at the slower pace is not like the rest.
    """

    passes = 1

    def __init__(
        self, threads: int, *, precision: str = "fp32", pace: float | None = None, strict: bool = False
    ) -> None:
        self.threads, self.precision, self.strict = threads, precision, strict
        self._quantised: dict[tuple[Kernel, int], bytes] = {}
        self._pace = Pace(session_runner(reference_model(), threads), ms=pace)

    @property
    def pace(self) -> float:
        """ms of the reference kernel that all answers are brought to."""
        return self._pace.ms

    @property
    def spread(self) -> float:
        """Coefficient of variation of the reference kernel so far."""
        return self._pace.spread

    @property
    def waited(self) -> float:
        """Seconds so far in which samples waited for the machine to be at its pace."""
        return self._pace.waited

    def difference(self, kernel: Kernel, copies: int) -> float:
        """The two specimens in turns, of each the 20th percentile, which other processes do not reach."""
        one, many = (session_runner(self._specimen(kernel, count), self.threads) for count in (1, copies))
        ms = difference(one, many, self._pace)
        self._check()
        return ms

    def network(self, layers: Sequence[Layer]) -> float:
        """In turns with the reference kernel; the median of several calls is worth more than one."""
        ms = network_ms(session_runner(self._model(layers), self.threads), self._pace)
        self._check()
        return ms

    def _check(self) -> None:
        if self.strict and self._pace.outrun:
            raise Outrun(self._pace.quick)

    def _specimen(self, kernel: Kernel, copies: int) -> bytes:
        """Quantised ones are kept for the next pass: each takes a tenth of a second to make."""
        if self.precision != "int8":
            return self._model(specimen(kernel, copies))
        if (kernel, copies) not in self._quantised:
            self._quantised[kernel, copies] = self._model(specimen(kernel, copies, integer=True))
        return self._quantised[kernel, copies]

    def _model(self, layers: Sequence[Layer]) -> bytes:
        return written(layers, self.precision)


def written(layers: Sequence[Layer], precision: str) -> bytes:
    """The network of these rows with random weights as ONNX; in int8 with ranges from a random image.

    What has neither a convolution nor a linear layer stays as it is: there is nothing to quantise.
    """
    graph = graph_of(layers)
    model = graph.SerializeToString()
    if precision != "int8" or not any(layer.kind in ("conv", "linear") for layer in layers):
        return model
    shape = [size.dim_value for size in graph.graph.input[0].type.tensor_type.shape.dim]
    return int8_model(model, [np.random.default_rng(0).random(shape, dtype=np.float32)])
