"""The README keeps its word: its two one-line commands are there, and its commands are commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DEMO = (
    "python3 -m venv .venv-demo && .venv-demo/bin/pip install . && .venv-demo/bin/rcnas-edge compress --out runs/demo"
)
TESTS = (
    'python3 -m venv .venv-test && .venv-test/bin/pip install -e ".[test]"'
    " && .venv-test/bin/python -m pytest -n auto --dist loadfile"
)
PROGRAM = "import sys; from rcnas_edge.cli import main; sys.exit(main())"
"""What the installed script runs; so the tests need no script on the path."""
SHORT = f"from rcnas_edge.pipeline import prepare; prepare.SAMPLED_NETWORKS, prepare.TIMING_SECONDS = 6, 0.3; {PROGRAM}"
"""The same where this machine's table is of few networks, which takes seconds instead of most of a minute."""
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]+\b|\.\.\.|<|:factory|\[")
"""A word that the reader has to replace."""

pytestmark = [
    pytest.mark.skipif(not README.exists(), reason="README.md is not there yet"),
    pytest.mark.skipif(not (ROOT / "rcnas_edge" / "cli.py").exists(), reason="rcnas_edge/cli.py is not there yet"),
]


def blocks(text: str) -> list[list[str]]:
    """The lines of every fenced sh block, continued lines joined, comments and empty lines dropped."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        found.append([line for line in lines if line.strip() and not line.lstrip().startswith("#")])
    return found


def commands(text: str) -> list[tuple[str, ...]]:
    """The arguments of every `rcnas-edge ...` of the sh blocks, once each, in order."""
    found: dict[tuple[str, ...], None] = {}
    for block in blocks(text):
        for line in block:
            for part in re.split(r"&&|\|\||;|\|", line):
                words = shlex.split(part, comments=True)
                names = [index for index, word in enumerate(words) if word.rpartition("/")[2] == "rcnas-edge"]
                if names:
                    found[tuple(words[names[0] + 1 :])] = None
    return list(found)


COMMANDS = commands(README.read_text(encoding="utf-8")) if README.exists() else []


def verb(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The words before the first option or file: `profile measure`."""
    way: tuple[str, ...] = ()
    for word in arguments:
        if word.startswith("-") or not re.fullmatch(r"[a-z][a-z-]*", word) or word not in page(way):
            break
        way = (*way, word)
    return way


def run(*arguments: str, cwd: Path = ROOT, program: str = PROGRAM) -> str:
    """Run rcnas-edge; it ends well and without a traceback."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    told = done.stdout + done.stderr
    assert "Traceback" not in told, told
    assert done.returncode == 0, told
    return told


@cache
def page(way: tuple[str, ...]) -> str:
    """The help of a verb, as long lines."""
    return re.sub(r"\s+", " ", run(*way, "--help"))


def test_the_reader_of_commands_reads_them() -> None:
    text = (
        "```sh\n# words\na/bin/rcnas-edge compress t.toml \\\n  --out DIR  # note\n\nls && rcnas-edge report x\n```\n"
    )
    text += "```toml\nrcnas-edge no\n```\n"
    assert blocks(text) == [["a/bin/rcnas-edge compress t.toml    --out DIR  # note", "ls && rcnas-edge report x"]]
    assert commands(text) == [("compress", "t.toml", "--out", "DIR"), ("report", "x")]


def test_the_two_commands_stand_in_the_first_block_one_line_each() -> None:
    assert blocks(README.read_text(encoding="utf-8"))[0] == [DEMO, TESTS]


def test_every_verb_has_its_command() -> None:
    told = {verb(arguments)[:1] for arguments in COMMANDS}
    for name in ("compress", "teacher", "search", "train", "export", "verify", "report", "profile"):
        assert (name,) in told, f"the README shows no `rcnas-edge {name}`"


def test_the_profiles_can_be_listed(tmp_path: Path) -> None:
    assert "host" in run("profile", "list", cwd=tmp_path)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_has_a_help_page_that_knows_its_options(arguments: tuple[str, ...]) -> None:
    told = page(verb(arguments))
    for word in arguments:
        if word.startswith("--"):
            option = word.partition("=")[0]
            assert re.search(rf"{option}(?![\w-])", told), f"{option} is not an option of {' '.join(verb(arguments))}"


RUNNABLE = [
    arguments
    for arguments in COMMANDS
    if arguments[:1] == ("compress",)
    and not any(PLACEHOLDER.search(word) or word.endswith(".toml") for word in arguments)
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", RUNNABLE, ids=" ".join)
def test_a_compression_that_needs_no_files_plans_itself(arguments: tuple[str, ...], tmp_path: Path) -> None:
    dry = () if "--dry-run" in arguments else ("--dry-run",)
    told = run(*arguments, *dry, cwd=tmp_path, program=SHORT)
    assert "digits" in told
    assert "MACs" in told
    assert not list(tmp_path.rglob("report.html")), "a dry run makes nothing"


def test_every_field_of_the_report_is_in_the_readme() -> None:
    from rcnas_edge.report.schema import SCHEMA

    text = README.read_text(encoding="utf-8")
    missing = [name for name in ("schema", *SCHEMA.fields) if f"`{name}`" not in text]
    assert not missing, f"the README documents report.json; missing: {', '.join(missing)}"


def test_the_device_in_the_readme_is_a_profile(tmp_path: Path) -> None:
    """Its TOML is read as it stands there, and predicts."""
    from rcnas_edge.nets import family
    from rcnas_edge.profile import Target, read_profile
    from rcnas_edge.testing import profile_conformance

    (text,) = re.findall(r"^```toml\n(# my-board.toml\n.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "my-board.toml").write_text(text, encoding="utf-8")
    profile = read_profile(tmp_path / "my-board.toml")
    profile_conformance(profile)
    kind = family("wrn")
    network = kind.network("wrn-16-2", image=(3, 32, 32), classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)
    ms, measured = profile.latency(kind.layers(network), Target("my-board"))
    assert 0.25 * 101 < ms < 2 * 0.25 * 101, "101 M MACs at 0.25 ms a million, and what else there is"
    assert measured == 0
