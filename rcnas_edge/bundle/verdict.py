"""What a replay on a board says beside the verdict of the host: whether that carries over to the board's arithmetic.

A replay shows stored points to the file on the board. The points were made on the host, so it is transfer: fewer right
answers there are real, as many say that the host's verdict carries over and never more than that verdict did. In this
order it decides:

1. If every answer is the host's, it agrees, whatever n is.
2. A gate that the replay does not reach fails it ("replay fails"): attacks can only overrate a network. The stored
   images may be some of those that were attacked; then only an upper bound below the gate does, and a rate below it is
   never more than "inconclusive".
3. Without a verdict of the host on the file there is nothing to carry over ("inconclusive").
4. The paired loss of robust and of clean accuracy against the host, on the same points and images: above the level's
   margin it fails, with an upper bound above the margin n is too small to tell, and a gain above the margin says that
   this is other arithmetic than the one attacked ("inconclusive"). Else it agrees.

Damaged files, and answers to the reference images that are not the expected ones, leave no more than "inconclusive".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rcnas_edge.board.checks import still_right
from rcnas_edge.bundle.results import Ran, Replayed
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import Rate
from rcnas_edge.verdict import Loss, Verdict

AGREES, FAILS, UNSURE, NOT_REPLAYED = "replay agrees", "replay fails", "inconclusive", "not replayed"
BOARD_CODES = {AGREES: 0, FAILS: 4, UNSURE: 5, NOT_REPLAYED: 0}
GAINED = {
    "adversarial": "the points were made for other arithmetic, and fool this one less; only an attack on the board's "
    "own arithmetic could tell",
    "clean": "clean images are answered otherwise there, so what was attacked is not what runs on the board",
}


@dataclass(frozen=True)
class Replay:
    """The replay of n stored images and of points that attacks made of them, on one board by one runtime.

    The `host_` rates are of the file that was attacked there, on the same images; `same` are equal answers, right or
    wrong; `loss` is what the board lost against the host. They are None where the host has no answers.
    """

    ran: Ran
    when: str
    points: int
    clean: Rate
    robust: Rate
    host_clean: Rate | None
    host_robust: Rate | None
    same: Rate | None
    loss: Loss | None
    decision: str
    reasons: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 where it agrees, 4 where it fails, 5 where it does not tell."""
        return BOARD_CODES[self.decision]

    def summary(self, where: str) -> str:
        """Two lines for people."""
        there = "" if self.host_robust is None else f", on the host {self.host_robust}"
        return (
            f"{self.ran.file} on {where} ({self.ran.runtime}): {self.decision} (adversarial {self.robust}{there}; "
            f"clean {self.clean})\n  {'; '.join(self.reasons)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `replay` in report.json."""
        rates = {name: getattr(self, name) for name in ("clean", "robust", "host_clean", "host_robust", "same")}
        loss = None if self.loss is None else {**vars(self.loss), "bootstrap": None}
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "when": self.when,
            "n": self.clean.total,
            "points": self.points,
            **{name: None if rate is None else rate.to_dict() for name, rate in rates.items()},
            "loss": loss,
        }


def judged(
    found: Replayed, stored: Mapping[str, np.ndarray], verdict: Verdict | None, margin: float, *, doubt: str = ""
) -> Replay:
    """What a replay says; `verdict` is the host's on the file that ran, or that an engine was built of.

    `stored` are the arrays of the bundle's replay.npz, `doubt` what the board's selftest found wrong. InputError if the
    answers are of other examples.
    """
    of, n = stored["of"], len(stored["labels"])
    if (len(found.right), len(found.right_points)) != (n, len(of)):
        raise InputError(
            f"a replay answers the bundle's {n} images and {len(of)} points, that of {found.ran.file} has "
            f"{len(found.right)} and {len(found.right_points)}: copy the bundle again, and replay"
        )
    robust = still_right(found.right, found.right_points, of)
    host = _host(stored, found.ran.of)
    values: dict[str, Any] = {"host_clean": None, "host_robust": None, "same": None, "loss": None}
    if host is not None:
        there = still_right(*host, of)
        same = np.concatenate([host[0] == found.right, host[1] == found.right_points])
        values = {
            "host_clean": Rate.of(host[0]),
            "host_robust": Rate.of(there),
            "same": Rate.of(same),
            "loss": Loss.of(there, robust),
        }
    replay = Replay(
        found.ran, found.when, len(of), Rate.of(found.right), Rate.of(robust), **values, decision=UNSURE, reasons=()
    )
    lost_clean = None if host is None else Loss.of(host[0], found.right)
    decision, reasons = _decided(replay, lost_clean, verdict, margin)
    if doubt:
        decision, reasons = (UNSURE, (doubt,)) if decision == AGREES else (decision, (*reasons, doubt))
    said = f"a replay of {len(of)} points that were made on the host: no attack was run on the board"
    return Replay(**{**vars(replay), "decision": decision, "reasons": (*reasons, said)})


def _host(stored: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Which images (n,) and points (m,) the host got right with a file, None if its answers were not stored."""
    if f"host/{name}/images" not in stored:
        return None
    labels = stored["labels"]
    return stored[f"host/{name}/images"] == labels, stored[f"host/{name}/points"] == labels[stored["of"]]


def _decided(replay: Replay, clean: Loss | None, verdict: Verdict | None, margin: float) -> tuple[str, tuple[str, ...]]:
    nothing = UNSURE, ("the host did not attack this file, so there is no verdict that could carry over",)
    if verdict is None:
        return nothing
    carried = f"the host's verdict on {replay.ran.of}, {verdict.decision}, carries over"
    if replay.same is not None and replay.same.hits == replay.same.total:
        return AGREES, (f"as many answers are right as on the host, and the same ones: {carried}",)
    asked, attacked = verdict.gates.min_robust, verdict.findings.n
    below = asked is not None and replay.robust.value < asked
    if asked is not None and below and (replay.robust.high < asked or replay.robust.total >= attacked):
        return FAILS, (f"adversarial accuracy {replay.robust} is below the {100 * asked:g} % asked for",)
    if replay.loss is None or clean is None:
        return nothing
    losses = (("adversarial", replay.loss), ("clean", clean))
    for kind, loss in losses:
        if loss.value > margin:
            return FAILS, (f"{kind} accuracy lost against the host, {loss}, is above {100 * margin:g} points",)
    for kind, loss in losses:
        if -loss.value > margin:
            return UNSURE, (f"{-100 * loss.value:.1f} points more are right than on the host: {GAINED[kind]}",)
    for kind, loss in losses:
        if loss.high > margin:
            return UNSURE, (
                f"{kind} accuracy lost against the host, {loss}, may be above {100 * margin:g} points: "
                f"n = {replay.robust.total} images are too few to tell",
            )
    if asked is not None and below:
        return UNSURE, (
            f"adversarial accuracy {replay.robust} may be below the {100 * asked:g} % asked for: the replay has "
            f"{replay.robust.total} of the {attacked} images that were attacked",
        )
    return AGREES, (
        f"adversarial accuracy lost against the host, {replay.loss}, is within {100 * margin:g} points: {carried}",
    )
