"""The benchmarks on a table: what they count, what they say, and which tables they refuse."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from search_doubles import CountingJudge, TableBench

from rcnas_edge.search import strategy
from rcnas_edge.search.meta import MetaConfig
from rcnas_edge.search.pretrain import PretrainConfig

CODES = ["".join(digits) for digits in itertools.product("01234", repeat=6)]


def benchmark(name: str) -> ModuleType:
    """`benchmarks/NAME.py` as a module."""
    path = Path(__file__).parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.path.insert(0, str(path.parent))
    try:
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
        del sys.modules[name]
    return module


@pytest.fixture(scope="module")
def search() -> Any:
    return benchmark("tabular_search")


@pytest.fixture(scope="module")
def small_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the benchmark's format: the column ones counts 1x1 (digit 2), so that 222222 is best at 0.242 M."""
    path = tmp_path_factory.mktemp("table") / "table.csv"
    lines = [f"{code},{code.count('2') / 10},{int(code, 5) / 5**6}" for code in CODES]
    path.write_text("\n".join(["arch,ones,number", *lines]) + "\n")
    return path


def test_the_tabular_benchmark_counts_networks_up_to_the_first_near_the_best(search: Any, small_table: Path) -> None:
    columns, rows = search.read_table(small_table)
    assert columns == ("ones", "number")
    within = {"limit": 0.25, "most": 300, "seed": 3}
    bench = TableBench(0.25, rows, 0)
    for gap, least in ((0.5, 0.6), (10.0, 0.5), (20.0, 0.4)):  # 73,306 + 6 x 28,000 = 241,306 parameters for 0.6
        drawn = strategy("random", bench, CountingJudge(bench.space, rule=lambda row: row[0]), seed=3)
        scores = [one.score.robust for _ in range(150) for one in drawn.step()]
        expected = next((place for place, score in enumerate(scores, start=1) if score >= least - 1e-9), 301)
        assert search.evaluations("random", rows, 0, within=gap, **within) == expected
    assert search.interval([7] * 20, 0) == (7.0, 7.0)
    low, high = search.interval(list(range(1, 101)), 0)
    assert 38 < low < 46 < 55 < high < 63  # the order statistics 40 and 61 of 100 have 95 %


def test_the_tabular_benchmark_says_what_it_ran(
    search: Any, small_table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = ["--column", "ones", "--params", "0.08", "0.25", "--strategies", "random", "evolution"]
    monkeypatch.setattr(sys, "argv", ["tabular_search.py", str(small_table), *some, "--seeds", "2", "--most", "5"])
    search.main()
    told = capsys.readouterr().out
    assert "table.csv, column ones, seeds 0 to 1" in told
    # nothing with a 1x1 fits 0.08 M, so that the first network is the best there
    assert [line.split()[2:4] for line in told.splitlines() if line.startswith("0.08 M")] == [
        ["random", "1"],
        ["evolution", "1"],
    ]
    assert "n = 2 runs of each" in told


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (None, "a table is a CSV file with a header, .*cannot be read as one: .*No such file"),
        ([], "a table is a CSV file with a header"),
        (["arch", *CODES], "accuracies are fractions"),
        (
            ["arch,a", *(f"{code},0.5" for code in CODES[1:])],
            "each of the 15625 codes, .* has 2 columns and 15624 codes",
        ),
        (["arch,a", "00000,0.5"], "a digit from 0 to 4 for each of six edges, .* has '00000'"),
        (["arch,a", "000005,0.5"], "six edges, .* has '000005'"),
        (["arch,a", "000000,50"], "fractions from 0 to 1, one for each of a; .* has 50 for 000000"),
        (["arch,a", "000000,nan"], "has nan for 000000"),
        (["arch,a,b", "000000,0.5"], "one for each of a, b; .* has 0.5 for 000000"),
        (["arch,a", "000000,"], "fractions from 0 to 1"),
    ],
)
def test_a_file_that_is_no_table_is_one_sentence(
    search: Any,
    lines: list[str] | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "table.csv"
    if lines is not None:
        path.write_text("\n".join(lines) + "\n" if lines else "")
    with pytest.raises(ValueError, match=words):
        search.read_table(path)
    monkeypatch.setattr(sys, "argv", ["tabular_search.py", str(path)])
    with pytest.raises(SystemExit, match="2"):
        search.main()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("usage: ")
    assert said[-1].startswith("tabular_search.py: error: ")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--column", "none"], "--column is one of ones, number, got 'none'"),
        (["--params", "0.05"], "the smallest network has 0.073306 M parameters, a budget is no less, got 0.05"),
        (["--strategies", "uniform"], "--strategies are of rc-nas, evolution, random, .*got 'uniform'"),
        (["--seeds", "0"], "--seeds and --most are at least 1, got 0 and 600"),
    ],
)
def test_what_a_table_has_not_is_one_sentence(
    search: Any,
    flags: list[str],
    words: str,
    small_table: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["tabular_search.py", str(small_table), *flags])
    with pytest.raises(SystemExit, match="2"):
        search.main()
    assert re.search(words, capsys.readouterr().err)


def test_an_agent_that_is_kept_is_trained_once(
    small_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second time all figures come from its file, and nothing is trained."""
    meta, told = benchmark("tabular_meta"), []
    short = PretrainConfig(updates=2)
    monkeypatch.setattr(meta, "MetaConfig", partial(MetaConfig, rehearsals=1, start=short, lessons=short, last=short))
    flags = ["--column", "ones", "--targets", "0.25", "--agents", "1", "--seeds", "1", "--tasks", "2", "--only-meta"]
    flags += ["--evaluations", "4", "--most", "2", "--hidden", "0.5", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["tabular_meta.py", str(small_table), *flags])
    for _ in range(2):
        meta.main()
        told.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("0.25 M")])
        monkeypatch.setattr(meta, "agent", None)
    assert told[0] == told[1]
    assert [line.split()[2] for line in told[0]] == ["meta-trained", "its", "lookup"]
    (kept,) = (tmp_path / "work").iterdir()
    assert kept.name.startswith("0-0.25-hidden0.5-2x4-0-")
    monkeypatch.setattr(sys, "argv", ["tabular_meta.py", str(small_table), "--tasks", "0"])
    with pytest.raises(SystemExit, match="2"):
        meta.main()
    assert "--tasks is at least 1, got 0" in capsys.readouterr().err
