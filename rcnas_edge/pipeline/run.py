"""A run on disk: one folder, one task, one process at a time; stages are done when their file says so.

Every stage has a record of what it depends on. A file made for another one is refused with a sentence that names
what differs; files appear whole, so that a kill at any moment leaves a run that resumes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rcnas_edge.checkpoint import read_json, write_json, write_whole
from rcnas_edge.errors import InputError
from rcnas_edge.setting import TaskSetting, read_task

TASK = "task.toml"
DEVICES = "devices.json"
"""In a folder of runs for one device each: what does not depend on the device lies there, for all of them."""


class Run:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def shared(self) -> Path:
        """Where lies what does not depend on the device: the run's own folder, or that around runs for one each."""
        folder = self.folder.absolute()
        return folder.parent if folder.name in Run(folder.parent).devices else self.folder

    @property
    def devices(self) -> list[str]:
        """The devices that have a run of their own in this folder."""
        return list(read_json(self / DEVICES)["devices"]) if (self / DEVICES).is_file() else []

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder; a second run in it is refused. The lock ends with the process, however it ends."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(
                f"--out is a folder that can be written, {self.folder} is not: {error.strerror}"
            ) from error
        try:
            _lock(handle, self.folder)
            _clear(self.folder)
            yield
        finally:
            os.close(handle)

    def setting(self) -> TaskSetting:
        """The task of the run; InputError if the folder has none."""
        if not (self / TASK).is_file():
            raise InputError(
                f"{self.folder} must hold a run (a {TASK}), it does not: start one with 'rcnas-edge compress'"
            )
        return TaskSetting.from_dict(read_task(self / TASK), where=str(self / TASK))

    def keep_setting(self, setting: TaskSetting) -> None:
        """Write the task."""
        write_whole(self / TASK, lambda aside: aside.write_text(setting.to_toml(), encoding="utf-8"))

    def done(self, name: str, depends: Mapping[str, Any]) -> dict[str, Any] | None:
        """The content of a stage's file if it was made for these dependencies, None if there is none yet.

        Raises InputError if it was made for others.
        """
        path = self / name
        if not path.is_file():
            return None
        values = read_json(path)
        made_for = values.get("depends") if isinstance(values, dict) else None
        if not isinstance(made_for, dict):
            raise InputError(
                f"{path} must be a stage's file of this version, it is not: delete it or take another --out"
            )
        wanted = _plain(depends)
        for key in sorted(set(made_for) | set(wanted)):
            if made_for.get(key) != wanted.get(key):
                raise InputError(
                    f"a run's folder holds one task, {path} was made for {key} = {_short(made_for.get(key))} and this "
                    f"task has {_short(wanted.get(key))}: take another --out, or delete {name} to make it again"
                )
        return values

    def drop_if_other(self, name: str, depends: Mapping[str, Any]) -> None:
        """Delete a stage's file that was made for other dependencies: the caller was asked to make it anew."""
        path = self / name
        values = read_json(path) if path.is_file() else None
        if isinstance(values, dict) and values.get("depends") != _plain(depends):
            path.unlink()

    def keep(self, name: str, depends: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        """Write a stage's file: what it depends on, then its values."""
        content = {"depends": _plain(depends), **_plain(values)}
        write_json(self / name, content)
        return content


def _clear(folder: Path) -> None:
    """Delete what processes that were killed have left half written (`write_whole`)."""
    for left in folder.rglob(".*.part"):
        process = left.name.split(".")[-2]
        if not (process.isdecimal() and _lives(int(process))):
            left.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if os.name == "nt":  # where the question itself would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return process != os.getpid()


def _plain(values: Any) -> Any:
    """Tuples as lists, paths as text: what a JSON file gives back."""
    if isinstance(values, Mapping):
        return {str(key): _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return values.as_posix() if isinstance(values, Path) else values


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _lock(handle: int, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no such locks on this system: two runs in one folder are the user's to avoid
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(
            f"one run at a time works in a folder, another process holds {folder}: wait for it or take another --out"
        ) from error
