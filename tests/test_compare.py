"""Runs side by side: what differs is found, a paired difference is the exact one, what cannot be compared says why."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from report_doubles import Page, run_values

from rcnas_edge.cli import cli, main
from rcnas_edge.compare import Difference, asked_differently, pairs, read_runs, side_by_side
from rcnas_edge.compare_html import headline, page
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import Rate
from rcnas_edge.report import write_report

N = 500


def flags(hits: int, shift: int = 0) -> np.ndarray:
    """Flags (N,): `hits` in a row from `shift` on."""
    return np.roll(np.arange(N) < hits, shift)


def a_run(folder: Path, robust: np.ndarray, clean: np.ndarray | None = None, **changes: Any) -> Path:
    """A finished run with these flags of its examples; changes are of its task, or `threat`, `level`, `images`."""
    values, clean = run_values(), flags(474) if clean is None else clean
    verdict = values["artefacts"][0]["verdict"]
    verdict |= {name: changes.pop(name) for name in ("threat", "level") if name in changes}
    images = changes.pop("images", np.full((N, 1, 2, 2), 0.5, dtype=np.float32))
    values["artefacts"][0]["latency"]["p50_ms"] = changes.pop("ms", 0.284)
    verdict |= {"robust": Rate.of(robust).to_dict(), "clean": Rate.of(clean).to_dict()}
    verdict["eps_sweep"] = []
    values["task"] = {"dataset": "digits", "max_macs": "40%", "seed": 0, **changes}
    write_report(folder, values)
    labels = np.arange(len(images)) % 10
    np.savez(folder / "verdict.onnx-fp32.npz", robust=robust, clean=clean, labels=labels, images=images)
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """`b` is right on 10 of the images that `a` gets wrong, and wrong on 40 that `a` gets right."""
    second = flags(364)
    second[:40], second[364:374] = False, True
    return a_run(tmp_path / "a", flags(364)), a_run(tmp_path / "b", second, max_macs="20%", recipe="trades", ms=0.142)


def test_the_paired_difference_is_the_exact_one_by_hand(two: tuple[Path, Path]) -> None:
    (found,) = pairs(read_runs(two))
    assert found.robust is not None
    assert found.n == N
    assert (found.robust.only_first, found.robust.only_second) == (40, 10)
    assert found.robust.value == pytest.approx(-30 / 500)
    assert found.robust.low < -30 / 500 < found.robust.high < 0
    # exact McNemar: 50 coins, at most 10 heads, both sides
    assert found.robust.p_value == pytest.approx(2 * sum(math.comb(50, k) for k in range(11)) / 2**50)
    assert found.clean is not None
    assert (found.clean.value, found.clean.p_value) == (0, 1)
    assert "b against a, on the same 500 images: b is less robust (robust -6.0 points" in str(found)
    assert "right only under a 40, only under b 10" in str(found)


def test_the_sign_of_a_difference_follows_the_later_run() -> None:
    found = Difference.of(flags(100), flags(200))
    assert (found.value, found.only_first, found.only_second) == (0.2, 0, 100)
    assert str(found).startswith("+20.0 points [+")
    assert str(found).endswith("p < 0.001")


def test_what_was_asked_differently_is_named_and_nothing_else(two: tuple[Path, Path]) -> None:
    assert asked_differently(read_runs(two)) == [("max_macs", ["40%", "20%"]), ("recipe", ["not given", "trades"])]


def test_what_came_of_them_stands_side_by_side(two: tuple[Path, Path]) -> None:
    rows = {label: [word.replace("\N{NO-BREAK SPACE}", " ") for word in words] for label, words in side_by_side(read_runs(two))}  # noqa: E501  # fmt: skip
    assert rows["verdict"] == ["robust", "robust"]
    assert rows["robust accuracy"] == ["72.8 % [68.7, 76.5] of n = 500", "66.8 % [62.6, 70.8] of n = 500"]
    assert rows["latency, measured"] == ["0.284 ms (40.0 % of the teacher)", "0.142 ms (20.0 % of the teacher)"]
    assert rows["budgets met"] == ["2 of 2", "2 of 2"]
    assert rows["blocks x channels"][0] == "1x32 basic, 2x40 basic, 1x56 robust"
    assert all(any(words) for words in rows.values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "cifar10"}, "their data sets differ (digits and cifar10)"),
        ({"threat": "linf:0.2:10"}, "their threats differ (linf:0.1/1:10 and linf:0.2:10)"),
        ({"threat": "l2:0.1:10"}, "their threats differ (linf:0.1/1:10 and l2:0.1:10)"),
        ({"images": np.full((N, 1, 2, 2), 0.25, dtype=np.float32)}, "they attacked different test images"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    runs = read_runs([a_run(tmp_path / "a", flags(364)), a_run(tmp_path / "b", flags(300), **change)])
    (found,) = pairs(runs)
    assert found.robust is None
    assert str(found) == f"b against a: not comparable, because {reason}"
    assert "cannot be compared image by image" in headline(runs, [found])


def test_another_number_of_images_missing_arrays_and_arrays_of_another_verdict_are_told(tmp_path: Path) -> None:
    first, other = a_run(tmp_path / "a", flags(364)), a_run(tmp_path / "b", flags(300))
    arrays = other / "verdict.onnx-fp32.npz"

    def reason() -> str:
        return pairs(read_runs([first, other]))[0].reason

    small = flags(300)[:400]
    values = run_values()
    values["task"] = {"dataset": "digits"}
    values["artefacts"][0]["verdict"] |= {"robust": Rate.of(small).to_dict(), "eps_sweep": []}
    write_report(other, values)
    np.savez(arrays, robust=small, clean=small, labels=np.arange(400) % 10, images=np.zeros((400, 1, 2, 2), np.float32))
    assert reason() == "they attacked different test images (500 and 400 of them)"
    np.savez(arrays, robust=flags(299), clean=small, labels=small, images=small)
    assert "(verdict.onnx-fp32.npz) are not those of its report" in reason()
    for broken in (b"", b"PK\x03\x04 not a zip"):
        arrays.write_bytes(broken)
        assert "arrays of b (verdict.onnx-fp32.npz) are not there" in reason()
    arrays.unlink()
    assert "are not there" in reason()
    values["artefacts"] = None
    write_report(other, values)
    assert reason() == "b was not attacked"


@pytest.mark.parametrize("threat", ["linf:0.1:10", "linf:0.1:20:0.02", "linf:10/100:7"])
def test_the_same_ball_written_in_another_way_is_the_same_threat(tmp_path: Path, threat: str) -> None:
    runs = read_runs([a_run(tmp_path / "a", flags(364)), a_run(tmp_path / "b", flags(364), threat=threat)])
    (found,) = pairs(runs)
    assert found.robust is not None
    assert "no difference in robust accuracy is shown" in str(found)


def test_different_levels_are_a_caution(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / "a", flags(364)), a_run(tmp_path / "b", flags(364), level="smoke")]
    assert "attacked at different levels (standard and smoke)" in str(pairs(read_runs(runs))[0])


def test_a_run_that_failed_is_compared_by_what_it_has(tmp_path: Path) -> None:
    write_report(tmp_path / "f", {"task": {"dataset": "digits"}, "seed": 0, "failed": "no budget can be met"})
    runs = read_runs([a_run(tmp_path / "a", flags(364)), tmp_path / "f"])
    assert dict(side_by_side(runs))["verdict"] == ["robust", "did not finish"]
    assert pairs(runs)[0].reason == "f was not attacked"
    html = page(runs)
    assert "f did not finish" in html
    assert "no budget can be met" in html


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = read_runs([a_run(tmp_path / "x" / "a", flags(364)), a_run(tmp_path / "y" / "a", flags(364))])
    assert [run.name for run in runs] == [str(tmp_path / "x" / "a"), str(tmp_path / "y" / "a")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has none: write it with 'rcnas-edge report"),
        ("{", "must be a JSON file"),
        ("[]", "must be a report, it is not"),
        ('{"schema": 7}', "schema is 1 here"),
        ('{"seed": 0}', "needs the field 'task'"),
    ],
)
def test_a_folder_without_a_report_is_one_sentence_and_exit_code_2(
    tmp_path: Path, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = a_run(tmp_path / "a", flags(364))
    bad = tmp_path / "bad"
    bad.mkdir()
    if content is not None:
        (bad / "report.json").write_text(content)
    with pytest.raises(SystemExit) as left:
        main(["report", str(first), str(bad)])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert words in told
    assert told.count("\n") == 1
    assert [path.name for path in bad.iterdir()] == ([] if content is None else ["report.json"])


def test_a_run_twice_is_refused(two: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="a comparison is of different runs"):
        read_runs([two[0], two[0] / ".." / "a"])


def test_the_command_prints_the_comparison_and_writes_a_page_only_where_it_is_asked(two: tuple[Path, Path]) -> None:
    before = sorted(path for folder in two for path in folder.rglob("*"))
    said = CliRunner().invoke(cli, ["report", *map(str, two)])
    assert said.exit_code == 0
    for words in ("asked differently", "max_macs", "72.8", "b against a, on the same 500 images: b is less robust"):
        assert words in said.output, words
    assert sorted(path for folder in two for path in folder.rglob("*")) == before
    html = two[0].parent / "out" / "compare.html"
    said = CliRunner().invoke(cli, ["report", *map(str, two), "--html", str(html)])
    assert said.exit_code == 0
    assert f"comparison: {html}" in said.output
    assert "b is less robust" in html.read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [[], ["a", "--html", "x.html"]])
def test_the_command_needs_runs_and_a_page_needs_two(arguments: list[str]) -> None:
    said = CliRunner().invoke(cli, ["report", *arguments])
    assert said.exit_code == 2
    assert "name" in said.output


def test_the_page_fetches_nothing_and_holds_names_as_text(tmp_path: Path) -> None:
    evil = "<script>x<b>"
    runs = [a_run(tmp_path / name, flags(hits), note=evil + name) for name, hits in ((evil, 364), ("b", 380), ("c", 1))]
    html = page(read_runs(runs))
    found = Page(html)
    assert found.fetched == []
    assert found.open == []
    assert not {"script", "b", "link", "img"} & set(found.tags)
    assert not re.search(r"https?:|url\(|@import|\son\w+=", html)
    assert found.text.count(evil) >= 5
    assert "3 runs; 2 of 2 can be held against" in found.text
    drawn = re.findall(r'aria-label="([^"]*)"', html)
    assert any(text.startswith("Paired differences. robust: b − ") for text in drawn)


def test_times_are_held_against_each_other_only_where_they_were_measured_alike(two: tuple[Path, Path]) -> None:
    runs = read_runs(two)
    assert "it takes 50.0\N{NO-BREAK SPACE}% of the time" in headline(runs, pairs(runs))
    path = two[1] / "report.json"
    values = json.loads(path.read_text())
    latency = values["artefacts"][0]["latency"]
    latency["threads"] = 2
    path.write_text(json.dumps(values))
    runs = read_runs(two)
    assert "their times were not measured alike" in headline(runs, pairs(runs))
    first, second = dict(side_by_side(runs))["timed on"]
    assert first.replace("1 thread(s)", "2 thread(s)") == second != first
    values["artefacts"][0]["latency"] = None  # a prediction is no measured time
    path.write_text(json.dumps(values))
    runs = read_runs(two)
    assert "time" not in headline(runs, pairs(runs))
    assert "b, predicted" in page(runs)
    assert "a, predicted" not in page(runs)


def test_runs_are_not_changed_by_reading_them(two: tuple[Path, Path]) -> None:
    runs = read_runs(two)
    before = copy.deepcopy([dict(run.content) for run in runs])
    page(runs)
    assert [dict(run.content) for run in runs] == before
