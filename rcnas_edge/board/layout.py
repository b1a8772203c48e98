"""The layout of the runtime, read from the graph that it makes of a probe."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnas_edge.board.timing import open_session

if TYPE_CHECKING:
    from collections.abc import Iterator


def block_of(probe: bytes) -> int:
    """Channels in a block of ONNX Runtime's convolution layout on this machine, 0 for the plain layout.

    `probe` is a model with a 3x3 convolution of four filters, which a blocked layout pads to one block.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_session(probe, 1, optimised=optimised)
        graph = next(value for number, value in _fields(optimised.read_bytes()) if number == 7)
    parts = list(_fields(graph))
    shapes = dict(_shape(value) for number, value in parts if number == 5)
    for node in (list(_fields(value)) for number, value in parts if number == 1):
        inputs = [value for number, value in node if number == 1]
        if (4, b"Conv") in node and (7, b"com.microsoft.nchwc") in node:
            shape = shapes.get(inputs[1], [])
            if shape[2:] == [3, 3]:
                return shape[0]
    return 0


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field of a protobuf message; what has a length is bytes, a varint an int.

    The numbers used here are those of onnx.proto: ModelProto graph 7; GraphProto node 1, initializer 5; NodeProto
    input 1, op_type 4, domain 7; TensorProto dims 1, name 8.
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield tag >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if length is None:
            length, place = _varint(message, place)
        yield tag >> 3, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place


def _shape(tensor: bytes) -> tuple[bytes, list[int]]:
    """Name and dimensions of a TensorProto, whose dimensions may be packed."""
    name, shape = b"", []
    for number, value in _fields(tensor):
        if number == 8:
            name = value
        elif number == 1 and isinstance(value, int):
            shape.append(value)
        elif number == 1:
            place = 0
            while place < len(value):
                size, place = _varint(value, place)
                shape.append(size)
    return name, shape
