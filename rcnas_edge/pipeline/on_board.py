"""Results of boards taken into a run: of a file that somebody sent back, or of a command that measures one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from rcnas_edge.board.bundle import REPLAY
from rcnas_edge.bundle.replay import FOLDER
from rcnas_edge.bundle.results import BoardResults, parse_board_results, read_board_results
from rcnas_edge.checkpoint import file_sha256
from rcnas_edge.cost import show
from rcnas_edge.errors import InputError, UncheckedError
from rcnas_edge.pipeline.board_seen import replays
from rcnas_edge.pipeline.boards import IMPORTED, Board, board_name, board_target
from rcnas_edge.pipeline.bundling import make_bundle
from rcnas_edge.pipeline.stages import Pipeline

COMMAND_SECONDS = 1800.0
"""How long a --measure-command may take."""
RESULTS = "results.json"
MOST_SAID = 300
"""Characters of what a command that failed said last."""


def import_results(pipeline: Pipeline, path: Path, *, name: str | None = None, device: str | None = None) -> Board:
    """Take the results.json of a board into the run, under a name, as one of its devices if it is one.

    Without a name the board is called as its device, else as the machine calls itself. InputError for results of other
    files than the run's, or of other stored examples than its bundle has.
    """
    results, values = read_board_results(path)
    target = board_target(pipeline.opened, device, first=False)
    make_bundle(pipeline)
    _check_ours(pipeline, results, f"{path}")
    board = pipeline.shipping.boards.keep(name or board_name(results, target), target, IMPORTED, values)
    make_bundle(pipeline)  # its budgets may be those of the board now
    return board


def words(pipeline: Pipeline, board: Board) -> list[str]:
    """What a board found, for people."""
    lines = [
        f"{one.ran.file} on {board.words}: {show('latency', one.timing.p50_ms)} ({one.timing.runtime.split(',')[0]}, "
        f"{one.ran.threads} thread(s), {'stable' if one.timing.stable else 'NOT stable'})"
        for one in board.results.benched
    ]
    lines += [
        f"{one.ran.file} on {board.words}: answers reference images {'as' if one.passed else 'OTHERWISE than'} expected"
        for one in board.results.answered
    ]
    return lines + [replay.summary(board.words) for replay in replays(pipeline, board)]


def measure_on_boards(pipeline: Pipeline) -> None:
    """Run each --measure-command whose board has not timed the artefact yet; what fails is said, and kept for later."""
    boards = pipeline.shipping.boards
    for target, command in pipeline.commands().items():
        artefact = pipeline.shipping.export()
        if boards.timed_by(target, command, artefact):
            continue
        pipeline.opened.console.say(f"measuring on {target.profile}: {command}")
        try:
            results, values = commanded(command, make_bundle(pipeline))
            _check_ours(pipeline, results, "the results")
            if boards.benched(results, target, artefact) is None:
                raise UncheckedError(
                    f"it timed no {pipeline.shipping.path.name} with {target.threads} thread(s): let it run "
                    f"'python3 run.py bench --threads {target.threads}'"
                )
            board = boards.keep(target.profile, target, command, values)
        except (InputError, UncheckedError) as error:
            pipeline.unmeasured[target] = str(error)
            pipeline.opened.console.say(f"not measured on {target.profile}: {error}")
        else:
            for line in words(pipeline, board):
                pipeline.opened.console.say(line)


def commanded(command: str, bundle: Path, *, seconds: float | None = None) -> tuple[BoardResults, dict[str, object]]:
    """What a command that runs run.py on a board says: the last JSON on its standard output, or its results.json.

    It is run by the shell in the bundle's folder, which RCNAS_BUNDLE names too. UncheckedError if it fails, takes too
    long or leaves no results.
    """
    limit = COMMAND_SECONDS if seconds is None else seconds
    left = bundle / RESULTS
    left.unlink(missing_ok=True)
    try:
        code, out, err = _run(command, bundle, limit)
        text = _last_results(out)
        if text is None and left.is_file():
            text = left.read_text(encoding="utf-8", errors="replace")
    finally:
        left.unlink(missing_ok=True)
    if text is None:
        said = " ".join((err.strip() or out.strip()).splitlines()[-1:])[:MOST_SAID]
        raise UncheckedError(
            f"the command prints the results of run.py or leaves {RESULTS} where it runs, it did neither (exit code "
            f"{code}{f', it said: {said}' if said else ''}): try it in {bundle}"
        )
    return parse_board_results(text, "the command's results")


def _run(command: str, folder: Path, seconds: float) -> tuple[int, str, str]:
    """Exit code and output of a shell command, which is ended with all that it started when its time is up."""
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "RCNAS_BUNDLE": str(folder.absolute())},
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException as error:
        _end(process)  # all that it started, also if the shell itself has ended by now
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise UncheckedError(
            f"the command has {seconds:g} s, it took longer and was ended: see what it waits for (a password?)"
        ) from None
    return process.returncode, out, err


def _end(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _last_results(out: str) -> str | None:
    """The last line that is the JSON of results, or the whole output if that is."""
    for text in (*reversed(out.splitlines()), out):
        if text.lstrip().startswith("{"):
            try:
                values = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(values, dict) and "results" in values:
                return text
    return None


def _check_ours(pipeline: Pipeline, results: BoardResults, name: str) -> None:
    """InputError unless what ran on the board are the run's files, and what was replayed there its stored examples."""
    digests = {artefact.sha256: file for file, artefact in pipeline.artefacts().items()}
    for ran in results.ran():
        if ran.of_sha256 not in digests:
            raise InputError(
                f"{name} are of this run's files, {ran.of} that ran there is another one (sha256 "
                f"{ran.of_sha256[:12]}...): copy {pipeline.opened.run / FOLDER} to the board and run it again"
            )
    path = pipeline.opened.run / FOLDER / REPLAY
    if results.replayed and (not path.is_file() or file_sha256(path) != results.replay):
        raise InputError(
            f"{name} have a replay of other stored examples than {path}: copy the bundle to the board and replay again"
        )
