"""Times specimens and whole networks on this machine for a latency table: short samples, held against a reference.

A table has hundreds of rows, so none can have the seconds of a final number. Each sample is taken in turns with a fixed
reference kernel; a machine that slows down slows both, and the ratio stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rcnas_edge.fusion import Kernel
from rcnas_edge.rowgraph import graph_of
from rcnas_edge.space import Layer
from rcnas_edge.specimen import specimen
from rcnas_edge.timing import Runner, reference_model, session_runner

TURNS, RUNS_PER_TURN, TURN_SECONDS = 4, 20, 0.01
REFERENCES = 5
"""Last timings of the reference kernel whose median is the machine's pace now."""


class Timer(Protocol):
    """What a measurement asks of whoever times: this machine, or what another one has written down."""

    @property
    def pace(self) -> float:
        """ms of the reference kernel that all answers are brought to."""

    @property
    def spread(self) -> float:
        """Coefficient of variation of the reference kernel so far."""

    def difference(self, kernel: Kernel, copies: int) -> float:
        """ms that a specimen of so many copies of a kernel takes more than one of a single copy."""

    def network(self, layers: Sequence[Layer]) -> float:
        """ms of a whole network for one image."""


class Stopwatch:
    """This machine, with so many threads. `pace` is the reference kernel's of an earlier measurement, in ms."""

    def __init__(self, threads: int, *, pace: float | None = None) -> None:
        self.threads = threads
        self.references: list[float] = []
        self._reference = session_runner(reference_model(), threads)
        self._reference.warm(0.2, 100)
        self.pace = pace or float(np.median([_quick(self._reference) for _ in range(9)]))

    @property
    def spread(self) -> float:
        """Coefficient of variation of the reference kernel so far."""
        return float(np.std(self.references) / np.mean(self.references)) if self.references else 0.0

    def drift(self) -> float:
        """How much slower the machine runs now than at `pace`, by the last reference timings."""
        self.references.append(_quick(self._reference))
        return float(np.median(self.references[-REFERENCES:])) / self.pace

    def difference(self, kernel: Kernel, copies: int) -> float:
        """The two specimens in turns, of each the 20th percentile, which other processes do not reach."""
        one, many = (
            session_runner(graph_of(specimen(kernel, count)).SerializeToString(), self.threads) for count in (1, copies)
        )
        one.times(10)
        once = float(np.median(many.times(10))) / 1e3
        runs = int(np.clip(TURN_SECONDS / once, 3, RUNS_PER_TURN))
        times: list[list[np.ndarray]] = [[], []]
        for _ in range(TURNS):
            for found, runner in zip(times, (one, many), strict=True):
                found.append(runner.times(runs))
        low, high = (float(np.percentile(np.concatenate(found), 20)) for found in times)
        return (high - low) / self.drift()

    def network(self, layers: Sequence[Layer]) -> float:
        """The median of turns with the reference kernel, as a report's number is a median."""
        runner = session_runner(graph_of(layers).SerializeToString(), self.threads)
        runner.warm(TURN_SECONDS, RUNS_PER_TURN)
        found, drifts = [], []
        for _ in range(TURNS):
            found.append(runner.times_for(TURN_SECONDS))
            drifts.append(self.drift())
        return float(np.median(np.concatenate(found)) / np.median(drifts))


def _quick(runner: Runner) -> float:
    return float(np.percentile(runner.times(RUNS_PER_TURN), 20))
