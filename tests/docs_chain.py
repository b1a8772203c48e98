"""Runs the steps of a page in order, with stand-ins for a board and for what would be fetched."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from conftest import ATTACK
from docs_smoke import ON_BOARDS, REPLACED, SMALLEST, TEACHER, smaller, smoke
from docs_steps import OF_NVIDIA, ON_THE_BOARD, Step, commands, steps

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


def known(words: Sequence[str]) -> bool:
    """Whether somebody runs this command."""
    return Path(words[0]).name in (*STAND_INS, *AS_IT_IS, OURS)


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
            code, told = self._inside(lambda: _rcnas_edge(asked))
            if asked[0] == "compress" and "--dry-run" not in asked and step.code is None:
                out = self.desk / asked[asked.index("--out") + 1]
                for left in ("report.json", "report.html", "artefacts/model.onnx", "bundle/run.py"):
                    assert (out / left).is_file(), f"{left} is missing: {told}"
                if "--measure-command" in asked:
                    assert list((out / "boards").glob("*.json")), f"the board was not measured: {told}"
            return code, told
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
        with (
            _as_if(self.desk, self.installed, self.environment),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
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
            assert "usage: " not in told.lower(), f"a step that ends so wherever it is run: {told}"
            assert re.search("tensorrt|engine|CUDA|GPU", told), told
        elif step.code is not None:
            assert code == step.code, f"exit code {code}, the page says {step.code}: {told}"
        else:
            assert code in step_codes(step), f"exit code {code}: {told}"
            assert "error: " not in told, f"an error of which the page says nothing: {told}"


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
    """The folder and the paths of a process that starts there; afterwards those of before, its modules forgotten."""
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
