"""One measured kernel, and tables of them as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.profile.bounds import (
    MOST_PIXELS,
    MOST_THREADS,
    PRECISIONS,
    check_choice,
    check_count,
    check_number,
    refuse,
    shown,
)
from rcnas_edge.profile.fusion import DEPTHWISE, LAYOUTS, OPERATIONS, Kernel, Key

COLUMNS = ("precision", "threads", *Key._fields, "channels_in", "channels_out", "ms")
"""Of a table on disk."""
WORDS = ("precision", "operation", "layout")
"""Columns that are no numbers."""
MOST_ROWS = 500_000
MOST_DIGITS = 40
"""Of a number in a cell."""
MOST_STEPS, MOST_CHANNELS = 1000, 1_000_000
"""Of a kernel's size or stride, and of channels."""


@dataclass(frozen=True)
class Row:
    """One measured kernel: its key, its channels, its time in ms for one image."""

    precision: str
    threads: int
    key: Key
    channels_in: int
    channels_out: int
    ms: float

    def __post_init__(self) -> None:
        operation, layout, kernel, stride, groups, height, width, channels_in, channels_out = self.kernel
        try:
            check_choice("precision", self.precision, PRECISIONS)
            check_choice("operation", operation, OPERATIONS)
            check_choice("layout", layout, LAYOUTS)
            check_count("threads", self.threads, most=MOST_THREADS)
            check_count("height", height, most=MOST_PIXELS)
            check_count("width", width, most=MOST_PIXELS)
            check_count("kernel", kernel, most=MOST_STEPS)
            check_count("stride", stride, most=MOST_STEPS)
            check_count("channels_in", channels_in, most=MOST_CHANNELS)
            check_count("channels_out", channels_out, most=MOST_CHANNELS)
            if groups != DEPTHWISE:
                check_count(f"groups ({DEPTHWISE}: depthwise)", groups, most=MOST_CHANNELS)
            _check_groups(operation, groups, channels_in, channels_out)
            check_number("ms", self.ms, above=True)
        except InputError as error:
            raise InputError(f"of the row {shown(self.kernel)}, {error}") from error

    @property
    def setting(self) -> str:
        return f"{self.precision}/{self.threads}"

    @property
    def kernel(self) -> Kernel:
        return (*self.key, self.channels_in, self.channels_out)

    @property
    def cells(self) -> tuple[Any, ...]:
        """The row in the order of COLUMNS."""
        return (self.precision, self.threads, *self.kernel, self.ms)


def _check_groups(operation: str, groups: int, channels_in: int, channels_out: int) -> None:
    """Raise unless so many groups are possible: only convolutions have them, in whole channels."""
    if groups != 1 and operation != "conv":
        raise refuse(f"groups of {operation}", "1", groups)
    if groups == DEPTHWISE and channels_in != channels_out:
        raise refuse("channels_out of a depthwise convolution", f"its channels_in, {channels_in}", channels_out)
    if groups > 1 and (channels_in % groups or channels_out % groups):
        raise refuse("groups", f"a divisor of both channels, {channels_in} and {channels_out}", groups)


def table_text(rows: Iterable[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row.cells for row in rows)
    return text.getvalue()


def table_rows(text: str) -> Iterator[Row]:
    """The rows of a CSV; InputError names the line in which something is wrong."""
    count = text.count("\n")
    if count > MOST_ROWS + 1:
        raise InputError(f"a table has at most {MOST_ROWS} rows, got {count - 1}: thin it out")
    if not text.endswith("\n"):
        raise InputError("the last line of a table ends like the others, this one does not: was the file cut?")
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        head = tuple(next(reader, ()))
        if head != COLUMNS:
            raise InputError(f"the columns are {','.join(COLUMNS)}, got {shown(','.join(head))}: rename them")
        for cells in reader:
            if cells:
                yield _row(cells)
    except (csv.Error, InputError) as error:
        raise InputError(f"line {reader.line_num}: {error}") from error


def _row(cells: list[str]) -> Row:
    if len(cells) != len(COLUMNS):
        raise InputError(f"a row has {len(COLUMNS)} cells, got {len(cells)}: was the file cut?")
    found: list[Any] = []
    for column, cell in zip(COLUMNS, cells, strict=True):
        if column in WORDS:
            found.append(cell)
            continue
        try:
            if not cell.isascii() or "_" in cell or len(cell) > MOST_DIGITS:
                raise ValueError
            found.append(float(cell) if column == "ms" else int(cell))
        except ValueError as error:
            kind = "a number" if column == "ms" else "a whole number"
            raise InputError(f"{column} is {kind}, got {shown(cell)}: correct it") from error
    precision, threads, *kernel, channels_in, channels_out, ms = found
    return Row(precision, threads, Key(*kernel), channels_in, channels_out, ms)
