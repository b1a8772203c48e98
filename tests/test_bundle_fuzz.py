"""Bundles that are wrong in hundreds of ways: what was changed is caught, what was made to hurt is one sentence."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_doubles import small_bundle
from fuzz_doubles import SEEDED, Opener, assert_sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from rcnas_edge.board.bundle import BLANK, MANIFEST, REFERENCE, REPLAY, sealed


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    made = Opener(tmp_path_factory.mktemp("elsewhere"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small bundle."""
    folder = small_bundle(tmp_path_factory.mktemp("good"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("given") / "bundle"


def write(folder: Path, files: dict[str, bytes]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def sealed_again(files: dict[str, bytes], values: Any) -> dict[str, bytes]:
    """The files with a manifest of these values, with right hashes: whoever makes a bundle makes them."""
    if isinstance(values, dict) and isinstance(values.get("files"), dict):
        own = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name in values["files"]}
        values = {**values, "files": {**values["files"], **own}}
    text = json.dumps({**values, "digest": BLANK})
    return {**files, MANIFEST: text.replace(BLANK, sealed(text), 1).encode()}


def taken_or_refused(opener: Opener, folder: Path) -> str:
    words = opener("bundle", folder)
    assert_sentence(words)
    assert not words.startswith("died")
    return words


def test_the_good_one_is_taken(opener: Opener, folder: Path, good: dict[str, bytes]) -> None:
    assert opener("bundle", write(folder, good)) == ""
    again = sealed_again(good, json.loads(good[MANIFEST]))
    assert opener("bundle", write(folder, again)) == ""


# what was changed after it was made


@settings(SEEDED, max_examples=150)
@given(
    name=st.integers(0, 20),
    place=st.floats(0, 1, exclude_max=True, allow_subnormal=False),
    act=st.sampled_from(["flip", "cut", "insert", "swap", "remove"]),
    byte=st.integers(1, 255),
)
def test_every_change_is_caught(
    opener: Opener, folder: Path, good: dict[str, bytes], name: int, place: float, act: str, byte: int
) -> None:
    """Of any file; the sentence names it, but of a file in which another one lies."""
    files = dict(good)
    chosen = sorted(files)[name % len(files)]
    content, at = files[chosen], int(place * len(files[chosen]))
    if act == "remove":
        del files[chosen]
    elif act == "swap":
        other = sorted(files)[(name + 1) % len(files)]
        files[chosen], files[other] = files[other], files[chosen]
    else:
        tail = content[at + 1 :] if act == "flip" else content[at:]
        changed = {"flip": bytes([content[at] ^ byte]), "cut": b"", "insert": bytes([byte])}[act]
        files[chosen] = content[:at] + changed + (b"" if act == "cut" else tail)
    words = taken_or_refused(opener, write(folder, files))
    assert words
    assert act == "swap" or chosen in words


# what was made so

NUMBERS = st.sampled_from([0, -1, 1, 2, 5, 1.5, 1e300, float("inf"), 10**9, 2**62, 10**40, True, None])
STRANGE = st.one_of(
    NUMBERS,
    st.lists(NUMBERS, max_size=4),
    st.sampled_from(
        ["", "x", "\0", "../x", "/etc/passwd", {}, [[1]], {"a": 1}, "\x1b[2J", "model.onnx", "99.9", "fit"]
    ),
    st.text(max_size=8),
)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*way, key)
        yield from places(part, (*way, key))


@settings(SEEDED, max_examples=200)
@given(data=st.data())
def test_a_manifest_that_says_something_else(
    opener: Opener, folder: Path, good: dict[str, bytes], data: st.DataObject
) -> None:
    values = json.loads(good[MANIFEST])
    for _ in range(data.draw(st.integers(1, 2))):
        way = data.draw(st.sampled_from(sorted(places(values), key=repr)))
        part: Any = values
        for key in way[:-1]:
            part = part[key]
        if data.draw(st.booleans()):
            part[way[-1]] = data.draw(STRANGE)
        elif isinstance(part, dict):
            del part[way[-1]]
    taken_or_refused(opener, write(folder, sealed_again(good, values)))


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    written = io.BytesIO()
    np.savez_compressed(written, **arrays)
    return written.getvalue()


ARRAYS = st.sampled_from(
    [
        np.zeros(0), np.zeros((8, 1, 4, 4), np.float32), np.full((8, 1, 4, 4), np.nan, np.float32), np.zeros((8, 3)),
        np.zeros((8, 1, 4, 4), np.float64), np.arange(8), np.arange(-4, 4), np.zeros(20, np.int64), np.float32(1),
        np.full(20, 2**40), np.array(["a", "b"]), np.zeros((0, 1, 4, 4), np.float32), np.zeros(20, np.complex64),
        np.zeros(8, dtype=[("a", "f4")]), np.zeros(20, "datetime64[s]"),
    ]
)  # fmt: skip


@settings(SEEDED, max_examples=100)
@given(name=st.sampled_from([REFERENCE, REPLAY]), number=st.integers(0, 20), array=st.one_of(st.none(), ARRAYS))
def test_arrays_that_are_others(
    opener: Opener, folder: Path, good: dict[str, bytes], name: str, number: int, array: np.ndarray | None
) -> None:
    with np.load(io.BytesIO(good[name])) as found:
        arrays = dict(found)
    key = sorted(arrays)[number % len(arrays)]
    if array is None:
        del arrays[key]
    else:
        arrays[key] = array
    files = {**good, name: npz(arrays)}
    taken_or_refused(opener, write(folder, sealed_again(files, json.loads(good[MANIFEST]))))


@settings(SEEDED, max_examples=100)
@given(
    name=st.sampled_from([REFERENCE, REPLAY, "model.onnx"]),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True, allow_subnormal=False), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.one_of(st.none(), st.none(), st.floats(0, 1, allow_subnormal=False)),
)
def test_files_that_are_damaged_with_hashes_that_are_right(
    opener: Opener, folder: Path, good: dict[str, bytes], name: str, changes: list[tuple[float, int]], cut: float | None
) -> None:
    content = bytearray(good[name])
    for where, byte in changes:
        content[int(where * len(content))] = byte
    files = {**good, name: bytes(content[: None if cut is None else int(cut * len(content))])}
    taken_or_refused(opener, write(folder, sealed_again(files, json.loads(good[MANIFEST]))))


def test_a_zip_bomb_is_not_unpacked(opener: Opener, folder: Path, good: dict[str, bytes]) -> None:
    """A megabyte that becomes a gigabyte."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("images.npy", "w") as member:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**28,)})
        member.write(header.getvalue())
        for _ in range(16):
            member.write(bytes(2**24))
    assert len(written.getvalue()) < 1_000_000
    files = {**good, REPLAY: written.getvalue()}
    words = taken_or_refused(opener, write(folder, sealed_again(files, json.loads(good[MANIFEST]))))
    assert "bytes would become 268435" in words
    assert REPLAY in words


@pytest.mark.parametrize("shape", [(2**40,), (2**62, 4), (-1,)])
def test_an_array_that_claims_terabytes(opener: Opener, folder: Path, good: dict[str, bytes], shape) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as packed, packed.open("images.npy", "w") as member:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
        member.write(header.getvalue() + bytes(64))
    files = {**good, REFERENCE: written.getvalue()}
    words = taken_or_refused(opener, write(folder, sealed_again(files, json.loads(good[MANIFEST]))))
    assert REFERENCE in words


@pytest.mark.parametrize("name", ["../secret.onnx", "/etc/passwd", "..", "a/b.onnx", ".hidden", "a\\b", ""])
def test_files_elsewhere_are_not_read(opener: Opener, folder: Path, good: dict[str, bytes], name: str) -> None:
    values = json.loads(good[MANIFEST])
    values["files"][name] = values["files"]["model.onnx"]
    values["artefacts"][0] |= {"file": name, "of": name}
    write(folder, sealed_again(good, values))
    (folder.parent / "secret.onnx").write_bytes(good["model.onnx"])
    assert "a bundle's files lie in its own folder" in taken_or_refused(opener, folder)


@pytest.mark.parametrize("kind", ["pipe", "endless", "sparse"])
@pytest.mark.parametrize("name", [MANIFEST, "model.onnx"])
def test_what_is_no_file_is_not_waited_for(
    opener: Opener, folder: Path, good: dict[str, bytes], kind: str, name: str
) -> None:
    path = write(folder, good) / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    else:
        with open(path, "wb") as file:
            file.truncate(50_000_000_000)
    assert f"{name} is none: copy it again" in taken_or_refused(opener, folder)
