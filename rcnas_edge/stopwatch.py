"""Times specimens and whole networks on this machine for a latency table: short samples, held against a reference.

A table has hundreds of rows, so none can have the seconds of a final number. Each sample is taken in turns with a fixed
reference kernel; a machine that slows down slows both, and the ratio stands. The samples are those of `board`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rcnas_edge.board import Pace, Runner, difference, network_ms
from rcnas_edge.fusion import Kernel
from rcnas_edge.rowgraph import graph_of
from rcnas_edge.space import Layer
from rcnas_edge.specimen import specimen
from rcnas_edge.timing import reference_model, session_runner


class KernelTimer(Protocol):
    """What a table asks of whoever times: this machine, or what another one has written down."""

    @property
    def pace(self) -> float:
        """ms of the reference kernel that all answers are brought to."""

    @property
    def spread(self) -> float:
        """Coefficient of variation of the reference kernel so far."""

    def difference(self, kernel: Kernel, copies: int) -> float:
        """ms that a specimen of so many copies of a kernel takes more than one of a single copy."""


class Timer(KernelTimer, Protocol):
    """One that times whole networks too."""

    def network(self, layers: Sequence[Layer]) -> float:
        """ms of a whole network for one image."""


class Stopwatch:
    """This machine, with so many threads. `pace` is the reference kernel's of an earlier measurement, in ms."""

    def __init__(self, threads: int, *, pace: float | None = None) -> None:
        self.threads = threads
        self._pace = Pace(session_runner(reference_model(), threads), ms=pace)

    @property
    def pace(self) -> float:
        """ms of the reference kernel that all answers are brought to."""
        return self._pace.ms

    @property
    def spread(self) -> float:
        """Coefficient of variation of the reference kernel so far."""
        return self._pace.spread

    def difference(self, kernel: Kernel, copies: int) -> float:
        """The two specimens in turns, of each the 20th percentile, which other processes do not reach."""
        one, many = (self._runner(specimen(kernel, count)) for count in (1, copies))
        return difference(one, many, self._pace)

    def network(self, layers: Sequence[Layer]) -> float:
        """In turns with the reference kernel; the median of several calls is worth more than one."""
        return network_ms(self._runner(layers), self._pace)

    def _runner(self, layers: Sequence[Layer]) -> Runner:
        return session_runner(graph_of(layers).SerializeToString(), self.threads)
