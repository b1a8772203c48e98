"""The commands of the documentation in smoke form: which flags and words are made small, all of it in these tables."""

from __future__ import annotations

from collections.abc import Sequence

from conftest import ATTACK

TEACHER = "the teacher of the tests"
"""In `SMALL`, for its folder."""

ELSEWHERE = "raspberry-pi-5"
"""A device that needs no measuring: that of the machine at hand is tried by `profile measure`, and by other tests."""

SMALL: dict[tuple[str, ...], dict[str, str]] = {
    ("compress",): {
        **{"--subset": "300", "--evaluations": "2", "--judge-epochs": "1", "--finalists": "1", "--epochs": "1"},
        **{"--level": "smoke", "--device": "cpu", "--max-latency": "50ms", "--teacher": TEACHER, "--attack": ATTACK},
        **{"--also": "none", "--profile": ELSEWHERE, "--base": "wrn-10-1"},
    },
    ("teacher",): {
        "--subset": "100",
        "--epochs": "1",
        "--attack-steps": "2",
        "--level": "smoke",
        "--network": "wrn-10-1",
    },
    ("search",): {
        **{"--subset": "100", "--evaluations": "1", "--judge-epochs": "1", "--finalists": "1"},
        **{
            "--device": "cpu",
            "--max-latency": "50ms",
            "--teacher": TEACHER,
            "--attack": ATTACK,
            "--profile": ELSEWHERE,
        },
    },
    ("meta-train",): {"--tasks": "1", "--evaluations": "1", "--together": "1", "--device": "cpu"},
    ("train",): {"--epochs": "1"},
    ("verify",): {"--level": "smoke", "--device": "cpu"},
    ("bench",): {"--seconds": "0.3s"},
    ("profile", "kit"): {"--base": "wrn-10-1", "--image": "1x8x8"},
    ("profile", "measure"): {"--base": "wrn-10-1", "--image": "1x8x8", "--budget": "5s"},
}
"""By command the flags that are set to small values, whether they stand there or not but for the following."""
WHERE_GIVEN = ("--max-latency", "--qat-epochs")
"""Flags that are set only where they stand."""
WHERE_NOT_GIVEN = ("--teacher", "--attack", "--also", "--profile", "--base")
"""Flags that are set only where they do not stand."""
LIMITED = ("--max-latency", "--max-macs", "--max-size", "task.toml", "wrong.toml")
KEPT_IN_A_PLAN = ("--subset", "--device", "--profile")
"""Flags of `SMALL` that a --dry-run gets, which trains nothing."""
ON_BOARDS = {"kit.zip": {"--budget": "4s", "--passes": "1"}, "bench": {"--seconds": "0.3s"}}
"""The same for what the board's Python runs."""
PLANNED = ("index.md", "method/", "reference/")
"""Pages whose `compress` is only planned (--dry-run), unless later steps need what it makes."""
MADE = ("method/export.md",)

REPLACED = {
    "tutorials/own-classifier.md": [("EPOCHS = 15", "EPOCHS = 1")],
    "tutorials/verify-onnx.md": [("EPOCHS = 30", "EPOCHS = 3")],
    "method/rc-nas.md": [
        ("judge_epochs = 2", "judge_epochs = 1"),
        ('name = "digits"', 'name = "digits"\nsubset = 100'),
        ("digits-wrn-16-2", TEACHER),
    ],
    "reference/python.md": [('max_latency="60%")', 'max_latency="50ms", **SMALLEST)')],
}
"""By page what is another text in the files and the Python of its steps."""
SMALLEST = {
    **{"subset": 100, "evaluations": 1, "judge_epochs": 1, "finalists": 1, "epochs": 1, "level": "smoke"},
    **{"device": "cpu", "also": "none", "profile": ELSEWHERE},
}
"""`SMALLEST` in the Python of a page."""
NO_DATA = {
    ("--dataset", "cifar10"): ("--dataset", "digits"),
    ("--data-root", "DIR"): (),
    ("--teacher", "cifar10-wrn-16-2"): (),
    ("--reference", "digits-wrn-16-2"): ("--reference", TEACHER),
}
"""Data that the tests do not have, and what is taken in its place."""


def verb(words: Sequence[str]) -> tuple[str, ...]:
    """`("profile", "kit")` of the words behind rcnas-edge."""
    return tuple(words[:2]) if words[0] == "profile" else tuple(words[:1])


def smaller(words: Sequence[str], small: dict[str, str]) -> list[str]:
    """Words with these flags set; a limit for one device, as NAME=2ms, stays one."""
    found = list(words)
    for flag, value in small.items():
        places = [place for place, word in enumerate(found) if word == flag]
        if not places and flag not in WHERE_GIVEN:
            found += [flag, value]
        for place in places if flag not in WHERE_NOT_GIVEN else ():
            device, named, _ = found[place + 1].rpartition("=")
            found[place + 1] = device + named + value
    return found


def smoke(words: Sequence[str], page: str) -> list[str]:
    """The words behind rcnas-edge in smoke form."""
    found, way = list(words), verb(words)
    for given, instead in NO_DATA.items():
        for place in range(len(found) - 1):
            if tuple(found[place : place + 2]) == given:
                found[place : place + 2] = instead
    small = dict(SMALL.get(way, {}))
    if way == ("compress",) and page.startswith(PLANNED) and page not in MADE and "--dry-run" not in found:
        found.append("--dry-run")
    if way == ("verify",) and len(found) > 1 and found[1].endswith(".onnx"):
        small["--subset"] = "150"
    if way[0] in ("compress", "search") and not any(word in found for word in LIMITED):
        small["--max-macs"] = "70%"  # of the teacher of the tests, which is small itself
    if "--list-recipes" in found:
        small = {}
    if "--dry-run" in found:
        # whether a share of this machine's latency can be met depends on the machine
        kept = (*KEPT_IN_A_PLAN, *(WHERE_GIVEN if "host" in found else ()))
        small = {flag: value for flag, value in small.items() if flag in kept}
    return smaller(found, small)
