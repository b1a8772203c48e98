"""The measuring of a kit: what is left to do, one thing after the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from rcnas_edge.board.kit import Kit, Results
from rcnas_edge.board.machine import watch
from rcnas_edge.board.timing import STEADY, Pace, difference, network_ms
from rcnas_edge.board.words import Line, in_words, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


SHARE_OF_NETWORKS = 0.2
"""Of a budget of time, kept for whole networks."""
SHARE_OF_WAITING = 0.1
"""Of a budget of time, at most, that is spent on waiting for the pace that the measuring was begun with."""


class Session:
    """The measuring of a kit with one number of threads: what is left to do, and one thing after the other.

    Kernels, and then networks, are timed in so many `passes`; `more` numbers of threads come afterwards.
    """

    def __init__(
        self, kit: Kit, runtime: Any, results: Results, plan: str, threads: int, passes: int, more: int, line: Line
    ) -> None:
        self.kit, self.runtime, self.results, self.plan, self.line = kit, runtime, results, plan, line
        self.threads, self.passes, self.more, self.state = threads, passes, more, results.of(threads)
        self.state["failed"] = {}  # it is tried again
        self.pace = Pace(
            runtime.open(kit.read(kit.manifest["reference"]), threads),
            ms=self.state["pace_ms"],
            references=self.state["references_ms"],
        )
        self.state["pace_ms"] = self.pace.ms
        self.names = {"pairs": kit.manifest["plans"][plan], "networks": list(kit.manifest["networks"])}
        self.seconds: dict[str, list[float]] = {"pairs": [], "networks": []}

    def run(self, pairs_until: float, networks_until: float) -> int:
        """Time what is missing until these moments of the monotonic clock; how many timings are left then.

        The first pass of the kernels leaves time for the networks.
        """
        left = max(0.0, networks_until - time.monotonic())
        self.pace.patience = min(self.pace.patience, SHARE_OF_WAITING * left)
        try:
            for turn in range(1, self.passes + 1):
                self._each("pairs", turn, pairs_until if turn == 1 else networks_until, self._pair)
                self._each("networks", turn, networks_until, self._network)
        finally:  # also when the user interrupts
            self._keep(now=True)
        return sum(len(self._missing(kind, turn + 1)) for kind in self.names for turn in range(self.passes))

    def _each(self, kind: str, turn: int, until: float, work: Callable[[str], float]) -> None:
        """Time everything of a kind that has been timed less often than this."""
        todo = self._missing(kind, turn)
        for place, name in enumerate(todo):
            started = time.monotonic()
            if started > until:
                break
            self._say(kind, turn, len(todo) - place)
            try:
                ms = float(f"{work(name):.6g}")
            except Exception as error:  # the runtimes' have no base; one model that does not run stops no other
                self.state["failed"][name] = f"{type(error).__name__}: {error}"[:300]
            else:
                self.state[kind].setdefault(name, []).append(ms)
                self.results.content[kind][name] = self._about(kind, name)
            spent = time.monotonic() - started
            self.seconds[kind].append(spent)
            self.state["seconds"] += spent
            self._keep(now=False)

    def _missing(self, kind: str, turn: int) -> list[str]:
        known = self.state[kind]
        return [
            name for name in self.names[kind] if len(known.get(name, ())) < turn and name not in self.state["failed"]
        ]

    def _about(self, kind: str, name: str) -> dict[str, Any]:
        """What the results have to say of a model; of the kernels of a network those of this runtime alone."""
        about = self.kit.manifest[kind][name]["about"]
        return {**about, "kernels": about["kernels"][self.plan]} if kind == "networks" else about

    def _pair(self, name: str) -> float:
        files = self.kit.manifest["pairs"][name]
        one, many = (self.runtime.open(self.kit.read(files[part]), self.threads) for part in ("one", "many"))
        found = difference(one, many, self.pace)
        return found if found > 0 else difference(one, many, self.pace)

    def _network(self, name: str) -> float:
        model = self.kit.read(self.kit.manifest["networks"][name]["file"])
        return network_ms(self.runtime.open(model, self.threads), self.pace)

    def _keep(self, *, now: bool) -> None:
        self.state["references_ms"] = [float(f"{ms:.6g}") for ms in self.pace.references]
        self.state["stable"] = self.pace.spread <= STEADY
        watch(self.state["seen"])
        self.results.save(now=now)

    def _say(self, kind: str, turn: int, left: int) -> None:
        what = {"pairs": "kernels"}.get(kind, kind) + (f", pass {turn}," if turn > 1 else "")
        total = len(self.names[kind])
        self.line.show(f"{self.threads} thread(s): {what} {total - left} of {total}", self._time_left())

    def _time_left(self) -> float | None:
        """Seconds for what is missing and for the other numbers of threads, None while nothing was timed."""
        if not self.seconds["pairs"] and not self.seconds["networks"]:
            return None
        pair = float(np.mean(self.seconds["pairs"] or self.seconds["networks"]))
        network = float(np.mean(self.seconds["networks"] or self.seconds["pairs"]))
        seconds = 0.0
        for kind, each in (("pairs", pair), ("networks", network)):
            left = sum(len(self._missing(kind, turn + 1)) for turn in range(self.passes))
            seconds += each * (left + self.more * self.passes * len(self.names[kind]))
        return seconds


def measure(
    kit: Kit, runtime: Any, results: Results, plan: str, threads: Sequence[int], budget: float, passes: int = 1
) -> int:
    """Time the kit with each number of threads, within so many seconds in all; how many timings are left."""
    begun, left = time.monotonic(), 0
    for place, count in enumerate(threads):
        share = (begun + budget - time.monotonic()) / (len(threads) - place)
        start = time.monotonic()
        line = Line(begun + budget)
        session = Session(kit, runtime, results, plan, count, passes, len(threads) - place - 1, line)
        try:
            left += session.run(start + (1 - SHARE_OF_NETWORKS) * share, start + share)
        finally:
            line.end()
        state, failed = session.state, session.state["failed"].values()
        steady = "steady" if state["stable"] else "UNSTEADY: other work, clocks or heat changed its pace; measure again"
        tell(
            f"{count} thread(s): {len(state['pairs'])} kernels and {len(state['networks'])} networks in "
            f"{in_words(state['seconds'])}, the machine was {steady}"
            + (f"; {len(state['failed'])} could not be timed ({next(iter(failed))})" if failed else "")
            + ("; it was THROTTLED by heat or supply" if state["seen"].get("throttled") else "")
        )
    return left
