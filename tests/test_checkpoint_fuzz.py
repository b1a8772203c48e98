"""Checkpoints and weights that are wrong in hundreds of ways: each is one sentence, or a network that answers."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz_doubles import SEEDED, Opener, assert_sentence
from hypothesis import event, given, settings
from hypothesis import strategies as st

from rcnas_edge.checkpoint import NETWORK, WEIGHTS, load_weights, write_checkpoint
from rcnas_edge.errors import InputError
from rcnas_edge.nets import family
from rcnas_edge.nets.wrn_rows import WrnConfig

FRAME: dict[str, Any] = {"image": (1, 8, 8), "classes": 3, "mean": (0.3,), "std": (0.4,)}


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    made = Opener(tmp_path_factory.mktemp("elsewhere"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("given")


@cache
def good(scratch: str) -> tuple[bytes, bytes]:
    """Description and weights of a very small network."""
    path = Path(scratch) / "good"
    config = WrnConfig((1, 1, 1), (8, 8, 8), (False,) * 3, **FRAME)
    write_checkpoint(path, family("wrn").build(config), config, family="wrn", facts={"threat": "linf:0.1:10"})
    return (path / NETWORK).read_bytes(), (path / WEIGHTS).read_bytes()


def write(folder: Path, values: Any, weights: bytes, *, true_sum: bool = True) -> Path:
    if isinstance(values, dict) and true_sum:  # whoever makes a file makes its sum too
        values = {**values, "sha256": hashlib.sha256(weights).hexdigest()}
    (folder / NETWORK).write_text(json.dumps(values))
    (folder / WEIGHTS).write_bytes(weights)
    return folder


def test_the_good_one_is_taken(opener: Opener, folder: Path) -> None:
    description, weights = good(str(folder))
    assert opener("checkpoint", write(folder, json.loads(description), weights)) == ""


def taken_or_refused(opener: Opener, folder: Path) -> None:
    words = opener("checkpoint", folder)
    event(words[:12] or "taken")
    assert_sentence(words)
    assert not words.startswith("died")


NUMBERS = st.sampled_from([0, -1, 1, 2, 9, 1.5, 1e300, float("nan"), float("inf"), 10**5, 10**9, 10**40, True, None])
STRANGE = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, max_size=4),
    st.sampled_from(["", "x", "\0", "../wrn", "resnet", {}, [[1]], {"a": 1}, "\ud800", "imagenet"]),
    st.text(max_size=8),
)
FIELDS = ["depths", "widths", "robust", "image", "classes", "mean", "std", "stem_channels", "stem_stride", "more"]


@settings(SEEDED, max_examples=200)
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), STRANGE, max_size=2),
    tops=st.dictionaries(st.sampled_from(["schema", "family", "network", "facts", "sha256"]), STRANGE, max_size=1),
    true_sum=st.booleans(),
)
def test_a_description_that_is_changed(
    opener: Opener, folder: Path, changes: dict[str, Any], tops: dict[str, Any], true_sum: bool
) -> None:
    description, weights = good(str(folder))
    values = json.loads(description)
    values["network"] |= changes
    taken_or_refused(opener, write(folder, values | tops, weights, true_sum=true_sum or not tops))


@settings(SEEDED, max_examples=150)
@given(
    places=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True, allow_subnormal=False), st.integers(0, 255)), max_size=4
    ),
    header=st.booleans(),
    cut=st.one_of(st.none(), st.none(), st.floats(0, 1, allow_subnormal=False)),
)
def test_weights_that_are_changed_or_cut(
    opener: Opener, folder: Path, places: list[tuple[float, int]], header: bool, cut: float | None
) -> None:
    description, weights = good(str(folder))
    content = bytearray(weights)
    reach = 8 + int.from_bytes(weights[:8], "little") if header else len(content)
    for where, byte in places:
        content[int(where * reach)] = byte
    changed = bytes(content[: None if cut is None else int(cut * len(content))])
    taken_or_refused(opener, write(folder, json.loads(description), changed))


def headed(header: Any, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


HEADERS = [
    {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}},
    {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**60]}},
    {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    {"w": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}},
    {"w": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}},
    {"w": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
    {"__metadata__": {"values": "[" * 100_000}},
    {"__metadata__": {"values": "[1]"}},
    {"__metadata__": {"values": "1" * 5000}},
    [],
    {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_header_that_claims_too_much(opener: Opener, folder: Path, header: Any) -> None:
    description, _ = good(str(folder))
    words = opener("checkpoint", write(folder, json.loads(description), headed(header, bytes(4))))
    assert "weights" in words
    assert_sentence(words)


def test_a_network_that_is_larger_than_its_weights_is_never_built(opener: Opener, folder: Path) -> None:
    description, weights = good(str(folder))
    values = json.loads(description)
    values["network"]["widths"] = [50_000] * 3
    words = opener("checkpoint", write(folder, values, weights))
    assert "must hold the weights of the network, it has" in words
    assert "parameters: copy both" in words


# --weights


class Touch:
    """What pickles may do when they are opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    for name, wrapped in (("a.pt", Touch(tmp_path / "ran")), ("b.pth", {"w": Touch(tmp_path / "ran")})):
        torch.save(wrapped, tmp_path / name)
        with pytest.raises(InputError, match="that torch loads with weights_only=True") as error:
            load_weights(tmp_path / name)
        assert_sentence(str(error.value).replace("\n", " "))
    assert not (tmp_path / "ran").exists()


def test_a_zip_bomb_is_not_unpacked(opener: Opener, tmp_path: Path) -> None:
    """A state dict in which a tensor's ten bytes unpack to ten gigabytes."""
    torch.save({"w": torch.zeros(4)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for member in whole.infolist():
            if member.filename.endswith("/data/0"):
                with bomb.open(zipfile.ZipInfo(member.filename), "w") as file:
                    file.write(bytes(16))
                bomb.writestr(f"{member.filename}x", bytes(50_000_000), zipfile.ZIP_DEFLATED)
            else:
                bomb.writestr(member, whole.read(member))
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000
    words = opener("weights", tmp_path / "bomb.pt")
    assert "a weights file is as large as its tensors" in words
    assert "save model.state_dict() anew" in words
    assert opener("weights", tmp_path / "whole.pt") == ""


@cache
def saved(scratch: str, old: bool) -> bytes:
    path = Path(scratch) / "saved.pt"
    torch.save(
        {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=not old
    )
    return path.read_bytes()


@settings(SEEDED, max_examples=150)
@given(
    old=st.booleans(),
    places=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True, allow_subnormal=False), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.one_of(st.none(), st.floats(0, 1, allow_subnormal=False)),
)
def test_a_state_dict_that_is_damaged(
    opener: Opener, folder: Path, old: bool, places: list[tuple[float, int]], cut: float | None
) -> None:
    content = bytearray(saved(str(folder), old))
    for where, byte in places:
        content[int(where * len(content))] = byte
    (folder / "x.pt").write_bytes(content[: None if cut is None else int(cut * len(content))])
    words = opener("weights", folder / "x.pt")
    event(words[:12] or "taken")
    assert_sentence(words)
    assert not words.startswith("died")
