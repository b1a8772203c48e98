"""The blocks of the documentation as steps that a test can run, with the smallest settings and stand-ins for a board.

What is changed in a command before it is run stands in the tables here: `SMALL` (flags), `REPLACED` (words of a page) and
`STAND_INS` (programs). A step whose program is in none of them is one that nobody runs, which is an error.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from conftest import ATTACK

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = tuple(sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")))

FENCE = re.compile(r"^((?:<!-- [^\n]* -->\n)*)```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (.*?) -->")
ON_THE_BOARD, OF_NVIDIA, EXIT_CODE = "on the board", "needs NVIDIA's software", "exit code "
"""Marks before a block: its commands run in the board's folder; they fail in one sentence where TensorRT or a GPU is missing;
its last command ends so."""
LANGUAGES = ("sh", "python", "toml", "yaml", "text")
FILE = re.compile(r"^# ([\w./-]+\.(?:py|toml|yml|sh))$")

TEACHER = "the teacher of the tests"
"""In `SMALL`, for its folder."""

ELSEWHERE = "raspberry-pi-5"
"""A device that needs no measuring: that of the machine at hand is tried by `profile measure`, and by other tests."""

SMALL: dict[tuple[str, ...], dict[str, str]] = {
    ("compress",): {
        **{"--subset": "300", "--evaluations": "2", "--judge-epochs": "1", "--finalists": "1", "--epochs": "1"},
        **{"--level": "smoke", "--device": "cpu", "--max-latency": "100%", "--teacher": TEACHER, "--attack": ATTACK},
        **{"--also": "none", "--profile": ELSEWHERE},
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
            "--max-latency": "100%",
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
"""By command the flags that are set to small values, whether they stand there or not; a budget is set where it stands."""
WHERE_GIVEN = ("--max-latency", "--qat-epochs")
"""Flags that are set only where they stand."""
WHERE_NOT_GIVEN = ("--teacher", "--attack", "--also", "--profile")
"""Flags that are set only where they do not stand."""
LIMITED = ("--max-latency", "--max-macs", "--max-size", "task.toml", "wrong.toml")
KEPT_IN_A_PLAN = ("--subset", "--device", "--profile")
"""Flags of `SMALL` that a --dry-run gets, which trains nothing."""
ON_BOARDS = {"kit.zip": {"--budget": "4s", "--passes": "1"}, "bench": {"--seconds": "0.3s"}}
"""The same for what the board's Python runs."""
PLANNED = ("index.md", "method/", "reference/")
"""Pages whose `compress` is only planned (--dry-run), unless later steps need what it makes."""
MADE = ("method/export.md", "method/baselines.md")

REPLACED = {
    "tutorials/own-classifier.md": [("EPOCHS = 15", "EPOCHS = 1")],
    "tutorials/verify-onnx.md": [("EPOCHS = 30", "EPOCHS = 3")],
    "method/rc-nas.md": [
        ("judge_epochs = 2", "judge_epochs = 1"),
        ('name = "digits"', 'name = "digits"\nsubset = 100'),
        ("digits-wrn-16-2", TEACHER),
    ],
    "reference/python.md": [('max_latency="60%")', 'max_latency="100%", **SMALLEST)')],
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

SCP = """#!/bin/sh
for word; do last=$word; done
target=$(case $last in *:*) echo "$BOARD/${last#*:}" ;; *) echo "$last" ;; esac)
for word; do
  [ "$word" = "$last" ] && break
  case $word in -*) ;; *:*) cp -r "$BOARD/${word#*:}" "$target" ;; *) cp -r "$word" "$target" ;; esac
done
"""
SSH = """#!/bin/sh
shift
cd "$BOARD" && sh -c "$*"
"""
PYTHON = f"""#!/bin/sh
exec '{sys.executable}' "$@"
"""
PIP = f"""#!/bin/sh
# installs a folder, for `rcnas-edge` of the same page to find; anything else is there already
[ "$1" = install ] || exit 0
for word; do last=$word; done
[ -f "$last/pyproject.toml" ] || exit 0
exec '{sys.executable}' -m pip install -q --no-deps --no-build-isolation --no-index --target "$INSTALLED" "$last"
"""
STAND_INS = {"scp": SCP, "ssh": SSH, "python3": PYTHON, "python": PYTHON, "pip": PIP}
"""Programs that commands find first: the board is a folder, and nothing is fetched."""
AS_IT_IS = ("mkdir", "cp", "sh", "ls", "cat", "echo", "test")
OURS = "rcnas-edge"


@dataclass(frozen=True)
class Step:
    """One thing that a reader does: writes a file, runs Python, or gives a command."""

    page: str
    line: int
    kind: str
    text: str
    marks: tuple[str, ...] = ()
    last: bool = False
    refusal: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {' '.join(self.text.split())[:60]}"

    @property
    def file(self) -> str:
        """The name in the first comment of a file, or nothing."""
        lines = self.text.splitlines()
        named = FILE.match(lines[1] if lines[0].startswith("#!") and len(lines) > 1 else lines[0])
        return named[1] if named else ""

    @property
    def code(self) -> int | None:
        """The exit code that the page says."""
        said = [int(mark.removeprefix(EXIT_CODE)) for mark in self.marks if mark.startswith(EXIT_CODE)]
        return said[0] if said and self.last else None


def steps(page: str, text: str | None = None) -> list[Step]:
    """What a page asks its reader to do, in order."""
    text = (DOCS / page).read_text(encoding="utf-8") if text is None else text
    found: list[Step] = []
    for match in FENCE.finditer(text):
        marks, language, content = tuple(MARK.findall(match[1])), match[2], match[3]
        line = text[: match.start(2)].count("\n") + 2
        if language not in LANGUAGES:
            raise AssertionError(f"{page}:{line} is a block of {language!r}, the tests know {', '.join(LANGUAGES)}")
        step = Step(page, line, language, content, marks)
        if language == "text":
            if content.startswith("error: ") and found and found[-1].kind == "sh":
                found[-1] = Step(**{**vars(found[-1]), "refusal": content.strip()})
        elif step.file or language != "sh":
            found.append(step)
        else:
            lines = content.replace("\\\n", " ").splitlines()
            given = [(number, one) for number, one in enumerate(lines) if one.strip() and not one.startswith("#")]
            found += [Step(page, line + number, "sh", one, marks, last=number == given[-1][0]) for number, one in given]
    return found


def commands(step: Step) -> list[list[str]]:
    """The words of each command of a line; a comment behind them is dropped."""
    return [shlex.split(part, comments=True) for part in re.split(r"&&|;", step.text)]


def known(words: Sequence[str]) -> bool:
    """Whether somebody runs this command."""
    return Path(words[0]).name in (*STAND_INS, *AS_IT_IS, OURS)


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
    if found[-1] == "--dry-run" or "--dry-run" in found:
        small = {flag: value for flag, value in small.items() if flag in KEPT_IN_A_PLAN}
    return smaller(found, small)


class Chain:
    """The steps of one page, each done once and after those before it, in a folder of the page's own."""

    def __init__(self, page: str, folder: Path, teacher: Path) -> None:
        self.page, self.steps, self.teacher = page, steps(page), teacher
        self.desk, self.board, self.installed = folder / "desk", folder / "board", folder / "installed"
        for made in (self.desk, self.board, self.installed, folder / "bin"):
            made.mkdir(parents=True)
        for name, text in STAND_INS.items():
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        paths = {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "BOARD": str(self.board)}
        self.environment = {**os.environ, **paths, "INSTALLED": str(self.installed)}
        self.done: dict[int, Exception | str] = {}

    def upto(self, place: int) -> str:
        """Do what is to be done before this step, then the step; what it printed."""
        for number in range(place + 1):
            if number not in self.done:
                try:
                    self.done[number] = self._do(self.steps[number])
                except Exception as error:
                    self.done[number] = error
            found = self.done[number]
            if isinstance(found, Exception):
                raise AssertionError(f"{self.steps[number]}: {found}") from found
        return str(self.done[place])

    def _do(self, step: Step) -> str:
        text = step.text
        for before, after in REPLACED.get(step.page, ()):
            text = text.replace(before, after)
        text = text.replace(TEACHER, str(self.teacher))
        if step.file:
            path = self.desk / step.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return ""
        if step.kind == "python":
            return self._inside(lambda: exec(compile(text, str(step), "exec"), self._names()))[1]
        told, code = "", 0
        for words in commands(step):
            assert known(words), f"{words[0]} is a command that nobody runs: add it to a table of {Path(__file__).name}"
            code, said = self._command(step, words)
            told += said
        self._check(step, code, told)
        return told

    def _names(self) -> dict[str, object]:
        """What the Python of a page finds."""
        return {"__name__": "page", "SMALLEST": {**SMALLEST, "teacher": str(self.teacher), "attack": ATTACK}}

    def _command(self, step: Step, words: list[str]) -> tuple[int, str]:
        folder = self.board if ON_THE_BOARD in step.marks else self.desk
        program = Path(words[0]).name
        if program == OURS:
            places = {"$PWD": str(self.desk), TEACHER: str(self.teacher)}
            asked = smoke(words[1:], step.page)
            for name, place in places.items():
                asked = [word.replace(name, place) for word in asked]
            return self._inside(lambda: _rcnas_edge(asked))
        if program == "python3" and folder == self.desk and words[1].endswith(".py"):
            return self._inside(lambda: _script(self.desk / words[1]))
        if words[1:3] in (["-m", "venv"], ["-m", "pytest"]):
            return 0, ""  # these tests are run, in an environment that has what they need
        for name, small in ON_BOARDS.items():
            if name in words and program == "python3":
                words = smaller(words, small)
        done = subprocess.run(
            [program, *words[1:]],
            cwd=self._within(folder, words),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if words[:2] == ["python3", "kit.zip"]:
            _relabel(folder / "results.json")
        return done.returncode, done.stdout + done.stderr

    def _within(self, folder: Path, words: list[str]) -> Path:
        """The bundle's folder for its run.py: readers are there."""
        return folder / "bundle" if "run.py" in words and folder == self.board else folder

    def _inside(self, work: Callable[[], object]) -> tuple[int, str]:
        """In this process, which has imported torch already, as if in one that starts in the page's folder."""
        said, code = io.StringIO(), 0
        with _as_if(self.desk, self.installed, self.environment), contextlib.redirect_stdout(said):
            with contextlib.redirect_stderr(said):
                try:
                    work()
                except SystemExit as left:
                    code = left.code if isinstance(left.code, int) else 1
        return code, said.getvalue()

    def _check(self, step: Step, code: int, told: str) -> None:
        assert "Traceback" not in told, told
        if step.refusal and (code == 2 or OF_NVIDIA not in step.marks):
            pattern = ".*".join(re.escape(" ".join(part.split())) for part in step.refusal.split("..."))
            assert re.search(pattern, " ".join(told.split())), f"the page says {step.refusal!r}, it said: {told}"
        if OF_NVIDIA in step.marks and code == 2:
            assert "error: " in told, told
        elif step.code is not None:
            assert code == step.code, f"exit code {code}, the page says {step.code}: {told}"
        else:
            assert code in step_codes(step), f"exit code {code}: {told}"


def step_codes(step: Step) -> tuple[int, ...]:
    """Exit codes that a command may end with where the page says nothing.

    A network that was hardly trained is not robust, and on a busy machine a latency is not what it was a minute ago.
    """
    judged = {OURS: ("compress", "verify", "replay"), "python3": ("replay",)}
    for words in commands(step):
        if any(word in judged.get(Path(words[0]).name, ()) for word in words):
            return (0, 3, 4, 5)
    return (0,)


def _relabel(results: Path) -> None:
    """The kit's results as of another machine: the folder that stands for the board is on this one."""
    content = json.loads(results.read_text())
    content["machine"]["cpu"] = "stand-in for a board"
    results.write_text(json.dumps(content))


def _rcnas_edge(arguments: list[str]) -> None:
    from rcnas_edge.cli import main

    main(arguments)


def _script(path: Path) -> None:
    runpy.run_path(str(path), run_name="__main__")


@contextlib.contextmanager
def _as_if(folder: Path, installed: Path, environment: dict[str, str]) -> Iterator[None]:
    """The folder and the paths of a process that starts there; afterwards those of before, and its modules forgotten."""
    before, modules = (os.getcwd(), list(sys.path), dict(os.environ)), set(sys.modules)
    os.chdir(folder)
    os.environ.update(environment)
    sys.path[:0] = [str(folder), str(installed)]
    try:
        yield
    finally:
        os.chdir(before[0])
        sys.path[:] = before[1]
        os.environ.clear()
        os.environ.update(before[2])
        own = (str(folder), str(installed))
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(own):
                del sys.modules[name]


def forget(folder: Path) -> None:
    """Remove what a page made."""
    shutil.rmtree(folder, ignore_errors=True)
