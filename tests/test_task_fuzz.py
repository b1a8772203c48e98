"""Task files that are wrong in hundreds of ways: each is one sentence, or a task that is written and read the same."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_doubles import SEEDED, assert_sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnas_edge.attacks.threat import Threat
from rcnas_edge.cli import main
from rcnas_edge.cost import Limit
from rcnas_edge.errors import InputError, RcnasError
from rcnas_edge.export import exporter
from rcnas_edge.search import strategy_class
from rcnas_edge.setting import LIMITS, MOST_TASK, TaskSetting, read_task
from rcnas_edge.train.recipe import recipe

GOOD = """
dataset = "digits"
profile = ["host", "board-a/fp32/2"]
max_macs = "40%"
max_latency = ["host=2ms", "board-a=60%"]
attack = "linf:8/255:10"
recipe = "rslad"
evaluations = 16
epochs = 3
learning_rate = 0.1
min_robust = 0.8
seed = 7
"""
SECONDS = 5.0


@pytest.fixture(autouse=True)
def denormal_numbers() -> None:
    """hypothesis draws them; attacks in this process have told the processor to take them for 0."""
    torch.set_flush_denormal(False)


def opened(path: Path) -> TaskSetting:
    """What every command does with a task file before it opens anything else."""
    setting = TaskSetting.from_dict(read_task(path), where=str(path))
    for device in setting.targets:
        for quantity, text in setting.limits_of(device.profile).items():
            assert Limit.parse(quantity, text).amount > 0
    if setting.attack is not None:
        assert 0 < Threat.parse(setting.attack).epsilon < 1
    changes = {"epochs": setting.epochs, "batch_size": setting.batch_size, "learning_rate": setting.learning_rate}
    assert recipe(setting.recipe, examples=100, **changes).epochs >= 1
    assert strategy_class(setting.strategy)
    assert exporter(setting.format).suffix
    if len(setting.targets) > 1:
        assert len(setting.for_each()) == len(setting.targets)
    return setting


def taken_or_refused(path: Path) -> str:
    started = time.process_time()
    try:
        setting = opened(path)
    except RcnasError as error:
        assert_sentence(str(error))
        return str(error)
    finally:
        assert time.process_time() - started < SECONDS
    path.write_text(setting.to_toml(), encoding="utf-8")
    assert TaskSetting.from_dict(read_task(path)) == setting
    return ""


def test_the_good_one_is_taken(tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(GOOD)
    assert taken_or_refused(tmp_path / "task.toml") == ""


KEYS = st.sampled_from(
    [*TaskSetting.__dataclass_fields__, "max-macs", "Dataset", "seeds", "a.b", "", "\x1b", "é", "x" * 300]
)
NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 1.5, 2**31, 10**12, 10**400, float("nan"), float("inf"), 1e300, 1e-320]),
    st.integers(),
    st.floats(),
)
WORDS = st.one_of(
    st.sampled_from(
        [
            "", " ", ",", "\0", "\x1b[2J", "../x", "/etc/passwd", "host, host", "host/fp32/" + "9" * 5000, 
            "host/int8/1", "40%", "-1ms", "1e999%", "0", "1" + "0" * 5000 + "ms", "host=2ms, host=3ms", "=", "host==",
            "fp32,int8,fp16",
            "linf:1/0:10", "linf:8/255:" + "9" * 5000, "linf:1e-999:1", "linf:.:1", "linf:8/255:٣", "l2:1:1", "nan",
            "wrn-" + "9" * 5000 + "-1", "rc-nas", "random", "onnx", "auto", "none", "cuda", "smoke", "trades",
        ]
    ),
    st.text(max_size=12),
)  # fmt: skip
VALUES = st.one_of(
    NUMBERS,
    WORDS,
    st.booleans(),
    st.lists(st.one_of(WORDS, NUMBERS), max_size=3),
    st.dictionaries(st.sampled_from("ab"), st.integers(), max_size=2),
)


def literal(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {literal(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return json.dumps(value) if isinstance(value, (bool, str)) else str(value)


@settings(SEEDED, max_examples=300)
@given(values=st.dictionaries(KEYS, VALUES, min_size=1, max_size=3))
def test_values_that_are_wrong(tmp_path: Path, values: dict[str, Any]) -> None:
    path = tmp_path / "task.toml"
    path.write_text("".join(f"{json.dumps(key)} = {literal(value)}\n" for key, value in values.items()))
    taken_or_refused(path)


@settings(SEEDED, max_examples=200)
@given(
    junk=st.binary(min_size=1, max_size=40),
    place=st.floats(0, 1, allow_subnormal=False),
    cut=st.one_of(st.none(), st.floats(0, 1, allow_subnormal=False)),
)
def test_bytes_that_are_junk(tmp_path: Path, junk: bytes, place: float, cut: float | None) -> None:
    content = GOOD.encode()
    at = int(place * len(content))
    content = content[:at] + junk + content[at + len(junk) :]
    (tmp_path / "task.toml").write_bytes(content[: None if cut is None else int(cut * len(content))])
    taken_or_refused(tmp_path / "task.toml")


BAD = {
    "lists": (b"a = " + b"[" * 15_000, "a task file is a TOML file"),
    "tables": (b"a = " + b"{a=" * 6_000, "a task file is a TOML file"),
    "dots": (b"a" + b".a" * 9_000 + b" = 1", "has no key 'a'"),
    "digits": (b"seed = 1" + b"0" * 15_000, "a task file is a TOML file"),
    "hexadecimal": (b"seed = 0x" + b"f" * 15_000, "--seed is a number of at most 9007199254740992"),
    "large": (b"#" * (MOST_TASK + 1), "a task file has at most 0.02 MB"),
    "utf-16": (GOOD.encode("utf-16"), "a task file is a TOML file"),
    "binary": (b"\x7fELF\0\0", "a task file is a TOML file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_task_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """From the command line too: one sentence, exit code 2, and no folder of a run is begun."""
    content, words = BAD[name]
    path = tmp_path / "task.toml"
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(SystemExit) as end:
        main(["compress", str(path), "--out", str(tmp_path / "run")])
    assert time.process_time() - started < SECONDS
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert_sentence(line)
    assert not (tmp_path / "run").exists()


def test_a_large_file_and_a_pipe_are_not_read(tmp_path: Path) -> None:
    import os

    with open(tmp_path / "large.toml", "wb") as file:
        file.truncate(3_000_000_000)
    with pytest.raises(InputError, match=r"large.toml has 3000 MB: is it the right one"):
        read_task(tmp_path / "large.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(InputError, match="a task file is a regular file"):
        read_task(tmp_path / "pipe.toml")


def test_every_limit_is_a_text() -> None:
    for name in LIMITS:
        with pytest.raises(InputError, match="is of type"):
            TaskSetting.from_dict({name: 3})
