"""Images on a board: what is read equals what Pillow reads, with and without Pillow; what is wrong is one sentence."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from rcnas_edge.board.images import images_of, png_pixels
from rcnas_edge.board.words import Refused

GREY, COLOUR = (1, 5, 7), (3, 5, 7)


def drawn(mode: str) -> Image.Image:
    """A picture of 7 x 5 pixels with smooth and rough parts, so that PNG's encoder takes every filter."""
    generator = np.random.default_rng(0)
    values = generator.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    values[1:3] = np.arange(7, dtype=np.uint8)[:, None] * 9
    values[4] = values[3] + 3
    image = Image.fromarray(values, "RGBA")
    return image.convert("RGB").quantize(16) if mode == "P" else image.convert(mode)


@pytest.fixture
def no_pillow(monkeypatch: pytest.MonkeyPatch):
    def without() -> None:
        monkeypatch.setitem(sys.modules, "PIL", None)

    return without


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("shape", [GREY, COLOUR], ids=["grey", "colour"])
def test_a_png_is_the_same_without_pillow(mode: str, shape: tuple[int, int, int], tmp_path: Path, no_pillow) -> None:
    path = tmp_path / "image.png"
    drawn(mode).save(path)
    expected = images_of(path, shape)
    direct = np.asarray(drawn(mode).convert("RGB" if shape[0] == 3 else "L"), dtype=np.float32) / 255
    np.testing.assert_array_equal(expected[0], direct.reshape(5, 7, -1).transpose(2, 0, 1))
    no_pillow()
    if shape == GREY and mode == "P":  # Pillow makes grey of a palette by another rounding
        np.testing.assert_allclose(images_of(path, shape), expected, atol=1.01 / 255)
    else:
        np.testing.assert_array_equal(images_of(path, shape), expected)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 33)])
def test_every_filter_of_png_is_undone(size: tuple[int, int], tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    rough = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    smooth = np.add.outer(np.arange(size[1]), np.arange(size[0]))[:, :, None] * np.array([1, 2, 3])
    for values in (rough, smooth.astype(np.uint8), np.maximum(rough // 8, smooth.astype(np.uint8))):
        path = tmp_path / "image.png"
        Image.fromarray(values).save(path)
        np.testing.assert_array_equal(png_pixels(path), values)


def test_of_sixteen_bits_the_upper_eight_are_taken(tmp_path: Path, no_pillow) -> None:
    values = np.array([[0, 255, 256, 65535], [1024, 40000, 511, 512]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    expected = (values >> 8).astype(np.float32)[None, None] / 255
    np.testing.assert_array_equal(images_of(tmp_path / "deep.png", (1, 2, 4)), expected)
    no_pillow()
    np.testing.assert_array_equal(images_of(tmp_path / "deep.png", (1, 2, 4)), expected)


def test_arrays_in_every_order_are_the_same_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, COLOUR, dtype=np.uint8)
    expected = pixels[None].astype(np.float32) / 255
    last = pixels.transpose(1, 2, 0)
    for given in (pixels, last, pixels[None], last[None], pixels / 255.0, [pixels], Image.fromarray(last)):
        np.testing.assert_allclose(images_of(given, COLOUR), expected, atol=1e-7)
    grey = pixels[0]
    for given in (grey, grey[None], grey[None, None], grey[:, :, None]):
        assert images_of(given, GREY).shape == (1, *GREY)
    assert images_of([grey, np.stack([grey, grey])], GREY).shape == (3, *GREY)
    assert images_of(np.zeros((0, *GREY)), GREY).shape == images_of([], GREY).shape == (0, *GREY)


def test_a_declared_resize_is_that_of_image_folders(tmp_path: Path) -> None:
    from rcnas_edge.data import _read_image

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8))
    image.save(tmp_path / "large.png")
    expected = np.asarray(ImageOps.fit(image, (8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    found = images_of(tmp_path / "large.png", (3, 8, 8), fit=True)[0]
    np.testing.assert_array_equal(np.rint(found * 255).astype(np.uint8), expected)
    np.testing.assert_array_equal(_read_image(tmp_path / "large.png", 8), expected)


def test_a_file_of_numpy_is_an_array(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, *GREY), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    np.testing.assert_array_equal(images_of(tmp_path / "images.npy", GREY), images)
    np.testing.assert_array_equal(images_of([str(tmp_path / "images.npy")] * 2, GREY)[3:], images)


def test_what_is_wrong_is_one_sentence(tmp_path: Path, no_pillow) -> None:
    drawn("RGB").save(tmp_path / "image.png")
    drawn("RGB").save(tmp_path / "image.jpg")
    drawn("L").convert("F").save(tmp_path / "float.tiff")
    (tmp_path / "text.png").write_text("no image")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    whole = (tmp_path / "image.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.png").write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])

    def refused(given: object, shape: tuple[int, int, int] = COLOUR) -> str:
        with pytest.raises(Refused) as error:
            images_of(given, shape)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "images have 8 x 8 pixels" in refused(tmp_path / "image.png", (3, 8, 8))
    assert "has 7 x 5: resize it, or let --resize" in refused(tmp_path / "image.png", (3, 8, 8))
    assert "has 7 x 5" in refused(drawn("RGB"), (3, 8, 8))
    assert "the network takes 4 channels" in refused(tmp_path / "image.png", (4, 5, 7))
    assert "has 32 (mode F)" in refused(tmp_path / "float.tiff")
    assert "a file that Pillow reads" in refused(tmp_path / "text.png")
    assert "a file that can be read" in refused(tmp_path / "none.png")
    assert "a file that can be read" in refused(tmp_path / "objects.npy")
    assert "floats in [0, 1], the array has nan" in refused(np.full(COLOUR, np.nan))
    assert "floats in [0, 1], the array has 0 to 1.5" in refused(np.linspace(0, 1.5, 105).reshape(COLOUR))
    assert "bring it to 7 x 5 pixels and 3 channels (RGB) first" in refused(np.zeros((3, 7, 5)))
    no_pillow()
    assert "without Pillow only .npy and PNG files are read" in refused(tmp_path / "image.jpg")
    assert "here that needs Pillow" in refused(tmp_path / "image.png", (3, 8, 8))
    assert "no whole PNG" in refused(tmp_path / "cut.png")
    assert "is damaged" in refused(tmp_path / "flipped.png")
    laced = bytearray(whole)
    laced[28] = 1  # the last byte of the header, whose checksum follows
    laced[29:33] = zlib.crc32(bytes(laced[12:29])).to_bytes(4, "big")
    (tmp_path / "laced.png").write_bytes(laced)
    assert "interlaced: yes" in refused(tmp_path / "laced.png")
