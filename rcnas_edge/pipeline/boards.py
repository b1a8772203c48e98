"""What boards found about a run's files: results of run.py, kept in boards/, each with the device that the board is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from rcnas_edge.bundle.results import Benched, BoardResults, board_results
from rcnas_edge.checkpoint import read_json
from rcnas_edge.errors import InputError
from rcnas_edge.export import Artefact
from rcnas_edge.pipeline.opened import Opened
from rcnas_edge.profile import Target
from rcnas_edge.profile.bounds import check_name

FOLDER = "boards"
ENGINES = ("tensorrt", "tensorrt-rtx")
"""Runtimes of a profile whose latency is that of an engine, which was built of the artefact."""
IMPORTED = "imported"
"""Where results are from, if no command brought them."""


@dataclass(frozen=True)
class Board:
    """A board by its name: the target that it is, if it is one of the run's, and what it found.

    `source` says how the results came: IMPORTED, or the command that gave them.
    """

    name: str
    target: Target | None
    source: str
    results: BoardResults

    @property
    def words(self) -> str:
        """The board for people."""
        machine = self.results.machine
        what = str(machine.get("board") or machine["cpu"])
        return self.name if what == self.name else f"{self.name} ({what})"


class Boards:
    """The folder boards/ of a run."""

    def __init__(self, opened: Opened) -> None:
        self.opened, self.run = opened, opened.run

    def keep(self, name: str, target: Target | None, source: str, values: Mapping[str, Any]) -> Board:
        """Keep the checked values of a results.json under a board's name, in the place of what it found before.

        Without a replay among them, what it replayed before of the same files stays, with its selftest.
        """
        check_name(name)
        found = self._with_replays(name, values)
        content = {"target": None if target is None else str(target), "source": source, "results": found}
        self.run.keep(f"{FOLDER}/{name}.json", {}, content)
        return Board(name, target, source, board_results(found))

    def kept(self) -> list[Board]:
        """The boards that there are; InputError for a file that is none."""
        folder = self.run / FOLDER
        return [self._read(path) for path in sorted(folder.glob("*.json"))] if folder.is_dir() else []

    def of(self, artefacts: Mapping[str, Artefact]) -> list[Board]:
        """The boards that ran any of these files, by name, as they are now."""
        digests = {artefact.sha256 for artefact in artefacts.values()}
        return [board for board in self.kept() if any(ran.of_sha256 in digests for ran in board.results.ran())]

    def timings(self, artefact: Artefact) -> dict[Target, tuple[Board, Benched]]:
        """Per target that boards are, how long the artefact, or for TensorRT the engine, takes on the slowest."""
        found: dict[Target, tuple[Board, Benched]] = {}
        for target, board, benched in self._timed(artefact):
            if target not in found or benched.timing.p50_ms > found[target][1].timing.p50_ms:
                found[target] = (board, benched)
        return found

    def timed_by(self, target: Target, command: str, artefact: Artefact) -> bool:
        """Whether this command has timed the artefact on the board that it measures."""
        return any(
            (timed, board.name, board.source) == (target, target.profile, command)
            for timed, board, _ in self._timed(artefact)
        )

    def _timed(self, artefact: Artefact) -> list[tuple[Target, Board, Benched]]:
        found = []
        for board in self.of({artefact.path.name: artefact}):
            target = self._target(board)
            benched = None if target is None else self.benched(board.results, target, artefact)
            if target is not None and benched is not None:
                found.append((target, board, benched))
        return found

    def _with_replays(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values, with the replays that a board of this name made of the same files before, if they have none."""
        path, found = self.run / FOLDER / f"{name}.json", dict(values)
        if found["replay"] or not path.is_file():
            return found
        files = {ran.of_sha256 for ran in board_results(values).ran()}
        before, known = self._read(path).results, read_json(path)["results"]
        if any(one.ran.of_sha256 in files for one in before.replayed):
            found["bundle"] = {**found["bundle"], "replay": before.replay}
            found["replay"] = known["replay"]
            found["selftest"] = found["selftest"] or known["selftest"]
        return found

    def _target(self, board: Board) -> Target | None:
        """The target that a board is; what a command measured in the place of this machine counts while it is asked."""
        if board.target is None or board.target not in self.opened.task.targets:
            return None
        asked = (IMPORTED, *(command for _, command in self.opened.setting.measure_commands))
        return board.target if board.target not in self.opened.bench.here or board.source in asked else None

    def benched(self, results: BoardResults, target: Target, artefact: Artefact) -> Benched | None:
        """The latency that is the target's: with its threads, and by the runtime of its profile."""
        engine = self.opened.bench.profiles[target].runtime in ENGINES
        for one in reversed(results.benched):
            own = one.ran.sha256 == artefact.sha256
            if one.ran.of_sha256 == artefact.sha256 and own != engine and (engine or one.ran.threads == target.threads):
                return one
        return None

    def _read(self, path: Path) -> Board:
        values = read_json(path)
        try:
            check_name(path.stem)
            target = None if values["target"] is None else Target.parse(str(values["target"]))
            return Board(path.stem, target, str(values["source"]), board_results(values["results"]))
        except (KeyError, TypeError, InputError) as error:
            raise InputError(
                f"{path} holds what a board found, it cannot be read ({error}): delete it, and import the results again"
            ) from error


def board_name(results: BoardResults, target: Target | None) -> str:
    """What a board is called if nobody names it: as its target's profile, or by what the machine calls itself."""
    if target is not None:
        return target.profile
    machine = results.machine
    words = str(machine.get("board") or machine.get("cpu") or "board").lower()
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:64] or "board"


@overload
def board_target(opened: Opened, device: str | None, *, first: Literal[True]) -> Target: ...
@overload
def board_target(opened: Opened, device: str | None, *, first: Literal[False]) -> Target | None: ...
def board_target(opened: Opened, device: str | None, *, first: bool) -> Target | None:
    """The target that a board is: of the named profile, else the only one that is not this machine.

    With `first`, where every target is this machine, it is the first one. InputError for a name that no target has.
    """
    targets = opened.task.targets
    if device is not None:
        found = next((target for target in targets if target.profile == device), None)
        if found is None:
            names = ", ".join(target.profile for target in targets)
            raise InputError(f"a board is one of the run's devices ({names}), got {device!r}: correct the name")
        return found
    others = [target for target in targets if target not in opened.bench.here]
    if len(others) == 1:
        return others[0]
    if len(others) > 1:
        names = ", ".join(target.profile for target in others)
        raise InputError(
            f"the run is for several devices that are not this machine ({names}): say which one the board is"
        )
    return targets[0] if first else None
