"""Every adversarial example on every artefact: what fooled other files is shown to this one, and it is decided anew.

Only the points that a file's own attacks made are replayed on the others, never what was replayed on it before, so that
the verdicts do not depend on the order in which files are taken, and a second time changes nothing.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from rcnas_edge.attacks import Threat
from rcnas_edge.checkpoint import write_whole
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import Rate
from rcnas_edge.export import Predict
from rcnas_edge.verdict import AttackRow, Comparison, Evasion, Loss, Verdict
from rcnas_edge.verify import masking
from rcnas_edge.verify.decision import decide
from rcnas_edge.verify.keeping import copy_member, write_members
from rcnas_edge.verify.making import check_inside
from rcnas_edge.verify.saved import POINTS, Saved
from rcnas_edge.verify.witness import Ask, asked

RIGHT, CHECKPOINT_RIGHT = "right/", "checkpoint/right/"
AGAINST = ("checkpoint", "reference")


def cross_replay(verdict: Verdict, arrays: Path, predict: Predict, others: Mapping[str, Path]) -> Verdict:
    """The verdict with every adversarial example of other artefacts shown to this one, and its arrays likewise.

    `arrays` and the values of `others`, by the names of the other files, are what `verify` saved; `predict` is the file
    of the verdict. Rows of replayed points have the other file's name as source and the attack, with what its points
    were made on, as name. A checkpoint or parent that two files share has met the points of both. The arrays get
    `right/FILE/ATTACK (SOURCE)` (n,); the points themselves stay in the arrays of the file that they were made for.
    InputError unless all are of the same images, in the same order.
    """
    with ExitStack() as stack:
        own = stack.enter_context(Saved(arrays))
        saved = {name: stack.enter_context(Saved(path)) for name, path in others.items()}
        for other in saved.values():
            own.check_alike(other)
        for kind in AGAINST:
            if getattr(verdict.findings, kind) is not None and f"{kind}/robust" not in own.flags:
                raise InputError(f"{arrays} lacks the flags of the {kind}: verify {verdict.name} again")
        ask, flags = asked(predict), dict(own.flags)
        _check_same_file(own, ask, verdict.name)
        rows = [row for row in verdict.findings.attacks if row.source not in others]
        flags = {key: value for key, value in flags.items() if not _is_of(key, others)}
        for name, other in saved.items():
            for key in other.points:
                source, _, attack = key.removeprefix(POINTS).rpartition("/")
                began, title = time.perf_counter(), f"{attack} ({source})"
                right = _shown(ask, own, other, key, Threat.parse(verdict.findings.threat))
                flags[f"{RIGHT}{name}/{title}"] = right
                seconds = round(time.perf_counter() - began, 3)
                rows.append(AttackRow(title, name, verdict.robust, len(right), 0, seconds))
                if _shared(own, other) and CHECKPOINT_RIGHT + key.removeprefix(POINTS) in other.flags:
                    met = other.flags[CHECKPOINT_RIGHT + key.removeprefix(POINTS)]
                    flags[f"{CHECKPOINT_RIGHT}{name}/{title}"] = met
        found = _anew(verdict, rows, flags, tuple(others))
        _write(arrays, own, flags)
    return found


def _anew(verdict: Verdict, rows: list[AttackRow], flags: dict[str, np.ndarray], others: tuple[str, ...]) -> Verdict:
    """The verdict that all these flags give; sets `robust`, `checkpoint/robust` and `evaded` among them."""
    robust, counted = flags["clean"].copy(), []
    before = None
    for row in rows:
        if row.source in others and before is None:
            before = int(robust.sum())
        robust &= flags[f"{RIGHT}{row.source}/{row.name}"]
        counted.append(replace(row, robust=Rate.of(robust)))
    flags["robust"] = robust
    met = {key: value for key, value in flags.items() if key.startswith(CHECKPOINT_RIGHT)}
    found = verdict.findings
    if found.checkpoint is not None:
        flags["checkpoint/robust"] = np.logical_and.reduce([flags["checkpoint/clean"], *met.values()])
    evasion = found.evasion
    if evasion is not None:
        both = flags["clean"] & flags["checkpoint/clean"]
        evaded = [value & ~flags[key.removeprefix("checkpoint/")] for key, value in met.items()]
        flags["evaded"] = both & np.logical_or.reduce(evaded)
        evasion = Evasion(Rate.of(flags["evaded"][both]), evasion.attack)
    raised = [flag for flag in found.flags if not flag.startswith(tuple(_told(name) for name in others))]
    more = 0 if before is None else before - int(robust.sum())
    told = masking.beaten_flag(
        _told(", ".join(others)), "all attacks of its own", more, found.n, least=masking.CONTINUED
    )
    findings = replace(
        found,
        robust=Rate.of(robust),
        attacks=tuple(counted),
        checkpoint=_again(found.checkpoint, flags, "checkpoint"),
        reference=_again(found.reference, flags, "reference"),
        evasion=evasion,
        flags=(*raised, *([told] if told else [])),
    )
    decision, reasons = decide(findings, verdict.gates, verdict.margin)
    return replace(verdict, decision=decision, reasons=reasons, findings=findings)


def _again(before: Comparison | None, flags: Mapping[str, np.ndarray], kind: str) -> Comparison | None:
    if before is None:
        return None
    other = flags[f"{kind}/robust"]
    return replace(before, robust=Rate.of(other), loss=Loss.of(other, flags["robust"]))


def _told(name: str) -> str:
    return f"what fooled {name}"


def _is_of(key: str, names: Mapping[str, Path]) -> bool:
    """Whether a flag is of points that were replayed from one of these files before."""
    return any(key.startswith((f"{RIGHT}{name}/", f"{CHECKPOINT_RIGHT}{name}/")) for name in names)


def _shared(own: Saved, other: Saved) -> bool:
    """Whether both were held against the same weights."""
    digests = [str(one.flags.get("checkpoint/digest", "")) for one in (own, other)]
    return digests[0] != "" and digests[0] == digests[1]


def _check_same_file(own: Saved, ask: Ask, name: str) -> None:
    clean = np.concatenate([ask(images).argmax(1) for images in own.batches("images")]) == own.flags["labels"]
    if not np.array_equal(clean, own.flags["clean"]):
        raise InputError(
            f"{name} answers {int((clean != own.flags['clean']).sum())} of {len(clean)} clean images otherwise than in "
            "its verdict: it is another file, or another runtime; verify it again"
        )


def _shown(ask: Ask, own: Saved, other: Saved, key: str, threat: Threat) -> np.ndarray:
    """Which of another file's points (n,) this one gets right; they must be in the ball of its own threat."""
    answers = []
    for images, points in zip(own.batches("images"), other.batches(key), strict=True):
        check_inside(f"{other.path.name}, {key},", points, images, threat)
        answers.append(ask(points).argmax(1))
    return np.asarray(np.concatenate(answers) == own.flags["labels"])


def _write(path: Path, own: Saved, flags: Mapping[str, np.ndarray]) -> None:
    """The arrays with these flags and the points as they were, whole."""

    def write(aside: Path) -> None:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            write_members(packed, flags)
            for name in own.file.namelist():
                key = name.removesuffix(".npy")
                if key not in own.flags:
                    with own.file.open(name) as array:
                        copy_member(packed, key, array)

    write_whole(path, write)
