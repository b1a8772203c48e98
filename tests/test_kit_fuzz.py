"""results.json that is wrong in hundreds of ways: each is one sentence and exit code 2, or harmless; no traceback."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from kit_doubles import KnownBoard, measured, small_kit

from rcnas_edge.cli import main
from rcnas_edge.errors import InputError
from rcnas_edge.kit import results as kit_results
from rcnas_edge.kit.recorded import import_results

SECONDS = 20.0
"""That no file may take."""
SEEDED = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=250,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
MODEL = {
    "file": "m.onnx",
    "sha256": "00",
    "when": "2026",
    "runtime": "onnxruntime 9.9",
    "provider": "CPU",
    "stable": True,
}
NUMBERS = ("p50_ms", "p95_ms", "runs", "threads", "low_ms", "high_ms", "within", "between")
NUMBERS += ("sessions", "seconds", "reference_ms", "load", "at_pace")


@pytest.fixture(autouse=True)
def denormal_numbers() -> None:
    """hypothesis draws them; attacks in this process have told the processor to take them for 0."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results that are right: few kernels and networks, two settings, one model of the user's."""
    folder = tmp_path_factory.mktemp("fuzz")
    kit = small_kit(folder, 2)
    measured(kit, KnownBoard(kit, "onnxruntime-nchwc8"), folder / "results.json", threads=(1, 2))
    content = json.loads((folder / "results.json").read_text())
    content["models"] = [MODEL | dict.fromkeys(NUMBERS, 1)]
    return content


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a value."""
    yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*way, key))


def refused_or_fine(path: Path, folder: Path) -> str:
    """The sentence of a refusal, empty for a file that makes a profile."""
    started = time.process_time()
    try:
        profile, _ = import_results(path, "fuzzed", folder)
    except InputError as error:
        words = str(error)
        assert "\n" not in words.strip()
        assert len(words) < 2500
        return words
    finally:
        assert time.process_time() - started < SECONDS
    assert all(math.isfinite(row.ms) and row.ms > 0 for row in profile.rows)
    assert all(math.isfinite(value) for value in (*profile.scale.values(), *profile.overhead_ms.values()))
    return ""


def test_the_good_one_is_taken(good: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(good))
    assert refused_or_fine(tmp_path / "results.json", tmp_path) == ""


STRANGE = st.one_of(
    st.sampled_from(
        [None, True, False, "", "x", "\x00", "../x", "\ud800", "1" * 30_000, [], {}, [[]], [None], {"x": 1}, [1e-300]]
    ),
    st.sampled_from([math.nan, math.inf, -math.inf, -1, -0.0, 0, 1e-300, 1e300, 10**40, 2**63, 0.1, 1e7, 3]),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.lists(st.one_of(st.floats(), st.text(max_size=5)), max_size=4),
    st.dictionaries(st.text(max_size=8), st.one_of(st.integers(), st.none()), max_size=3),
)


@SEEDED
@given(st.data())
def test_whatever_is_changed_is_a_sentence_or_harmless(
    good: dict[str, Any], tmp_path: Path, data: st.DataObject
) -> None:
    content: Any = deepcopy(good)
    for _ in range(data.draw(st.integers(1, 3))):
        if not isinstance(content, dict):
            break
        top = data.draw(st.sampled_from(sorted(content)), label="top") if content else None
        inside = sorted(places(content.get(top), (top,)), key=repr) if top is not None else [()]
        way = data.draw(st.sampled_from(inside), label="way")
        part = content
        for key in way[:-1]:
            part = part[key]
        act = data.draw(st.sampled_from(["replace", "remove", "rename", "add"]), label="act")
        strange = deepcopy(data.draw(STRANGE, label="value"))
        if not way or act == "replace" or isinstance(part, list):
            if way:
                part[way[-1]] = strange
            else:
                content = strange
        elif act == "remove":
            del part[way[-1]]
        elif act == "rename":
            part[str(strange)[:200]] = part.pop(way[-1])
        else:
            part[str(strange)[:200]] = strange
    path = tmp_path / "results.json"
    path.write_bytes(json.dumps(content).encode("utf-8", "surrogatepass"))
    event("refused" if refused_or_fine(path, tmp_path) else "taken")


@SEEDED
@given(st.integers(0, 10**6), st.binary(max_size=12), st.sampled_from(["cut", "put", "over"]))
def test_whatever_bytes_are_broken(good: dict[str, Any], tmp_path: Path, place: int, noise: bytes, act: str) -> None:
    raw = json.dumps(good).encode()
    place %= len(raw)
    after = {"cut": b"", "put": raw[place:], "over": raw[place + len(noise) :]}[act]
    path = tmp_path / "results.json"
    path.write_bytes(raw[:place] + noise + after)
    event("refused" if refused_or_fine(path, tmp_path) else "taken")


def changed(good: dict[str, Any], way: str, value: Any) -> dict[str, Any]:
    content: Any = deepcopy(good)
    *parts, last = way.split("/")
    part = content
    for key in parts:
        part = part[int(key) if isinstance(part, list) else next(iter(part)) if key == "*" else key]
    if last == "*":
        last = next(iter(part))
    part[last] = value
    return content


RULES = [
    ("results", 2, "the version of results is 1 here, got 2: measure with a new kit"),
    ("runtime", "tflite", "runtime is one of onnxruntime, "),
    ("machine/cpu", "", "machine cpu is a text that is not empty"),
    ("machine/cpu", "a\x1b[2J", "machine cpu is a text without control characters"),
    ("machine/kind", "estimate", "machine has no key 'kind'"),
    ("pairs/*/copies", 10**6, "copies is a whole number from 1 to 64"),
    ("pairs/*/rows", "00", "the specimens of this version, got '00': measure with a new kit"),
    ("pairs/softmax plain 1 1 1 8 8 8 8", {"copies": 1, "rows": "0"}, "operation is one of"),
    ("pairs/conv", {"copies": 1, "rows": "0"}, "the name of a pair is a kernel, as 'conv plain 3"),
    ("pairs/slice plain 1 1 1 8 8 64 100000", {"copies": 1, "rows": "0"}, "is at most 64, got 100000"),
    ("networks/*/role", "both", "role is one of fit, check, got 'both'"),
    ("networks/*/megabytes", -1, "megabytes is a number from 0"),
    ("networks/*/kernels", {}, "has at least one kernel, got none"),
    ("threads/0", {}, "a key of threads is a number from 1 to 1024, got '0'"),
    ("threads/1/pace_ms", 0, "threads 1 pace_ms is a number above 0"),
    ("threads/1/pairs/*", [math.nan], "NaN is no number"),
    ("threads/1/pairs/*", [1e300], "is a number from -1e+07 to 1e+07, got 1e+300"),
    ("threads/1/pairs/*", [], "a list of at least one time in ms"),
    ("threads/1/pairs/none", [1.0], "one of the pairs of the file, got 'none'"),
    ("threads/1/networks/*", [-1.0], "is a number above 0"),
    ("threads/1/networks/none", [1.0], "one of the networks of the file"),
    ("threads/1/seen/covers", "rates", "seen has no key 'covers'"),
    ("threads/1/stable", 1, "threads 1 stable is true or false"),
    ("models/0/p50_ms", "fast", "model 1 p50_ms is a number"),
    ("more", 1, "results has no key 'more'"),
]


@pytest.mark.parametrize(("way", "value", "words"), RULES, ids=[f"{way}={value}"[:40] for way, value, _ in RULES])
def test_each_field_has_its_rule(good: dict[str, Any], tmp_path: Path, way: str, value: Any, words: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(changed(good, way, value)))
    told = refused_or_fine(path, tmp_path)
    assert words in told
    assert str(path) in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "it is no JSON"),
        ('{"a":' * 50_000, "it is no JSON"),
        ("null", "results is a table of keys and values, got None"),
        ("1" * 10_000, "it is no JSON"),
        ("", "it is no JSON"),
        ("\ufeff{}", "it is no JSON"),
    ],
)
def test_what_is_no_results_file(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content, encoding="utf-8")
    assert words in refused_or_fine(path, tmp_path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit_results, "MOST_BYTES", 100)
    (tmp_path / "results.json").write_text(" " * 101)
    assert "at most 0 MB" in refused_or_fine(tmp_path / "results.json", tmp_path)
    assert "has" in refused_or_fine(tmp_path, tmp_path)  # a folder


def test_the_command_ends_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        main(["profile", "import", str(tmp_path / "results.json"), "--name", "pi5", "--out", str(tmp_path)])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "there is no results" in told
    assert not list(tmp_path.glob("pi5*"))
