"""What a stage may say to the person who waits: a protocol; the command line's implementation lives in `cli`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[float, str], None]
"""Called with how much of the total is done, and a few words."""


class Console(Protocol):
    """Messages, tables, progress, and numbers over steps."""

    def say(self, text: str) -> None:
        """One line."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of texts."""

    def record(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step of a stage (an epoch from 1, a judged network from 1), for who draws curves of them."""

    def task(self, title: str, total: float) -> AbstractContextManager[Advance]:
        """Progress with time left, as a context manager that gives an `Advance`."""


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Nothing."""

    def record(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    @contextmanager
    def task(self, title: str, total: float) -> Iterator[Advance]:
        """An `Advance` that does nothing."""
        yield lambda done, text: None
