"""results.json of a bundle: read as a stranger's file, checked field by field, and made into values.

Every problem is one sentence: the file, the field, the value, the rule, the way out. Rates are not believed: a replay
brings a bit for each answer, of which they are counted anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcnas_edge.board.bundle import BUNDLE
from rcnas_edge.board.timing import Timing
from rcnas_edge.errors import InputError
from rcnas_edge.profile.bounds import (
    MOST_THREADS,
    check_count,
    check_flag,
    check_mapping,
    check_number,
    check_plain,
    check_table,
    check_words,
    refuse,
    shown,
)
from rcnas_edge.reading import MOST_TEXT, read_limited

AGAIN = "run it again with the run.py of the bundle"
KEYS = ("results", "bundle", "machine", "selftest", "bench", "replay", "predict", "engines")
NETWORK = ("file", "sha256", "of", "of_sha256", "runtime", "provider", "threads")
MOST_ENTRIES = 1000
MOST_EXAMPLES = 10_000_000
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Ran:
    """A file that ran on a board, and what ran it; `of_sha256` is the ONNX file that an engine was built of."""

    file: str
    sha256: str
    of: str
    of_sha256: str
    runtime: str
    provider: str
    threads: int


@dataclass(frozen=True)
class Answered:
    """How far a file's answers to the reference images are off those that were expected, relative to the largest."""

    ran: Ran
    drift: float | None
    passed: bool


@dataclass(frozen=True)
class Benched:
    """How long one image took."""

    ran: Ran
    timing: Timing
    when: str


@dataclass(frozen=True, eq=False)
class Replayed:
    """Which of n stored images (n,) and of m points (m,) that attacks made of them were classified right."""

    ran: Ran
    right: np.ndarray
    right_points: np.ndarray
    when: str


@dataclass(frozen=True)
class BoardResults:
    """All that run.py wrote down on one board; `replay` is the sha256 of the stored examples that it had."""

    digest: str
    replay: str | None
    machine: Mapping[str, Any]
    whole: bool | None
    answered: tuple[Answered, ...]
    benched: tuple[Benched, ...]
    replayed: tuple[Replayed, ...]

    def ran(self) -> list[Ran]:
        """What ran there, each once."""
        parts: tuple[Answered | Benched | Replayed, ...] = (*self.answered, *self.benched, *self.replayed)
        return list(dict.fromkeys(part.ran for part in parts))


def read_board_results(path: Path) -> tuple[BoardResults, dict[str, Any]]:
    """What a board found, and the file's own values; InputError says what is wrong with the file."""
    try:
        text = read_limited(path, MOST_TEXT, "the results of a bundle").decode("utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is to be the results.json of a bundle, it is no text: copy it again") from error
    return parse_board_results(text, f"{path}")


def parse_board_results(text: str, name: str) -> tuple[BoardResults, dict[str, Any]]:
    """What a board found, of the text of its results.json, which is called `name`."""
    try:
        values = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name} is to be the results.json of a bundle, it is no JSON: {error}; copy it again"
        ) from error
    try:
        return board_results(values), values
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def board_results(values: object) -> BoardResults:
    """The values of a results.json, checked."""
    found = check_mapping("results", values)
    if "kit" in found:
        raise InputError(
            "these are the results of a kit: 'rcnas-edge profile import results.json --name NAME' takes them"
        )
    found = check_table("results", found, KEYS, AGAIN)
    if found["results"] != BUNDLE:
        raise refuse("the version of results", f"{BUNDLE} here", found["results"], AGAIN)
    bundle = check_table("bundle", found["bundle"], ("digest", "made_by", "replay"), AGAIN)
    check_words("bundle made_by", bundle["made_by"])
    _check_sha256("bundle digest", bundle["digest"])
    if bundle["replay"] is not None:
        _check_sha256("bundle replay", bundle["replay"])
    machine = check_mapping("machine", found["machine"])
    for key, value in machine.items():
        check_plain(f"machine {shown(key)}", key, value)
    for key in ("cpu", "board", "system", "python", "numpy"):
        check_words(f"machine {key}", machine.get(key), empty=True)
    whole, answered = _selftest(found["selftest"])
    return BoardResults(
        bundle["digest"],
        bundle["replay"],
        machine,
        whole,
        answered,
        tuple(_bench(f"bench {number}", one) for number, one in _entries("bench", found["bench"])),
        tuple(_replay(f"replay {number}", one) for number, one in _entries("replay", found["replay"])),
    )


def _selftest(value: object) -> tuple[bool | None, tuple[Answered, ...]]:
    if value is None:
        return None, ()
    found = check_table("selftest", value, ("files", "wrong", "outputs", "when"), AGAIN)
    answered = []
    for number, one in _entries("selftest outputs", found["outputs"]):
        where = f"selftest output {number}"
        ran = _ran(where, one, ("drift", "tolerance", "same", "n", "passed"))
        check_flag(f"{where} passed", one["passed"])
        if one["drift"] is not None:
            check_number(f"{where} drift", one["drift"], most=1e30)
        answered.append(Answered(ran, one["drift"], one["passed"]))
    return not check_mapping("selftest wrong", found["wrong"]), tuple(answered)


def _bench(where: str, value: object) -> Benched:
    timed = Timing.__annotations__
    given = {"at_pace": 1.0, **value} if isinstance(value, dict) else value  # earlier bundles counted every turn
    ran = _ran(where, given, (*(key for key in timed if key not in NETWORK), "seen", "when"))
    found = check_mapping(where, given)
    check_words(f"{where} when", found["when"])
    check_flag(f"{where} stable", found["stable"])
    for key, kind in timed.items():
        if kind in ("float", "int") and not (key == "load" and found[key] is None):
            most = 1.0 if key == "at_pace" else 1e9
            check_number(f"{where} {key}", found[key], most=most, above=key in ("p50_ms", "p95_ms"))
    for key in ("runs", "threads", "sessions"):
        check_count(f"{where} {key}", found[key])
    values = {key: found[key] for key in timed}
    return Benched(ran, Timing(**{**values, "load": -1.0 if values["load"] is None else values["load"]}), found["when"])


def _replay(where: str, value: object) -> Replayed:
    keys = ("n", "points", "clean", "robust", "right", "right_points", "host", "seconds", "when")
    ran = _ran(where, value, keys)
    found = check_mapping(where, value)
    check_words(f"{where} when", found["when"])
    check_count(f"{where} n", found["n"], most=MOST_EXAMPLES)
    check_count(f"{where} points", found["points"], least=0, most=MOST_EXAMPLES)
    return Replayed(
        ran,
        _bits(f"{where} right", found["right"], found["n"]),
        _bits(f"{where} right_points", found["right_points"], found["points"]),
        found["when"],
    )


def _bits(where: str, value: object, count: int) -> np.ndarray:
    """So many flags of their hex; a bit too many is refused."""
    if not isinstance(value, str) or len(value) != 2 * -(-count // 8) or not re.fullmatch("[0-9a-f]*", value):
        raise refuse(where, f"hex of {count} bits", value, AGAIN)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(value), dtype=np.uint8))
    if bits[count:].any():
        raise refuse(where, f"hex of {count} bits, and zeros to the end of a byte", value, AGAIN)
    return bits[:count].astype(bool)


def _ran(where: str, value: object, more: tuple[str, ...]) -> Ran:
    """The network of an entry, which has these other keys too."""
    found = check_table(where, value, (*NETWORK, *more), AGAIN)
    for key in ("file", "of", "runtime", "provider"):
        check_words(f"{where} {key}", found[key])
    for key in ("sha256", "of_sha256"):
        _check_sha256(f"{where} {key}", found[key])
    check_count(f"{where} threads", found["threads"], most=MOST_THREADS)
    return Ran(**{key: found[key] for key in NETWORK})


def _entries(where: str, value: object) -> list[tuple[int, Any]]:
    if not isinstance(value, list) or len(value) > MOST_ENTRIES:
        raise refuse(where, f"a list of at most {MOST_ENTRIES} entries", value, AGAIN)
    return list(enumerate(value, start=1))


def _check_sha256(where: str, value: object) -> None:
    if not isinstance(value, str) or not SHA256.fullmatch(value):
        raise refuse(where, "a sha256 of 64 hex digits", value, AGAIN)
