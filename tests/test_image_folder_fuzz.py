"""Folders of images that are wrong in hundreds of ways: each is one sentence, or becomes arrays of the right shape."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fuzz_doubles import SEEDED, Opener, assert_sentence
from hypothesis import event, given, settings
from hypothesis import strategies as st
from PIL import Image

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".bmp": "BMP", ".ppm": "PPM", ".tif": "TIFF", ".webp": "WEBP", ".pgm": "GIF"}


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    made = Opener(tmp_path_factory.mktemp("elsewhere"))
    yield made
    made.close()


@cache
def image(suffix: str, colour: bool = True) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 14, 3) if colour else (12, 14), dtype=np.uint8)
    written = BytesIO()
    Image.fromarray(pixels).save(written, FORMATS[suffix])
    return written.getvalue()


def make(root: Path) -> Path:
    """Two classes of three images, which is as few as can be split."""
    shutil.rmtree(root, ignore_errors=True)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(5):
            (root / name / f"{number}.png").write_bytes(image(".png"))
    return root


def test_the_good_one_is_taken(opener: Opener, tmp_path: Path) -> None:
    assert opener("images", make(tmp_path / "data")) == ""


@settings(SEEDED, max_examples=300)
@given(
    suffix=st.sampled_from(sorted(FORMATS)),
    places=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True, allow_subnormal=False), st.integers(0, 255)), max_size=6
    ),
    early=st.booleans(),
    cut=st.one_of(st.none(), st.floats(0, 1, allow_subnormal=False)),
    name=st.sampled_from(["x.png", "x.JPG", "x.tif", "x.webp", "x.pgm"]),
    colour=st.booleans(),
)
def test_an_image_that_is_damaged(
    opener: Opener,
    tmp_path: Path,
    suffix: str,
    places: list[tuple[float, int]],
    early: bool,
    cut: float | None,
    name: str,
    colour: bool,
) -> None:
    content = bytearray(image(suffix, colour))
    for where, byte in places:  # headers are where sizes stand
        content[int(where * min(len(content), 64 if early else len(content)))] = byte
    root = tmp_path / "data"
    if not root.is_dir():
        make(root)
    for left in (root / "cat").glob("x.*"):
        left.unlink()
    (root / "cat" / name).write_bytes(content[: None if cut is None else int(cut * len(content))])
    words = opener("images", root)
    event(words[:25] or "taken")
    assert_sentence(words)
    if words:
        assert "cat/x." in words


def link_to_itself(root: Path) -> None:
    (root / "cat" / "more").symlink_to(root / "cat", target_is_directory=True)


def links_everywhere(root: Path) -> None:
    """Followed blindly these are two to the power of forty folders."""
    for name in ("a", "b"):
        (root / "cat" / name).symlink_to("..", target_is_directory=True)


def pipe(root: Path) -> None:
    os.mkfifo(root / "dog" / "x.png")


def device(root: Path) -> None:
    (root / "dog" / "x.png").symlink_to("/dev/zero")


def dangling(root: Path) -> None:
    (root / "dog" / "x.png").symlink_to("nowhere.png")


def program(root: Path) -> None:
    (root / "dog" / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")


def bomb(root: Path) -> None:
    """Few bytes that become 100 million pixels."""
    Image.new("1", (10_000, 10_000)).save(root / "dog" / "x.png")


def no_letters(root: Path) -> None:
    os.mkdir(os.fsencode(root) + b"/\xff\xfe")
    shutil.copy(root / "cat" / "0.png", os.fsencode(root) + b"/\xff\xfe/0.png")


def red(root: Path) -> None:
    (root / "\x1b[31mred").mkdir()


def empty(root: Path) -> None:
    (root / "eel").mkdir()


def no_letters_damaged(root: Path) -> None:
    with open(os.fsencode(root) + b"/dog/\xff\x1b.png", "wb") as file:
        file.write(b"no image")


BAD = [
    (link_to_itself, "cat/more is a link back to one around it"),
    (links_everywhere, "is a link back to one around it"),
    (pipe, "dog/x.png is none"),
    (device, "dog/x.png is none"),
    (dangling, "dog/x.png is none"),
    (program, "dog/x.png is not: cannot identify image file"),
    (bomb, "at most 90 million pixels"),
    (no_letters, r"'\udcff\udcfe' cannot: rename it"),
    (red, r"'\x1b[31mred' cannot: rename it"),
    (empty, "eel has none: remove it"),
    (no_letters_damaged, r"dog/\udcff\x1b.png' is not: cannot identify"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[change.__name__ for change, _ in BAD])
def test_a_folder_that_is_no_such_data_set(opener: Opener, tmp_path: Path, change, words: str) -> None:
    root = make(tmp_path / "data")
    change(root)
    said = opener("images", root)
    assert_sentence(said)
    assert words in said


def test_images_that_would_not_fit_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rcnas_edge import data
    from rcnas_edge.errors import InputError

    monkeypatch.setattr(data, "MOST_BYTES", 10 * 3 * 8 * 8 - 1)
    with pytest.raises(InputError, match="10 of 8x8 take more: make --image-size smaller"):
        data.load_dataset("folder", root=make(tmp_path / "data"), image_size=8)


def test_links_to_images_and_folders_are_followed(tmp_path: Path) -> None:
    """Many data sets are folders of links."""
    from rcnas_edge.data import load_dataset

    there, here = make(tmp_path / "there"), make(tmp_path / "here")
    shutil.rmtree(here / "dog")
    (here / "dog").symlink_to(there / "dog", target_is_directory=True)
    (here / "cat" / "0.png").unlink()
    (here / "cat" / "0.png").symlink_to(there / "cat" / "0.png")
    one, other = (load_dataset("folder", root=root, image_size=8) for root in (there, here))
    assert one.digest == other.digest
