"""What a run says on a terminal: lines, tables, and progress where somebody watches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rcnas_edge.pipeline.console import Advance


class TerminalConsole:
    """Says things on the terminal; progress is drawn only where somebody watches."""

    def say(self, text: str) -> None:
        """One line on standard output."""
        click.echo(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A plain aligned table."""
        widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]
        click.echo(title)
        for row in (columns, *rows):
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            click.echo("  " + "  ".join(cells).rstrip())

    def record(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Nothing: numbers over steps are for those who keep them."""

    @contextmanager
    def task(self, title: str, total: float) -> Iterator[Advance]:
        """A bar with the time left on a terminal, one line elsewhere."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.table import Column

        terminal = Console(stderr=True)
        if not terminal.is_terminal:
            click.echo(title)
            last = [""]

            def remember(done: float, text: str) -> None:
                last[0] = text

            yield remember
            if last[0]:
                click.echo(f"  {last[0]}")
            return
        times = Column(min_width=7, no_wrap=True)  # a narrow terminal cuts the words, never the times
        parts = (
            TextColumn("{task.description}", table_column=Column(ratio=3, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=12),
            TimeElapsedColumn(table_column=times.copy()),
            TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
            TimeRemainingColumn(table_column=times.copy()),
            TextColumn("{task.fields[words]}", table_column=Column(ratio=2, no_wrap=True, overflow="ellipsis")),
        )
        with Progress(*parts, console=terminal, expand=True) as progress:
            bar = progress.add_task(title, total=total, words="")
            yield lambda done, text: progress.update(bar, completed=done, words=text)
