"""What an ONNX file says it holds, read from its bytes before any runtime makes room for it.

Whoever loads a model allocates what its tensors claim and runs what its graph says. So the protocol buffer is walked
here first, a field at a time and without copies: external data, tensors that claim more numbers than the file holds,
loops, and functions that call each other into millions of nodes are refused. What follows from computations is not
known here: `rcnas_edge.pipeline.trial` runs a stranger's file in a process with limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rcnas_edge.errors import InputError
from rcnas_edge.reading import read_limited

MOST_BYTES = 1_000_000_000
"""Of an ONNX file; protocol buffers end at twice that."""
MOST_FIELDS = 3_000_000
MOST_NODES = 200_000
MOST_DEPTH = 16
"""Of graphs inside graphs."""
LOOPS = ("Loop", "Scan", "SequenceMap")

BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
BITS |= dict.fromkeys((17, 18, 19, 20, 24), 8) | dict.fromkeys((21, 22, 23), 4) | dict.fromkeys((25, 26), 2)
"""Of a number, by onnx.TensorProto.DataType; 8 (strings) has none."""

Value = int | memoryview
Function = tuple[str, str]
"""Domain and name."""


def read_model(path: Path) -> bytes:
    """The bytes of an ONNX file, which `check_model` has yet to see; InputError if it is none or too large."""
    try:
        return read_limited(path, MOST_BYTES, "an ONNX file")
    except OSError as error:
        raise InputError(f"{path} must be an ONNX file that can be read, it is not: {error.strerror}") from error


def check_model(serialised: bytes, name: str) -> None:
    """InputError, which calls the file `name`, if these bytes are not to be given to a runtime."""
    try:
        _Walk(name).model(memoryview(serialised))
    except (IndexError, ValueError) as error:
        raise InputError(f"{name} must be an ONNX file, it is not, or not whole: {error}") from error


@dataclass
class _Walk:
    """One pass over a file: `operators` are the nodes of the graph, `calls` those of each function, with branches."""

    name: str
    fields: int = 0
    nodes: int = 0
    operators: list[Function] = field(default_factory=list)
    calls: dict[Function, list[Function]] = field(default_factory=dict)

    def model(self, data: memoryview) -> None:
        for number, value in self.messages(data):
            if number == 7:
                self.graph(value, 0, self.operators)
            elif number == 25:
                self.function(value)
        self.unfold()

    def messages(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """The fields of a message that have a length."""
        for number, value in self.all(data):
            if isinstance(value, memoryview):
                yield number, value

    def all(self, data: memoryview) -> Iterator[tuple[int, Value]]:
        """Number and value of every field of a message."""
        for number, value in fields(data):
            self.fields += 1
            if self.fields > MOST_FIELDS:
                raise InputError(f"an ONNX file has at most {MOST_FIELDS} entries, {self.name} has more: simplify it")
            yield number, value

    def graph(self, data: memoryview, depth: int, inside: list[Function]) -> None:
        """Check a graph, and add its nodes to those `inside` the graph of the file or the function that holds it."""
        if depth > MOST_DEPTH:
            raise InputError(f"graphs lie at most {MOST_DEPTH} deep inside each other, those of {self.name} are deeper")
        for number, value in self.messages(data):
            if number == 1:
                self.node(value, depth, inside)
            elif number == 5:
                self.tensor(value)
            elif number == 15:
                self.sparse(value)

    def node(self, data: memoryview, depth: int, inside: list[Function]) -> None:
        """Check a node and its attributes, and add what it calls, and what graphs in it call, to what is `inside`."""
        self.nodes += 1
        operator = domain = ""
        for number, value in self.messages(data):
            if number == 4:
                operator = str(value, "utf-8")
            elif number == 7:
                domain = str(value, "utf-8")
            elif number == 5:
                self.attribute(value, depth, inside)
        if operator in LOOPS and domain in ("", "ai.onnx"):
            raise InputError(
                f"an image classifier computes as much for every image, {self.name} has a {operator}, which may never "
                "end: export it without"
            )
        inside.append((domain, operator))

    def attribute(self, data: memoryview, depth: int, inside: list[Function]) -> None:
        for number, value in self.messages(data):
            if number in (5, 10):
                self.tensor(value)
            elif number in (6, 11):
                self.graph(value, depth + 1, inside)
            elif number in (22, 23):
                self.sparse(value)

    def sparse(self, data: memoryview) -> None:
        dense = math.prod(self.whole_numbers(data, 3))
        if dense > MOST_BYTES:
            raise InputError(f"a tensor has at most {MOST_BYTES} numbers, {self.name} has a sparse one of {dense}")
        for number, value in self.messages(data):
            if number in (1, 2):
                self.tensor(value)

    def tensor(self, data: memoryview) -> None:
        """A tensor lies in the file itself, which has a byte at least for each number (of few bits, as many bits)."""
        shape, kind, called, held, elsewhere = self.whole_numbers(data, 1), 0, "", 0, False
        for number, value in self.all(data):
            if isinstance(value, int):
                kind = value if number == 2 else kind
                held += number in (5, 7, 11)  # one number, not packed
                elsewhere |= number == 14 and value == 1
            elif number == 8:
                called = str(value[:200], "utf-8", "replace")
            elif number == 13:
                elsewhere = True
            elif number in (4, 5, 7, 9, 10, 11):
                held += len(value)
        if elsewhere:
            raise InputError(
                f"an ONNX file has its weights inside, {self.name} keeps {called!r} in another file: save it as one "
                "file (onnx.load and onnx.save do)"
            )
        size = math.prod(shape)
        if min(shape, default=0) < 0 or (kind in BITS and size * min(BITS[kind], 8) > 8 * held):
            raise InputError(
                f"a tensor has as many numbers as its shape says, {called!r} of {self.name} has the shape {shape[:8]} "
                f"and {held} bytes: export it again"
            )

    def whole_numbers(self, data: memoryview, wanted: int) -> list[int]:
        """A repeated int64 field, packed or not."""
        found: list[int] = []
        for number, value in self.all(data):
            if number != wanted:
                continue
            if isinstance(value, int):
                found.append(_signed(value))
                continue
            place = 0
            while place < len(value):
                one, place = _varint(value, place)
                found.append(_signed(one))
            if len(found) > MOST_DEPTH * 8:
                raise ValueError("a tensor of too many dimensions")
        return found

    def function(self, data: memoryview) -> None:
        operator = domain = ""
        inside: list[Function] = []
        for number, value in self.messages(data):
            if number == 1:
                operator = str(value, "utf-8")
            elif number == 10:
                domain = str(value, "utf-8")
            elif number == 7:
                self.node(value, 1, inside)
        self.calls[domain, operator] = inside

    def unfold(self) -> None:
        """How many nodes there are once every function stands where it is called."""
        sizes: dict[Function, int] = {}

        def size(one: Function, above: tuple[Function, ...]) -> int:
            if one in above or len(above) > MOST_DEPTH * 8:
                raise InputError(f"a function ends, {one[1]!r} of {self.name} calls itself: export it again")
            if one not in sizes:
                sizes[one] = 1 + sum(size(part, (*above, one)) for part in self.calls.get(one, ()))
            return sizes[one]

        total = sum(size(one, ()) for one in self.operators)
        if max(total, self.nodes) > MOST_NODES:
            raise InputError(f"an ONNX file has at most {MOST_NODES} nodes, {self.name} has {max(total, self.nodes)}")


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a protocol buffer: number, and a whole number or bytes; ValueError if it is cut or damaged."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length, place = _varint(data, place)
        if length is None:
            raise ValueError(f"byte {place} begins nothing that is known")
        if place + length > len(data):
            raise ValueError(f"it ends within what begins at byte {place}")
        yield key >> 3, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and where it ends."""
    value = shift = 0
    while shift < 70:
        if place >= len(data):
            raise ValueError("it ends within a number")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), place
        shift += 7
    raise ValueError(f"a number of more than 64 bits ends at byte {place}")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
