"""Reads images for a shipped network: files, arrays and Pillow's images become float32 (N, C, H, W) in [0, 1].

The file stands alone: Python 3.9 or later and numpy. Files of numpy (.npy) are always read, PNG files too (those that
are not interlaced); every other kind of image, and a resize, needs Pillow. What is of the wrong size, kind or range is
refused in one sentence: nothing is ever scaled that nobody asked to have scaled.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from rcnas_edge.board.words import Refused

SLACK = 1e-6
"""Float rounding that a pixel may stand outside [0, 1]."""
MOST_PIXELS = 100_000_000
"""Of an image file, so that a small file cannot fill the memory."""
PNG = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By the colour type of a PNG file: grey, RGB, palette, grey with alpha, RGB with alpha."""
PILLOW = "pip install pillow, or save it as .npy"


def images_of(given: Any, shape: tuple[int, int, int], *, fit: bool = False) -> np.ndarray:
    """Images float32 (N, C, H, W) in [0, 1] of one image or of a list of them, `shape` being (C, H, W).

    An image is a path, an image of Pillow, or an array: 8-bit pixels or floats in [0, 1], as (C, H, W) or (H, W, C),
    or (H, W) where C is 1; an array may hold N of them. With `fit` an image file of another size is scaled until its
    shorter side fits, and its centre cut out, as image folders are for training. Raises Refused for anything else.
    """
    if isinstance(given, (list, tuple)):
        parts = [images_of(one, shape, fit=fit) for one in given]
        return np.concatenate(parts) if parts else np.zeros((0, *shape), dtype=np.float32)
    if isinstance(given, (str, Path)):
        return _of_file(Path(given), shape, fit)
    if hasattr(given, "convert") and hasattr(given, "mode"):
        return pixels_of(_of_pillow(given, shape, fit, "the image"), shape, "the image")
    return pixels_of(given, shape, "the array")


def pixels_of(given: Any, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """Images float32 (N, C, H, W) in [0, 1] of an array with one or N of them; Refused names the array by `name`."""
    values = np.asarray(given)
    channels, height, width = shape
    last = (height, width, channels)
    if values.shape in (shape, last) or (channels == 1 and values.shape == (height, width)):
        values = values[None]
    if channels == 1 and values.shape[1:] == (height, width):
        values = values[:, None]
    if values.ndim != 4 or values.shape[1:] not in (shape, last):
        raise Refused(
            f"images have the shape (N, {channels}, {height}, {width}), {name} has {np.asarray(given).shape}: bring it "
            f"to {width} x {height} pixels and {_channels(channels)} first"
        )
    if values.shape[1:] != shape:
        values = values.transpose(0, 3, 1, 2)
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values.astype(np.float32) / 255)
    if not np.issubdtype(values.dtype, np.floating):
        raise Refused(
            f"pixels are 8-bit integers (uint8) or floats in [0, 1], {name} has {values.dtype}: divide by its largest "
            "value first"
        )
    if values.size and not (values.min() >= -SLACK and values.max() <= 1 + SLACK):  # NaN is refused too
        raise Refused(
            f"pixels are floats in [0, 1], {name} has {values.min():.4g} to {values.max():.4g}: divide 8-bit images by "
            "255, and do not normalise, the network does that itself"
        )
    return np.ascontiguousarray(values, dtype=np.float32)


def _channels(count: int) -> str:
    return {1: "1 channel (grey)", 3: "3 channels (RGB)"}.get(count, f"{count} channels")


def _of_file(path: Path, shape: tuple[int, int, int], fit: bool) -> np.ndarray:
    try:
        if path.suffix.lower() == ".npy":
            return pixels_of(np.load(path, allow_pickle=False), shape, str(path))
        with open(path, "rb") as file:
            head = file.read(len(PNG))
    except (OSError, ValueError, EOFError) as error:
        raise Refused(f"an image is a file that can be read, {path} is not: {error}") from error
    if shape[0] not in (1, 3):
        raise Refused(f"image files are grey or RGB, the network takes {shape[0]} channels: save {path} as .npy")
    try:
        from PIL import Image
    except ImportError:
        if head != PNG:
            raise Refused(f"without Pillow only .npy and PNG files are read, got {path}: {PILLOW}") from None
        return pixels_of(_shaped(png_pixels(path), shape, path), shape, str(path))
    try:
        with Image.open(path) as image:
            return pixels_of(_of_pillow(image, shape, fit, str(path)), shape, str(path))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refused(f"an image is a file that Pillow reads, {path} is not: {error}") from error


def _of_pillow(image: Any, shape: tuple[int, int, int], fit: bool, name: str) -> np.ndarray:
    """Pixels uint8 (H, W, C) of Pillow's image, the upper eight of sixteen bits, as for training."""
    from PIL import Image, ImageOps

    if image.mode in ("I", "F"):
        raise Refused(f"an image has 8 or 16 bits per channel, {name} has 32 (mode {image.mode}): convert it")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    channels, height, width = shape
    if image.size != (width, height) and not fit:
        raise _wrong_size(name, image.size, shape)
    # the order of training: first the colours, then the size
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


def _wrong_size(name: str, size: tuple[int, int], shape: tuple[int, int, int]) -> Refused:
    return Refused(
        f"images have {shape[2]} x {shape[1]} pixels, {name} has {size[0]} x {size[1]}: resize it, or let --resize "
        "scale it and cut out its centre, which the network was not checked with"
    )


def _shaped(pixels: np.ndarray, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    """Pixels (H, W, grey or RGB) in the channels of the network; Refused for another size, which needs Pillow."""
    channels, height, width = shape
    if pixels.shape[:2] != (height, width):
        raise Refused(
            f"images have {width} x {height} pixels, {path} has {pixels.shape[1]} x {pixels.shape[0]}: resize it; here "
            f"that needs Pillow ({PILLOW})"
        )
    if pixels.shape[2] == 3 and channels == 1:  # by ITU-R 601, in the integers that Pillow takes
        weights = np.array([19595, 38470, 7471], dtype=np.uint32)
        return ((pixels.astype(np.uint32) @ weights + 0x8000) >> 16).astype(np.uint8)[:, :, None]
    return np.repeat(pixels, channels, axis=2) if pixels.shape[2] < channels else pixels


def png_pixels(path: Path) -> np.ndarray:
    """Pixels uint8 (H, W, 1) or (H, W, 3) of a PNG file (W3C, Portable Network Graphics), alpha dropped."""
    try:
        raw = path.read_bytes()
        header, palette, packed = _png_chunks(raw)
        width, height, depth, colour, _, _, interlaced = header
        samples = PNG_CHANNELS[colour]
        if depth not in (1, 2, 4, 8, 16) or interlaced or not 0 < width * height <= MOST_PIXELS:
            raise Refused(
                f"without Pillow PNG files that are not interlaced are read, of at most {MOST_PIXELS} pixels, {path} "
                f"is another ({width} x {height}, {depth} bits, interlaced: {'yes' if interlaced else 'no'}): {PILLOW}"
            )
        row = -(-width * samples * depth // 8)
        lines = zlib.decompressobj().decompress(packed, height * (row + 1))
        rows = np.frombuffer(lines, dtype=np.uint8).reshape(height, row + 1)
        flat = _unfiltered(rows, max(1, samples * depth // 8))
        if depth == 16:
            flat = flat[:, ::2]  # the upper eight bits
        elif depth < 8:
            bits = np.unpackbits(flat, axis=1)[:, : width * depth].reshape(height, width, depth)
            flat = bits @ (1 << np.arange(depth - 1, -1, -1)).astype(np.uint8)
            flat = flat if colour == 3 else flat * np.uint8(255 // ((1 << depth) - 1))
        pixels = flat.reshape(height, width, samples)
        if colour == 3:
            pixels = np.frombuffer(palette, dtype=np.uint8).reshape(-1, 3)[pixels[:, :, 0]]
        return np.ascontiguousarray(pixels[:, :, : {2: 1, 4: 3}.get(pixels.shape[2], pixels.shape[2])])
    except (OSError, KeyError, IndexError, ValueError, struct.error, zlib.error) as error:
        raise Refused(f"an image is a file that can be read, {path} is no whole PNG: {error}") from error


def _png_chunks(raw: bytes) -> tuple[tuple[int, ...], bytes, bytes]:
    """The header's numbers, the palette, and the packed pixels of a PNG file, whose checksums hold."""
    place, found = len(PNG), {b"PLTE": b"", b"IDAT": b""}
    header: tuple[int, ...] = ()
    while place + 12 <= len(raw):
        (length,) = struct.unpack_from(">I", raw, place)
        kind, content = raw[place + 4 : place + 8], raw[place + 8 : place + 8 + length]
        (told,) = struct.unpack_from(">I", raw, place + 8 + length)
        if zlib.crc32(kind + content) != told:
            raise ValueError(f"its part {kind.decode('ascii', 'replace')} is damaged")
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", content)
        elif kind in found:
            found[kind] += content
        elif kind == b"IEND":
            break
        place += 12 + length
    if not header or not found[b"IDAT"]:
        raise ValueError("it has no pixels")
    return header, found[b"PLTE"], found[b"IDAT"]


def _unfiltered(rows: np.ndarray, step: int) -> np.ndarray:
    """Bytes (H, row) of filtered lines (H, 1 + row), whose first byte is the filter; `step` bytes are one pixel."""
    found = np.zeros((len(rows) + 1, rows.shape[1] - 1 + step), dtype=np.uint8)  # with zeros at the left and above
    for number, (kind, *_) in enumerate(rows[:, :1], start=1):
        line, above = rows[number - 1, 1:], found[number - 1]
        own = found[number]
        if kind == 0:
            own[step:] = line
        elif kind == 2:
            own[step:] = line + above[step:]
        elif kind == 1:
            own[step:] = np.cumsum(line.reshape(-1, step), axis=0, dtype=np.uint8).ravel()
        elif kind in (3, 4):
            _predicted(own, line, above, step, average=kind == 3)
        else:
            raise ValueError(f"its line {number} has the filter {kind}")
    return found[1:, step:]


def _predicted(own: np.ndarray, line: np.ndarray, above: np.ndarray, step: int, *, average: bool) -> None:
    """Undo the filters whose bytes depend on the one at the left: Average, or Paeth."""
    upper = above.tolist()
    made = own.tolist()
    for place, value in enumerate(line.tolist(), start=step):
        left, up, corner = made[place - step], upper[place], upper[place - step]
        if average:
            guess = (left + up) // 2
        else:
            nearest = left + up - corner
            ways = (abs(nearest - left), abs(nearest - up), abs(nearest - corner))
            guess = (left, up, corner)[ways.index(min(ways))]
        made[place] = (value + guess) & 0xFF
    own[:] = made
