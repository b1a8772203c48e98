"""The documentation is whole: built strictly, its links, flags and files exist, and somebody runs every command."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
import yaml
from docs_chain import OURS, known
from docs_smoke import SMALL, smoke
from docs_steps import DOCS, PAGES, ROOT, commands, steps

from rcnas_edge.cli import cli
from rcnas_edge.errors import RcnasError

OTHERS = {
    *(
        "--budget",
        "--passes",
        "--runtime",
        "--model",
        "--seconds",
        "--max-latency",
        "--resize",
    ),  # of measure.py and run.py
    *("--strict", "--system-site-packages"),
}
"""Flags in running text that are not of rcnas-edge."""


def every_flag() -> set[str]:
    found = {"--help", "--version"}
    todo: list[click.Command] = [cli]
    while todo:
        command = todo.pop()
        found |= {name for one in command.params for name in (*one.opts, *one.secondary_opts) if name.startswith("-")}
        todo += command.commands.values() if isinstance(command, click.Group) else []
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as they are built, from a copy, so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copytree(ROOT / "rcnas_edge", folder / "rcnas_edge", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", folder)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder / "site"


class Loaded(HTMLParser):
    """What a page loads, and what of it a reader can click on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.loads.append(given.get("src") or "")
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "shortcut icon", "preload", "preconnect"):
            self.loads.append(given.get("href") or "")


def test_the_reader_of_steps_reads_them() -> None:
    text = (
        "```toml\n# a/b.toml\nx = 1\n```\n<!-- on the board -->\n<!-- exit code 2 -->\n```sh\n# words\nls \\\n  x\n"
        "rcnas-edge report y # why\n```\n\n```text\nerror: no ...\n```\n"
    )
    file, first, last = steps("page.md", text)
    assert (file.kind, file.file) == ("toml", "a/b.toml")
    assert commands(first) == [["ls", "x"]]
    assert (first.code, first.refusal, first.marks) == (None, "", ("on the board", "exit code 2"))
    assert commands(last) == [["rcnas-edge", "report", "y"]]
    assert (last.code, last.refusal) == (2, "error: no ...")


def test_a_smoke_form_keeps_the_command() -> None:
    asked = smoke(
        ["compress", "--evaluations", "16", "--max-latency", "pi=2ms", "--precision", "int8", "--out", "x"],
        "tutorials/a.md",
    )
    assert asked[:2] == ["compress", "--evaluations"]
    assert asked[asked.index("--evaluations") + 1] == SMALL[("compress",)]["--evaluations"]
    assert asked[asked.index("--max-latency") + 1] == "pi=50ms"
    assert asked[asked.index("--precision") + 1] == "int8"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_known_to_the_tests(page: str) -> None:
    for step in steps(page):
        if step.kind == "sh" and not step.file:
            for words in commands(step):
                assert known(words), f"{step}: nobody runs {words[0]}"
        elif step.kind == "toml":
            assert step.file, f"{step}: a toml block begins with the name of its file"
            tomllib.loads(step.text)
        elif step.kind == "yaml":
            jobs = yaml.safe_load(step.text)["jobs"]
            given = [one["run"] for job in jobs.values() for one in job["steps"] if "run" in one]
            assert any(one.startswith(OURS) for one in given)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_speaks_of_flags_that_there_are(page: str) -> None:
    text = re.sub(r"^```(yaml|python).*?^```", "", (DOCS / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(
        r"^python3 -m venv.*|pip install.*|-m pytest.*|--[a-z]+-->", "", re.sub(r"<!--.*?-->", "", text), flags=re.M
    )
    text = text.replace("--open-->", "").replace("--search-->", "")
    said = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - OTHERS - every_flag()
    assert not said, f"{page} speaks of flags that are not there: {', '.join(sorted(said))}"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_speaks_of_files_that_there_are(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    files = re.findall(r"`((?:rcnas_edge|profiles|tests|exporters|docs)/[\w/.-]+\.\w+)`", text)
    rooms = "|".join(path.parent.name for path in (ROOT / "rcnas_edge").glob("*/__init__.py"))
    files += [f"rcnas_edge/{name}" for name in re.findall(rf"`((?:{rooms})/\w+\.py)`", text)]
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_exit_codes_are_those_of_the_errors() -> None:
    text = (DOCS / "reference/exit-codes.md").read_text(encoding="utf-8")
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.M)}

    def codes(error: type[RcnasError]) -> set[int]:
        return {error.exit_code}.union(*map(codes, error.__subclasses__()))

    assert codes(RcnasError) | {0, 1, 4, 130} == told
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for code, meaning in re.findall(r"^\| (\d+) \| (.*?) \|", text, re.M):
        assert f"| {code} | {meaning} |" in readme, f"the README says otherwise of exit code {code}"


def test_the_site_is_built_strictly_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        for address in Loaded(page.read_text(encoding="utf-8")).loads:
            assert not re.match(r"(https?:)?//", address), f"{page.name} loads {address}"
    assert not list(site.rglob("*.py"))


def test_the_reference_has_every_command_flag_key_and_field(site: Path) -> None:
    from dataclasses import fields

    from rcnas_edge.report.schema import fields as report_fields
    from rcnas_edge.setting import TaskSetting
    from rcnas_edge.train.recipe import RECIPES

    def text(name: str) -> str:
        return (site / name).read_text(encoding="utf-8")

    for flag in every_flag() - {"--help", "--version", "-h", "-v", "--verbose"}:
        assert f"<code>{flag}" in text("reference/command-line.html"), flag
    for field in fields(TaskSetting):
        assert f"<code>{field.name}</code>" in text("reference/task-file.html")
    for place, _, _ in report_fields():
        assert f"<code>{place}</code>" in text("reference/report.html")
    for name in RECIPES:
        assert f"<code>{name}</code>" in text("method/training.html")
    for name in ("rcnas_edge.api.compress", "rcnas_edge.verify.verify", "rcnas_edge.attacks.headline"):
        assert f'id="{name}"' in text("reference/python.html")
