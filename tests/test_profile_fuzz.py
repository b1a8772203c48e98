"""Profiles that are wrong in hundreds of ways: each is one sentence and exit code 2, never a traceback or a hang."""

from __future__ import annotations

import json
import os
import time
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rcnas_edge.cli import main
from rcnas_edge.errors import InputError
from rcnas_edge.profile import read_profile
from rcnas_edge.testing import profile_conformance

EXAMPLE = Path(__file__).parent / "example_profiles" / "example_boards" / "example-camera.toml"
GOOD = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
TABLE = EXAMPLE.with_suffix(".csv").read_bytes()
SECONDS = 20.0
"""That no file may take."""
SEEDED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def denormal_numbers() -> None:
    """hypothesis draws them; attacks in this process have told the processor to take them for 0."""
    torch.set_flush_denormal(False)


def literal(value: Any) -> str:
    """A value as TOML, also where it makes no sense in a profile."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, (bool, str)):
        return json.dumps(value)
    return str(value)  # numbers with nan and inf, and dates


def toml(values: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(key)} = {literal(value)}\n" for key, value in values.items())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of profiles in which the file under test is `example-camera`."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("RCNAS_CACHE")
    os.environ["RCNAS_CACHE"] = str(folder)
    yield folder
    os.environ["RCNAS_CACHE"] = before or ""


def write(folder: Path, description: bytes, table: bytes = TABLE) -> Path:
    for name in ("example-camera.toml", "example-camera.csv"):
        (folder / name).unlink(missing_ok=True)  # one may be a link
    (folder / "example-camera.csv").write_bytes(table)
    path = folder / "example-camera.toml"
    path.write_bytes(description)
    return path


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which a file is refused, from the command line and from Python."""
    capsys.readouterr()
    started = time.process_time()
    with pytest.raises(SystemExit) as end:
        main(["profile", "show", "example-camera"])
    out, err = capsys.readouterr()
    assert time.process_time() - started < SECONDS
    assert end.value.code == 2, out + err
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()
    assert len(line) < 1000, line
    assert "example-camera." in line, line
    assert "Traceback" not in line
    with pytest.raises(InputError) as error:
        read_profile(path)
    assert f"error: {error.value}" == line
    return line


def test_the_example_itself_is_good(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(cache, toml(GOOD).encode())
    profile_conformance(path)
    with pytest.raises(SystemExit) as end:
        main(["profile", "show", "example-camera"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("name         example-camera\n")


# values that are wrong wherever they stand

NUMBERS = [
    ("memory_mb",),
    ("disk_mb",),
    ("overhead_ms", "fp32/1"),
    ("scale", "fp32/1"),
    ("rates", "fp32/1", "conv", "ms"),
    ("rates", "fp32/1", "conv", "ms_per_mmac"),
    ("rates", "fp32/1", "other", "ms_per_mb"),
    ("validation", "fp32/1", "n"),
    ("validation", "fp32/1", "mape"),
    ("validation", "fp32/1", "within_5"),
    ("rows",),
    ("domain", "batch"),
    ("provenance", 0, "threads"),
    ("provenance", 0, "reference_ms"),
]
TEXTS = [
    ("name",),
    ("vendor",),
    ("runtime",),
    ("table",),
    ("precisions", 0),
    ("domain", "images", 0),
    ("provenance", 0, "kind"),
    ("provenance", 1, "source"),
    ("provenance", 2, "when"),
    ("provenance", 0, "covers", 0),
    ("provenance", 0, "setting"),
    ("provenance", 0, "runtime"),
]
TABLES = [
    ("domain",),
    ("rates",),
    ("rates", "fp32/1"),
    ("rates", "fp32/1", "conv"),
    ("overhead_ms",),
    ("scale",),
    ("validation",),
    ("validation", "fp32/1"),
    ("provenance", 0),
]
LISTS = [("precisions",), ("threads",), ("domain", "images"), ("provenance",), ("provenance", 0, "covers")]

WRONG_NUMBER = st.one_of(
    st.sampled_from([float("nan"), float("inf"), float("-inf"), -1, -1e-9, 1e300, 10**30, 10**400, True, False]),
    st.floats(max_value=-1e-300, allow_nan=False),
    st.floats(min_value=1e15),
    st.text(alphabet="0123456789.-e", max_size=6),
    st.just([1.0]),
    st.just({"ms": 1.0}),
)
WRONG_TEXT = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.sampled_from("ab"), st.integers(), max_size=2),
    st.sampled_from(["", " ", "\x1b[31mred", "a\x00b", "\x7f", "x" * 20_000]),
)
WRONG_TABLE = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.lists(st.integers(), max_size=3)
)
WRONG_LIST = st.one_of(
    st.integers(), st.booleans(), st.text(max_size=5), st.just({"a": 1}), st.just([None, "x"]), st.just([[[[]]]])
)
PATHS = st.sampled_from(
    [
        "../x",
        "..",
        ".",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "A",
        "-a",
        "a b",
        "a\nb",
        "a" * 65,
        "ä",
        "con:",
        "~",
        "",
        "*",
        "%2e",
    ]
)
UNKNOWN = st.text(alphabet="abcdefghijklmnopqrstuvwxyz_-. \"'/é", min_size=1, max_size=12)


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The good profile with another value at a place."""
    values = deepcopy(GOOD)
    place: Any = values
    for key in path[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
    place[path[-1]] = value
    return values


def without(path: tuple[Any, ...]) -> dict[str, Any]:
    """The good profile without what stands at a place."""
    values = deepcopy(GOOD)
    place: Any = values
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return values


OWED = [
    ("schema",), ("name",), ("vendor",), ("runtime",), ("rates", "fp32/1", "other"), ("validation", "fp32/1", "n"),
    ("table",), *(("provenance", number) for number in range(3)),
    *(("provenance", number, key) for number in range(3) for key in ("covers", "kind", "when", "source")),
    *(("provenance", 0, key) for key in ("runtime", "threads", "clocks", "load", "reference_ms", "stable")),
]  # fmt: skip

MUTATIONS = st.one_of(
    st.builds(changed, st.sampled_from(NUMBERS), WRONG_NUMBER),
    st.builds(changed, st.sampled_from(TEXTS), WRONG_TEXT),
    st.builds(changed, st.sampled_from(TABLES), WRONG_TABLE),
    st.builds(changed, st.sampled_from(LISTS), WRONG_LIST),
    st.builds(without, st.sampled_from(OWED)),
    st.builds(changed, st.just(("name",)), PATHS),
    st.builds(
        changed, st.just(("table",)), PATHS.map(lambda path: f"{path}.csv" if path not in ("", "A", "ä") else "x")
    ),
    st.builds(changed, st.just(("runtime",)), UNKNOWN),
    st.builds(changed, st.just(("schema",)), st.one_of(st.integers(max_value=1), st.integers(min_value=3), st.text())),
    st.builds(
        lambda where, key: changed((*where, key), 1),
        st.sampled_from([(), ("domain",), ("rates", "fp32/1"), ("rates", "fp32/1", "conv"), ("validation", "fp32/1")]),
        UNKNOWN.map(lambda key: key + "?"),
    ),
    st.builds(
        lambda where, key: changed((where, key), 1),
        st.sampled_from(["rates", "overhead_ms", "scale", "streaming", "validation"]),
        st.sampled_from(
            ["", "fp32", "fp32/0", "fp32/-1", "fp8/1", "fp32/1/8", "fp32/1/0x8", "fp32/9999", "fp32/1/1x1/1"]
        ),
    ),
)


@settings(SEEDED, max_examples=600)
@given(values=MUTATIONS)
def test_a_value_that_is_wrong_is_one_sentence(cache: Path, capsys: pytest.CaptureFixture[str], values: Any) -> None:
    refused(write(cache, toml(values).encode()), capsys)


# tables

CELLS = st.sampled_from(
    ["", "x", "nan", "inf", "-1", "0", "1e9", "1e400", "9" * 50, "1_0", "٣", " ", "0x10", "1.5", "'", '"', '""', "\x00"]
)


@settings(SEEDED, max_examples=200)
@given(line=st.integers(1, 6), column=st.integers(0, 11), cell=CELLS)
def test_a_cell_that_is_wrong_is_one_sentence(
    cache: Path, capsys: pytest.CaptureFixture[str], line: int, column: int, cell: str
) -> None:
    rows = [row.split(",") for row in TABLE.decode().splitlines()]
    before = rows[line][column]
    rows[line][column] = cell
    depthwise = column == 6 and cell == "-1" and line in (2, 5)  # as many channels out as in
    if depthwise or (column == 11 and cell == "1.5") or cell == before:
        return
    refused(write(cache, toml(GOOD).encode(), "".join(",".join(row) + "\n" for row in rows).encode()), capsys)


@settings(SEEDED, max_examples=100)
@given(cut=st.integers(0, len(TABLE) - 1))
def test_a_table_that_was_cut_anywhere_is_one_sentence(
    cache: Path, capsys: pytest.CaptureFixture[str], cut: int
) -> None:
    assert "example-camera.csv" in refused(write(cache, toml(GOOD).encode(), TABLE[:cut]), capsys)


@pytest.mark.parametrize("line", range(1, 7))
def test_a_row_twice_is_one_sentence(cache: Path, capsys: pytest.CaptureFixture[str], line: int) -> None:
    row = TABLE.splitlines(keepends=True)[line]
    assert "a table has a kernel once" in refused(write(cache, toml(GOOD).encode(), TABLE + row), capsys)


# files


@settings(SEEDED, max_examples=300)
@given(
    junk=st.binary(min_size=1, max_size=200),
    place=st.floats(0, 1, allow_subnormal=False),
    instead=st.booleans(),
    table=st.booleans(),
)
def test_bytes_that_are_junk_are_refused_or_mean_something(
    cache: Path, junk: bytes, place: float, instead: bool, table: bool
) -> None:
    """Nothing but an InputError comes out of any bytes; what is read in spite of them can be relied on."""
    files = [EXAMPLE.read_bytes(), TABLE]
    cut = int(place * len(files[table]))
    files[table] = junk if instead and place < 0.1 else files[table][:cut] + junk + files[table][cut + len(junk) :]
    path, words = write(cache, *files), ""
    try:
        read_profile(path)
    except InputError as error:
        words = str(error)
    if words:
        assert words.isprintable()
        assert "example-camera." in words
    else:
        profile_conformance(path)


LONG = 1_900_000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xef\xbb\xbf" + EXAMPLE.read_bytes(), "UTF-8 text without a byte order mark"),
        (EXAMPLE.read_text().encode("utf-16"), "UTF-8 text, byte 0 of this file is not"),
        (EXAMPLE.read_bytes() + b"# \0", "NUL bytes"),
        (b"\x7fELF\x02\x01\x01\0" * 9, "NUL bytes"),
        (b"", "the schema of a profile is 2, got None"),
        (EXAMPLE.read_bytes() + b"\n[scale]\n", "Cannot declare"),
        (b'name = "twice"\n' + EXAMPLE.read_bytes(), "Cannot overwrite a value"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"{a=" * 100_000, "nested too deeply"),
        (b"a" + b".a" * (LONG // 2) + b" = 1", "at most 32 dotted parts"),
        (b"[a" + b".a" * (LONG // 2) + b"]", "at most 32 dotted parts"),
        (b"a = 1" + b"0" * LONG, "is a TOML file, this is not"),
        (b"schema = 0x" + b"f" * LONG, "schema of a profile is 2, got a number of more than"),
        (EXAMPLE.read_bytes() + b"[x" + b"x" * LONG + b"]", "has no key 'xxx"),
        (EXAMPLE.read_bytes() + b"#" * 2_000_000, "at most 2 MB"),
        (b"threads = [" + b",".join(b"%d" % n for n in range(80_000)) + b"]", "the schema"),
        (b"".join(b"k%d = 1\n" % n for n in range(50_000)), "the schema"),
    ],
    ids=[
        "byte order mark", "utf-16", "nul", "binary", "empty", "a table twice", "a key twice", "lists", "tables",
        "dots", "dotted table", "digits", "hexadecimal", "a long key", "large", "a long list", "many keys",
    ],
)  # fmt: skip
def test_a_file_that_is_no_profile_is_one_sentence(
    cache: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    assert words in refused(write(cache, content), capsys)


@pytest.mark.parametrize("name", ["example-camera.toml", "example-camera.csv"])
def test_a_sparse_file_of_100_mb_is_not_read(cache: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    write(cache, toml(GOOD).encode())
    with open(cache / name, "wb") as file:
        file.truncate(100_000_000)
    assert "got 100 MB: is it the right one?" in refused(cache / "example-camera.toml", capsys)
    (cache / name).unlink()


def test_a_table_of_too_many_rows_is_not_read(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rcnas_edge.profile.row.MOST_ROWS", 5)
    assert "at most 5 rows, got 6: thin it out" in refused(write(cache, toml(GOOD).encode()), capsys)


def test_a_table_that_is_a_link_to_elsewhere_is_refused(
    cache: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(cache, toml(GOOD).encode())
    table = path.with_suffix(".csv")
    table.rename(tmp_path / "there.csv")
    table.symlink_to(tmp_path / "there.csv")
    assert "is a link to elsewhere: put it there" in refused(path, capsys)
    table.unlink()
    table.symlink_to("example-camera.csv")
    assert "this cannot: Too many levels of symbolic links" in refused(path, capsys)
    table.unlink()
    (cache / "beside.csv").write_bytes(TABLE)
    table.symlink_to("beside.csv")  # a link inside the folder is a file beside the profile
    assert len(read_profile(path).rows) == 6


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(
    cache: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = write(cache, toml(GOOD).encode())
    table = path.with_suffix(".csv")
    table.unlink()
    os.mkfifo(table) if kind == "pipe" else table.mkdir()
    assert "is a regular file, this is none" in refused(path, capsys)
    table.unlink() if kind == "pipe" else table.rmdir()
