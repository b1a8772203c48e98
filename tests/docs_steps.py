"""What the documentation asks its reader to do: its blocks as steps, in order."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = tuple(sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")))

FENCE = re.compile(r"^((?:<!-- [^\n]* -->\n)*)```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (.*?) -->")
ON_THE_BOARD, OF_NVIDIA, EXIT_CODE = "on the board", "needs NVIDIA's software", "exit code "
"""Marks before a block: its commands run in the board's folder; they fail in one sentence where TensorRT or a GPU is
missing; its last command ends so."""
LANGUAGES = ("sh", "python", "toml", "yaml", "text")
FILE = re.compile(r"^# ([\w./-]+\.(?:py|toml|yml|sh))$")


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
