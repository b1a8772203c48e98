"""A console that also keeps numbers over steps for TensorBoard, in the folder tensorboard/ of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rcnas_edge.errors import InputError
from rcnas_edge.pipeline.console import Advance, Console

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"


class TensorboardConsole:
    """Says what another console says, and writes every number as a scalar `stage/name` at its step.

    The file is opened at the first number. A resumed run adds a file; TensorBoard shows both as one curve. Raises
    InputError where the package tensorboard is missing.
    """

    def __init__(self, console: Console, run: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "--log tensorboard needs the package tensorboard, which is not installed: "
                "pip install 'rcnas-edge[tensorboard]'"
            ) from error
        self.console, self.folder = console, run / FOLDER
        self._open = SummaryWriter

    @cached_property
    def writer(self) -> SummaryWriter:
        """The file of scalars, made when it is asked for."""
        return self._open(str(self.folder))

    def say(self, text: str) -> None:
        """As the other console."""
        self.console.say(text)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """As the other console."""
        self.console.table(title, columns, rows)

    def task(self, title: str, total: float) -> AbstractContextManager[Advance]:
        """As the other console."""
        return self.console.task(title, total)

    def record(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Each value as a scalar, on disk when this returns."""
        for name, value in values.items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)
        self.writer.flush()
        self.console.record(stage, step, values)
