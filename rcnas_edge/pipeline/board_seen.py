"""What was seen on boards of a run's files, beside the verdicts of the host: for its report and its exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rcnas_edge.board.bundle import REPLAY
from rcnas_edge.bundle.replay import FOLDER, read_replay
from rcnas_edge.bundle.results import Benched, Ran
from rcnas_edge.bundle.verdict import NOT_REPLAYED, Replay, judged
from rcnas_edge.checkpoint import file_sha256
from rcnas_edge.export import Artefact
from rcnas_edge.pipeline.boards import Board
from rcnas_edge.pipeline.stages import Pipeline
from rcnas_edge.profile import Target
from rcnas_edge.verify import LEVELS

OTHER_EXAMPLES = (
    "it replayed other stored examples than the bundle has now: copy the bundle again, and run 'python3 run.py replay'"
)
LATENCY = ("p50_ms", "p95_ms", "stable", "runtime", "threads", "runs", "provider", "at_pace")


def replays(pipeline: Pipeline, board: Board) -> list[Replay]:
    """What the replays of a board say of files as they are now; none of them if its stored examples were others."""
    path = pipeline.opened.run / FOLDER / REPLAY
    files = pipeline.artefacts()
    wanted = [one for one in board.results.replayed if one.ran.of_sha256 in _digests(files)]
    if not wanted or not path.is_file() or file_sha256(path) != board.results.replay:
        return []
    stored, margin, found = read_replay(path), LEVELS[pipeline.opened.setting.level].margin, []
    for one in wanted:
        source = _digests(files)[one.ran.of_sha256]
        found.append(
            judged(one, stored, pipeline.verifying.known_verdict(source), margin, doubt=_doubt(board, one.ran))
        )
    return found


def _doubt(board: Board, ran: Ran) -> str:
    """What the selftest of a board found wrong with a file that ran there; empty if nothing."""
    if board.results.whole is False:
        return "files of the bundle were damaged on the board, so what ran there may be another network: copy it again"
    if any(
        not one.passed and (one.ran.sha256, one.ran.provider) == (ran.sha256, ran.provider)
        for one in board.results.answered
    ):
        return f"{ran.file} answers the reference images otherwise than expected there, see its selftest"
    return ""


def seen(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The boards of report.json: of each what it is, and per file latency, drift and replay."""
    files, found = pipeline.artefacts(), []
    for board in pipeline.shipping.boards.of(files):
        results = board.results
        judgements = {_key(replay.ran): replay.to_dict() for replay in replays(pipeline, board)}
        if results.replayed and not judgements:
            judgements = {_key(one.ran): _not_replayed(one.when) for one in results.replayed}
        drifts = {_key(one.ran): one for one in results.answered}
        timings = {_key(one.ran): one for one in results.benched}
        rows = []
        for key, ran in {_key(ran): ran for ran in results.ran() if ran.of_sha256 in _digests(files)}.items():
            answered = drifts.get(key)
            rows.append(
                {
                    **{name: value for name, value in asdict(ran).items() if name != "runtime"},
                    "runtime": ran.runtime.split(",")[0],
                    "drift": None if answered is None else answered.drift,
                    "as_expected": None if answered is None else answered.passed,
                    "latency": _latency(timings.get(key)),
                    "replay": judgements.get(key),
                }
            )
        target = None if board.target is None else str(board.target)
        about = {"name": board.name, "target": target, "source": board.source, "machine": dict(results.machine)}
        found.append({**about, "files_whole": results.whole, "files": rows})
    return found


def board_codes(pipeline: Pipeline) -> list[int]:
    """The exit codes of the replays of the artefact, and of engines built of it; other precisions inform."""
    artefact = pipeline.shipping.export()
    return [
        replay.exit_code
        for board in pipeline.shipping.boards.of({artefact.path.name: artefact})
        for replay in replays(pipeline, board)
        if replay.ran.of_sha256 == artefact.sha256
    ]


def unmeasured(pipeline: Pipeline) -> list[str]:
    """One sentence for each --measure-command that has given no latency of the artefact yet."""
    boards, artefact = pipeline.shipping.boards, pipeline.shipping.export()
    found = []
    for target, command in pipeline.commands().items():
        if not boards.timed_by(target, command, artefact):
            why = pipeline.unmeasured.get(target, "it was not run to its end")
            found.append(f"The latency on {target} was to be measured by --measure-command {command!r}: {why}.")
    return found


def unlike(pipeline: Pipeline) -> list[str]:
    """One sentence for each limit in % of the teacher, who was not on the board that the file was timed on."""
    boards, bench = measured_on(pipeline), pipeline.opened.bench
    return [
        f"The limit of {budget.asked} on {budget.target} is of a teacher whose latency was "
        f"{'that of this machine' if budget.target in bench.here else 'predicted'}, and the file was timed on "
        f"{boards[budget.target].words}: a --max-latency in ms is a limit of the board itself."
        for budget in bench.budgets
        if budget.quantity == "latency" and budget.target in boards and budget.relative
    ]


def measured_on(pipeline: Pipeline) -> Mapping[Target, Board]:
    """The board that a target's latency was measured on, where there is one."""
    return {
        target: board for target, (board, _) in pipeline.shipping.boards.timings(pipeline.shipping.export()).items()
    }


def _digests(files: Mapping[str, Artefact]) -> dict[str, Artefact]:
    return {artefact.sha256: artefact for artefact in files.values()}


def _key(ran: Ran) -> tuple[str, str, int]:
    """A file as something ran it, whatever else is said of that."""
    return ran.sha256, ran.provider, ran.threads


def _latency(found: Benched | None) -> dict[str, Any] | None:
    return None if found is None else {name: getattr(found.timing, name) for name in LATENCY}


def _not_replayed(when: str) -> dict[str, Any]:
    empty = dict.fromkeys(("clean", "robust", "host_clean", "host_robust", "same", "loss"))
    return {"decision": NOT_REPLAYED, "reasons": [OTHER_EXAMPLES], "when": when, "n": 0, "points": 0, **empty}
