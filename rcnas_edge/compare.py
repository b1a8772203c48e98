"""Several finished runs side by side: what was asked differently, what came of it, and whether that is a difference.

Runs are read from their report.json. Where two of them attacked the same test images in the same ball, their
per-example arrays decide: a paired difference with its interval and exact McNemar's p-value (`rcnas_edge.evaluate`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rcnas_edge.checkpoint import read_json
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import mcnemar, paired_difference
from rcnas_edge.report import report
from rcnas_edge.report.words import (
    amount,
    beside,
    duration,
    epsilon_of,
    flat,
    interval,
    name_of,
    percent,
    plain,
    timed_on,
)

REPORT = "report.json"
ARRAYS = ("clean", "robust", "labels", "images")
SIGNIFICANT = 0.05
"""The p-value below which a difference is called one."""


class NotComparable(Exception):
    """Why two runs cannot be held against each other image by image, as a clause."""


@dataclass(frozen=True)
class Told:
    """A run as its report tells it; `name` is short and differs from that of the others."""

    name: str
    folder: Path
    content: Mapping[str, Any]

    @cached_property
    def artefact(self) -> Mapping[str, Any] | None:
        """The first file that was attacked, else the first there is."""
        made = self.content["artefacts"] or []
        attacked = (artefact for artefact in made if artefact["verdict"] and artefact["verdict"]["robust"])
        return next(attacked, next(iter(made), None))

    @property
    def verdict(self) -> Mapping[str, Any] | None:
        """What is said about that file."""
        return None if self.artefact is None else self.artefact["verdict"]

    def rate(self, kind: str) -> Mapping[str, Any] | None:
        """The robust or the clean rate of that file, if it was attacked."""
        return self.verdict[kind] if self.verdict else None

    @property
    def target(self) -> str | None:
        """What its figures are of: the first target that it was timed on, else the first one."""
        targets = [name_of(target) for target in self.content["targets"] or []] or list(self.content["cost"] or {})
        measured = (name for name in targets if timed_on(self.content, name))
        return next(measured, next(iter(targets), None))

    @property
    def cost(self) -> Mapping[str, Any]:
        """The student's cost on that target."""
        return (self.content["cost"] or {}).get(self.target) or {}

    @property
    def latency_ms(self) -> float | None:
        """The measured median, else the prediction."""
        return self.timed[0] if self.timed else self.cost.get("latency")

    @property
    def timed(self) -> tuple[float, str] | None:
        """The measured median in ms, and on what: runtime, provider and threads; None if nothing was timed."""
        timed = (self.artefact or {}).get("latency")
        if not timed or timed["p50_ms"] is None:
            return None
        threads = "threads not known" if timed["threads"] is None else f"{timed['threads']} thread(s)"
        return timed["p50_ms"], ", ".join([*(timed[key] for key in ("runtime", "provider") if timed[key]), threads])

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Flags, labels and images of every example that was attacked; NotComparable if they are missing or others."""
        rate = self.rate("robust")
        if self.artefact is None or rate is None:
            raise NotComparable(f"{self.name} was not attacked")
        path = self.folder / f"verdict.{self.artefact['format']}-{self.artefact['precision']}.npz"
        try:
            with np.load(path, allow_pickle=False) as saved:
                found = {name: saved[name] for name in ARRAYS}
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise NotComparable(f"the per-example arrays of {self.name} ({path.name}) are not there") from error
        hits = int(np.count_nonzero(found["robust"]))
        if (hits, len(found["robust"])) != (rate["hits"], rate["total"]):
            raise NotComparable(f"the per-example arrays of {self.name} ({path.name}) are not those of its report")
        return found


@dataclass(frozen=True)
class Difference:
    """How much more often `second` is right than `first`, as fractions, on the same n images, with a 95 % interval."""

    value: float
    low: float
    high: float
    p_value: float
    only_first: int
    only_second: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Difference:
        """From flags (n,) of both."""
        only = (int(np.count_nonzero(a & ~b)) for a, b in ((first, second), (second, first)))
        return cls(*paired_difference(second, first), mcnemar(first, second), *only)

    def __str__(self) -> str:
        ends = f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        return f"{100 * self.value:+.1f} points {ends}, {p}"


@dataclass(frozen=True)
class Pair:
    """Two runs on the same images, or in `reason` why they cannot be held against each other; `note` is a caution."""

    first: Told
    second: Told
    n: int = 0
    robust: Difference | None = None
    clean: Difference | None = None
    reason: str = ""
    note: str = ""

    def __str__(self) -> str:
        """One sentence for people."""
        names = f"{self.second.name} against {self.first.name}"
        if self.robust is None or self.clean is None:
            return f"{names}: not comparable, because {self.reason}"
        said = "no difference in robust accuracy is shown"
        if self.robust.p_value < SIGNIFICANT:
            said = f"{self.second.name} is {'more' if self.robust.value > 0 else 'less'} robust"
        return (
            f"{names}, on the same {self.n} images: {said} (robust {self.robust}, exact McNemar; right only under "
            f"{self.first.name} {self.robust.only_first}, only under {self.second.name} {self.robust.only_second}; "
            f"clean {self.clean}){'; ' + self.note if self.note else ''}"
        )


def read_runs(folders: Sequence[Path]) -> tuple[Told, ...]:
    """The runs in these folders; InputError names the first that has no report, and a folder that is given twice."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError(f"a comparison is of different runs, got {' '.join(map(str, folders))}: give each folder once")
    short = [folder.resolve().name for folder in folders]
    found = []
    for folder, name in zip(folders, short, strict=True):
        path = folder / REPORT
        if not path.is_file():
            raise InputError(
                f"a run that is compared has a {REPORT}, {folder} has none: write it with 'rcnas-edge report {folder}'"
            )
        values = read_json(path)
        if not isinstance(values, dict):
            raise InputError(f"{path} must be a report, it is not: write it with 'rcnas-edge report {folder}'")
        try:
            content = report(values)
        except InputError as error:
            raise InputError(f"{path}: {error}; write it anew with 'rcnas-edge report {folder}'") from error
        found.append(Told(name if short.count(name) == 1 else str(folder), folder, content))
    return tuple(found)


def asked_differently(runs: Sequence[Told]) -> list[tuple[str, list[str]]]:
    """What the tasks do not agree on, with what each of them says."""
    asked = [dict(flat(run.content["task"] if isinstance(run.content["task"], Mapping) else {})) for run in runs]
    rows = [(key, [task.get(key, "not given") for task in asked]) for key in dict.fromkeys(key for task in asked for key in task)]  # noqa: E501  # fmt: skip
    return [(key, words) for key, words in rows if len(set(words)) > 1]


def side_by_side(runs: Sequence[Told]) -> list[tuple[str, list[str]]]:
    """What came of each run, row by row; a row that no run has is left out."""
    columns = [dict(_figures(run)) for run in runs]
    rows = [(label, [column[label] for column in columns]) for label in columns[0]]
    return [(label, words) for label, words in rows if any(words)]


def _figures(run: Told) -> Iterator[tuple[str, str]]:
    """The same labels for every run; empty words for what it does not have."""
    content, verdict, cost = run.content, run.verdict or {}, run.cost
    teacher = content["teacher"] or {}
    whole = (teacher.get("cost") or {}).get(run.target) or {}
    yield "verdict", verdict.get("decision") or ("did not finish" if content["failed"] else "not checked")
    for name in ("robust", "clean"):
        yield f"{name} accuracy", _rate(run.rate(name))
    yield "threat", verdict.get("threat") or ""
    yield "teacher", teacher.get("name") or ""
    yield "teacher, robust", _rate(teacher.get("robust"))
    timed = timed_on(content, run.target) if run.target else None
    taken = None if run.timed is None else run.timed[0]
    yield "latency, measured", _of_teacher(taken, "ms", beside(timed, whole.get("latency")))
    yield "timed on", "" if run.timed is None else run.timed[1]
    yield "latency, predicted", _of_teacher(cost.get("latency"), "ms", None)
    yield "MACs", _of_teacher(cost.get("macs"), "", whole.get("macs"))
    yield "parameters", _of_teacher(cost.get("params"), "", whole.get("params"))
    yield "file", "" if run.artefact is None else amount(run.artefact["bytes"], "bytes")
    rows = content["budgets"] or []
    met = [row["met"] for row in rows]
    yield "budgets met", f"{met.count(True)} of {len(met)}" if met and None not in met else ""
    network = content["architecture"] or {}
    yield "architecture", network.get("name") or ""
    stages = network.get("stages") or []
    yield (
        "blocks x channels",
        ", ".join(f"{plain(one['depth'])}x{plain(one['width'])} {one['block']}" for one in stages),
    )
    searched = content["search"] or {}
    yield "search", f"{searched['strategy']}, {plain(searched['evaluations'])} evaluations" if searched else ""
    yield "training", f"{plain(content['training']['epochs'])} epochs" if content["training"] else ""
    seconds = (content["seconds"] or {}).get("all")
    yield "time", "" if seconds is None else duration(seconds)


def _rate(rate: Mapping[str, Any] | None) -> str:
    return f"{percent(rate['value'])} {interval(rate)}" if rate else ""


def _of_teacher(value: float | None, unit: str, whole: float | None) -> str:
    if value is None:
        return ""
    return amount(value, unit) + (f" ({percent(value / whole)} of the teacher)" if whole else "")


def pairs(runs: Sequence[Told]) -> list[Pair]:
    """Every later run against the first."""
    return [pair(runs[0], other) for other in runs[1:]]


def pair(first: Told, second: Told) -> Pair:
    """Two runs on the very images that both attacked."""
    try:
        _check_alike(first, second)
        one, other = first.arrays, second.arrays
        _check_images(one, other)
    except NotComparable as reason:
        return Pair(first, second, reason=str(reason))
    levels = [(run.verdict or {}).get("level") for run in (first, second)]
    return Pair(
        first,
        second,
        n=len(one["labels"]),
        robust=Difference.of(one["robust"], other["robust"]),
        clean=Difference.of(one["clean"], other["clean"]),
        note=""
        if levels[0] == levels[1]
        else f"they were attacked at different levels ({' and '.join(map(plain, levels))})",
    )


def _check_alike(first: Told, second: Told) -> None:
    """The same data set and the same ball; of a threat's text only norm and epsilon reach a verdict's attacks."""
    tasks = [run.content["task"] if isinstance(run.content["task"], Mapping) else {} for run in (first, second)]
    names = [plain(task.get("dataset")) for task in tasks]
    if names[0] != names[1]:
        raise NotComparable(f"their data sets differ ({names[0]} and {names[1]})")
    threats = [(run.verdict or {}).get("threat") for run in (first, second)]
    if None not in threats and _ball(str(threats[0])) != _ball(str(threats[1])):
        raise NotComparable(f"their threats differ ({threats[0]} and {threats[1]})")


def _check_images(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    counts = len(one["labels"]), len(other["labels"])
    if counts[0] != counts[1]:
        raise NotComparable(f"they attacked different test images ({counts[0]} and {counts[1]} of them)")
    if any(not np.array_equal(one[name], other[name]) for name in ("labels", "images")):
        raise NotComparable("they attacked different test images")


def _ball(threat: str) -> tuple[str, object]:
    """Norm and epsilon: linf:8/255:10 is ("linf", 0.0313725)."""
    norm, _, rest = threat.partition(":")
    epsilon = epsilon_of(threat)
    return norm, rest if epsilon is None else float(f"{epsilon:.6g}")
