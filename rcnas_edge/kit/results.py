"""results.json of a kit: read as a stranger's file, checked field by field, and made into values.

`recorded` makes a device profile of them. Every problem is one sentence: the file, the field, the value, the rule, the
way out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcnas_edge.board.kit import KIT
from rcnas_edge.board.timing import Timing, apart
from rcnas_edge.errors import InputError
from rcnas_edge.kit import CHECK, FIT, rows_digest
from rcnas_edge.measure.planning import timed_part
from rcnas_edge.pipeline.here import TIMED
from rcnas_edge.profile.bounds import (
    MOST_THREADS,
    check_choice,
    check_count,
    check_flag,
    check_keys,
    check_mapping,
    check_number,
    check_plain,
    check_size,
    check_table,
    check_words,
    refuse,
    shown,
)
from rcnas_edge.profile.fusion import Kernel, Key
from rcnas_edge.profile.row import Row

RUNTIMES = (*TIMED, "tensorrt", "tensorrt-rtx")
"""Of profiles: what a kit can be run by."""
MOST_BYTES = 50_000_000
MOST_TIMINGS, MOST_PASSES, MOST_COPIES, MOST_PARTS = 100_000, 1000, 64, 64
"""Of one setting, of one kernel, of a kernel in a specimen, and of the parts of a slice or concat."""
REMEASURE = "measure with a new kit ('rcnas-edge profile kit')"
_KERNEL = re.compile(r"([a-z0-9_]+) ([a-z]+)((?: (?:-1|0|[1-9][0-9]{0,6})){7})", re.ASCII)
_THREADS = re.compile("[1-9][0-9]{0,3}", re.ASCII)


@dataclass(frozen=True)
class Whole:
    """A whole network of a kit: what it is for, the size of its image, its weights, and how often it runs a kernel."""

    role: str
    image: str
    megabytes: float
    kernels: Mapping[Kernel, int]


@dataclass(frozen=True)
class Setting:
    """What was timed with one number of threads: `kernels`, each by its part that was timed, and whole networks, in ms.

    `parts` has the ms of one copy, the median of the passes. It is the `stopwatch.KernelTimer` of a measurement: of a
    kernel that was not timed the difference is no number.
    """

    threads: int
    pace: float
    references: tuple[float, ...]
    kernels: tuple[Kernel, ...]
    parts: Mapping[Kernel, float]
    networks: Mapping[str, float]
    passes: int
    seconds: float
    when: str
    seen: Mapping[str, Any]
    failed: Mapping[str, str]

    waited = 0.0

    @property
    def spread(self) -> float:
        """How far the reference kernel was from its pace, as a share."""
        return apart(self.references, self.pace)

    def difference(self, kernel: Kernel, copies: int) -> float:
        """ms that a specimen of so many copies of a kernel takes more than one of a single copy."""
        return self.parts.get(kernel, float("nan")) * (copies - 1)


@dataclass(frozen=True)
class Results:
    """All that a board wrote down."""

    kit: Mapping[str, Any]
    runtime: str
    machine: Mapping[str, Any]
    networks: Mapping[str, Whole]
    settings: tuple[Setting, ...]
    models: tuple[Mapping[str, Any], ...]


def read_results(path: Path) -> Results:
    """The results of a kit; InputError says what is wrong with the file."""
    try:
        size = path.stat().st_size
        if not path.is_file() or size > MOST_BYTES:
            raise InputError(f"results are a file of at most {MOST_BYTES / 1e6:.0f} MB, {path} has {size / 1e6:.3g} MB")
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is to be the results.json of a kit, it is no JSON: {error}; copy it again") from error
    try:
        return _results(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _results(values: object) -> Results:
    if isinstance(values, Mapping) and "bundle" in values:
        raise InputError(
            "these are the results of a bundle: 'rcnas-edge verify --out RUN --import results.json' takes them"
        )
    names = ("results", "kit", "runtime", "machine", "pairs", "networks", "threads", "models")
    found = check_table("results", values, names, REMEASURE)
    if found["results"] != KIT:
        raise refuse("the version of results", f"{KIT} here", found["results"], REMEASURE)
    kit = check_table("kit", found["kit"], ("digest", "made_by", "cover"), REMEASURE)
    check_words("kit digest", kit["digest"])
    check_words("kit made_by", kit["made_by"])
    for key, value in check_mapping("kit cover", kit["cover"]).items():
        check_plain(f"kit cover {shown(key)}", key, value)
    check_choice("runtime", found["runtime"], RUNTIMES)
    machine = check_mapping("machine", found["machine"])
    for key in ("cpu", "features", "runtime"):
        check_words(f"machine {key}", machine.get(key), empty=key == "features")
    check_keys("machine", machine, MACHINE)
    for key, value in machine.items():
        check_plain(f"machine {shown(key)}", key, value)
    about = {name: _pair(name, value) for name, value in _many("pairs", found["pairs"]).items()}
    networks = {name: _whole(name, value) for name, value in _many("networks", found["networks"]).items()}
    settings = check_mapping("threads", found["threads"])
    if len(settings) > 64:
        raise refuse("threads", "a table of at most 64 numbers of threads", len(settings), "correct it")
    models = found["models"]
    if not isinstance(models, list) or len(models) > 1000:
        raise refuse("models", "a list of at most 1000 timings", models)
    return Results(
        kit,
        found["runtime"],
        machine,
        networks,
        tuple(_setting(threads, value, about, networks) for threads, value in settings.items()),
        tuple(_model(f"model {number}", model) for number, model in enumerate(models, start=1)),
    )


def kernel_of(where: str, text: object) -> Kernel:
    """The kernel of a name (`kit.name_of`), whose fields are those of a row."""
    found = _KERNEL.fullmatch(text) if isinstance(text, str) else None
    if not found:
        raise refuse(where, "a kernel, as 'conv plain 3 1 1 32 32 16 16'", text, REMEASURE)
    kernel, stride, groups, height, width, channels_in, channels_out = map(int, found[3].split())
    key = Key(found[1], found[2], kernel, stride, groups, height, width)
    row = Row("fp32", 1, key, channels_in, channels_out, 1.0)
    if key.operation in ("slice", "concat") and channels_out > MOST_PARTS:
        raise refuse(f"the parts of {where}", f"at most {MOST_PARTS}", channels_out)
    return row.kernel


def _pair(name: str, value: object) -> tuple[Kernel, int]:
    """The kernel and the copies of a pair of specimens, which have to be those of this version."""
    where = f"pair {shown(name)}"
    found, kernel = check_table(where, value, ("copies", "rows"), REMEASURE), kernel_of("the name of a pair", name)
    check_count(f"{where} copies", found["copies"], most=MOST_COPIES)
    check_words(f"{where} rows", found["rows"])
    try:
        expected = rows_digest(kernel, found["copies"])
    except (InputError, ArithmeticError, LookupError, ValueError) as error:
        raise InputError(f"{where} is a kernel that specimens are made of, of this one none is: {REMEASURE}") from error
    if found["rows"] != expected:
        raise refuse(f"{where} rows", f"{expected}, the specimens of this version", found["rows"], REMEASURE)
    return kernel, found["copies"]


def _whole(name: str, value: object) -> Whole:
    where = f"network {shown(name)}"
    found = check_table(where, value, ("role", "image", "megabytes", "kernels"), REMEASURE)
    check_choice(f"{where} role", found["role"], (FIT, CHECK))
    check_size(f"{where} image", found["image"])
    check_number(f"{where} megabytes", found["megabytes"], most=1e6)
    kernels: dict[Kernel, int] = {}
    for text, count in check_mapping(f"{where} kernels", found["kernels"]).items():
        check_count(f"{where} {shown(text)}", count, most=100_000)
        kernels[kernel_of(f"a kernel of {where}", text)] = count
    if not kernels:
        raise InputError(f"{where} has at least one kernel, got none: {REMEASURE}")
    return Whole(found["role"], found["image"], float(found["megabytes"]), kernels)


MACHINE = ("cpu", "features", "runtime", "board", "gpu", "cores", "system", "python", "numpy")
SEEN = ("load", "clocks_mhz", "temperature_c", "governor", "throttle_count", "throttled")
STATE = ("pace_ms", "references_ms", "pairs", "networks", "failed", "seconds", "seen", "when", "stable")


def _setting(
    threads: str, value: object, about: Mapping[str, tuple[Kernel, int]], whole: Mapping[str, Whole]
) -> Setting:
    if not _THREADS.fullmatch(threads) or int(threads) > MOST_THREADS:
        raise refuse("a key of threads", f"a number from 1 to {MOST_THREADS}", threads)
    where = f"threads {threads}"
    found = check_table(where, value, STATE, REMEASURE)
    check_number(f"{where} pace_ms", found["pace_ms"], above=True)
    references = _times(f"{where} references_ms", found["references_ms"], most=10 * MOST_TIMINGS)
    check_number(f"{where} seconds", found["seconds"], most=1e9)
    check_words(f"{where} when", found["when"])
    check_flag(f"{where} stable", found["stable"])
    check_keys(f"{where} seen", check_mapping(f"{where} seen", found["seen"]), SEEN)
    for key, seen in found["seen"].items():
        for part in seen if isinstance(seen, list) and len(seen) == 2 else [seen]:
            check_plain(f"{where} seen {shown(key)}", key, part)
            if isinstance(seen, list):
                check_number(f"{where} seen {shown(key)}", part, least=-1e15, most=1e15)
    failed = _many(f"{where} failed", found["failed"])
    for name, reason in failed.items():
        check_words(f"{where} failed {shown(name)}", reason)
    kernels: list[Kernel] = []
    parts: dict[Kernel, float] = {}
    passes = 0
    for name, times in _many(f"{where} pairs", found["pairs"]).items():
        if name not in about:
            raise refuse(f"a key of {where} pairs", "one of the pairs of the file", name, REMEASURE)
        kernel, copies = about[name]
        samples = _times(f"{where} pair {shown(name)}", times, most=MOST_PASSES, negative=True)
        passes = max(passes, len(samples))
        kernels.append(kernel)
        parts[timed_part(kernel)[0]] = float(np.median(samples)) / copies
    networks: dict[str, float] = {}
    for name, times in _many(f"{where} networks", found["networks"]).items():
        if name not in whole:
            raise refuse(f"a key of {where} networks", "one of the networks of the file", name, REMEASURE)
        networks[name] = float(np.median(_times(f"{where} network {shown(name)}", times, most=MOST_PASSES)))
    return Setting(
        int(threads),
        float(found["pace_ms"]),
        references,
        tuple(kernels),
        parts,
        networks,
        passes,
        float(found["seconds"]),
        found["when"],
        found["seen"],
        failed,
    )


def _model(where: str, value: object) -> Mapping[str, Any]:
    """The timing of a file of the user's."""
    numbers = [name for name, kind in Timing.__annotations__.items() if kind in ("float", "int")]
    given = {"at_pace": 1.0, **value} if isinstance(value, dict) else value  # earlier kits counted every turn
    found = check_table(where, given, ("file", "sha256", "when", *Timing.__annotations__), REMEASURE)
    for key in ("file", "sha256", "when", "runtime", "provider"):
        check_words(f"{where} {key}", found[key])
    check_flag(f"{where} stable", found["stable"])
    for key in numbers:
        if key != "load" or found[key] is not None:
            check_number(f"{where} {key}", found[key], most=1.0 if key == "at_pace" else 1e9)
    return found


def _times(where: str, value: object, *, most: int, negative: bool = False) -> tuple[float, ...]:
    """Times in ms; a difference of two may be negative."""
    if not isinstance(value, list) or not len(value) <= most:
        raise refuse(where, f"a list of at most {most} times in ms", value)
    for ms in value:
        check_number(where, ms, least=-1e7 if negative else 0.0, above=not negative)
    if not value and not where.endswith("references_ms"):
        raise refuse(where, "a list of at least one time in ms", value)
    return tuple(map(float, value))


def _many(where: str, value: object) -> Mapping[str, Any]:
    """A table with a bounded number of names."""
    found = check_mapping(where, value)
    if len(found) > MOST_TIMINGS:
        raise refuse(where, f"a table of at most {MOST_TIMINGS} entries", len(found))
    for name in found:
        check_words(f"a key of {where}", name)
    return found
