"""A task setting: what the user asks for, as names and numbers, on the command line or in a TOML file.

Nothing is opened here; `task.open_task` turns the names into live things.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.profile.bounds import PRECISIONS
from rcnas_edge.profile.target import Target
from rcnas_edge.reading import read_limited

LIMITS = {
    "max_latency": "latency",
    "max_macs": "macs",
    "max_flops": "flops",
    "max_params": "params",
    "max_size": "size",
    "max_memory": "memory",
}
"""Options that are budgets, with the quantity each one limits."""

DEFAULT_LIMITS = {"max_macs": "40%", "max_latency": "60%"}
"""Used when no budget is given at all."""

SEVERAL = {**dict.fromkeys(("profile", *LIMITS), ", "), "measure_command": "\n"}
"""Options that can be given several times; in a task file a list, in the value itself one text with this between."""

MOST_TASK = 20_000
"""Bytes of a task file: Python's parser takes quadratic time in the parts of a dotted key."""

MOST_LETTERS, MOST_NUMBER = 4000, 2**53
"""Of one text in a task, and of its whole numbers."""

EVERY_DEVICE = ""
"""In the place of a device's name: a limit that holds for each of them."""

AUTO, NONE = "auto", "none"
"""Values of `also` that are no names: every other exporter that is installed, and none."""


@dataclass(frozen=True)
class TaskSetting:
    """Everything a run depends on, but for the folder it is written to.

    Budgets are text: "2ms", "40%", "1.5M". Several devices are one text, "host, pixel-4-gpu"; a device that runs with
    threads of its own says so, "pixel-4-cpu-3-medium/fp32/3", and a budget may name its device, "host=2ms, b=60%".
    """

    dataset: str = "digits"
    data_root: str | None = None
    image_size: int | None = None
    subset: int | None = None
    teacher: str | None = None
    weights: str | None = None
    family: str | None = None
    base: str | None = None
    attack: str | None = None
    profile: str = "host"
    precision: str = "fp32"
    target_precision: str | None = None
    threads: int = 1
    max_latency: str | None = None
    max_macs: str | None = None
    max_flops: str | None = None
    max_params: str | None = None
    max_size: str | None = None
    max_memory: str | None = None
    strategy: str = "rc-nas"
    agent: str | None = None
    reward: str = "budget"
    evaluations: int = 12
    judge_epochs: int = 2
    finalists: int = 3
    recipe: str = "rslad"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    qat_epochs: int = 0
    format: str = "onnx"
    also: str = AUTO
    opset: int = 18
    level: str = "standard"
    min_robust: float | None = None
    max_robust_drop: float | None = None
    measure_command: str | None = None
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kind = _TYPES[str(field.type).split(" ")[0]]
            if isinstance(value, int) and abs(value) > MOST_NUMBER:
                raise InputError(f"{flag(field.name)} is a number of at most {MOST_NUMBER}, got a larger one")
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise InputError(f"{flag(field.name)} is of type {field.type}, got {repr(value)[:80]}")
            if isinstance(value, str) and len(value) > MOST_LETTERS:
                raise InputError(f"{flag(field.name)} is at most {MOST_LETTERS} letters, got {len(value)}: shorten it")
            if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
                raise InputError(
                    f"{flag(field.name)} is text that UTF-8 can write, got {value!r}: rename what it names"
                )
        for name in ("threads", "evaluations", "judge_epochs", "finalists", "epochs", "batch_size", "subset"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{flag(name)} is at least 1, got {value}")
        for name in ("min_robust", "max_robust_drop"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{flag(name)} is a fraction between 0 and 1 (0.45 is 45 %), got {value}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"--seed is between 0 and 2147483647, got {self.seed}")
        if self.qat_epochs < 0:
            raise InputError(f"--qat-epochs is 0 (no fine-tuning for int8) or more, got {self.qat_epochs}")
        self._check_precisions()
        if self.device not in ("auto", "cpu", "cuda"):
            raise InputError(f"--device is auto, cpu or cuda, got {self.device!r}")
        _ = self.measure_commands
        for name in LIMITS:
            _by_device(name, getattr(self, name), [target.profile for target in self.targets])

    def _check_precisions(self) -> None:
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise InputError(f"--precision is one or more of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if len(set(self.precisions)) < len(self.precisions):
            raise InputError(f"--precision names each precision once, got {self.precision!r}")
        if self.aim not in self.precisions:
            raise InputError(
                f"--target-precision is one of --precision ({', '.join(self.precisions)}), got {self.aim!r}: add it"
            )
        if self.qat_epochs and "int8" not in self.precisions:
            raise InputError(
                f"--qat-epochs fine-tunes for int8, --precision is {self.precision}: add int8 there, or leave it out"
            )

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that files are written in."""
        return tuple(_parts(self.precision))

    @property
    def aim(self) -> str:
        """The precision that budgets and gates are about; the first one if none was named."""
        return self.target_precision or self.precisions[0]

    @property
    def measure_commands(self) -> tuple[tuple[str | None, str], ...]:
        """The commands that measure on a board, each with the name of its device, or None where none is given."""
        devices = [target.profile for target in self.targets]
        found: list[tuple[str | None, str]] = []
        for line in (self.measure_command or "").splitlines():
            device, named, command = line.partition("=")
            own = bool(named) and device.strip() in devices
            found.append((device.strip(), command.strip()) if own else (None, line.strip()))
        for name, command in found:
            if not command:
                raise InputError("--measure-command is what the shell runs, or DEVICE=COMMAND, got an empty one")
            if [other for other, _ in found].count(name) > 1:
                raise InputError(
                    f"a device is measured by one --measure-command, {name or 'the one without a name'} has several: "
                    "write them as one, with && between"
                )
        return tuple(found)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The devices in the order asked for, each with precision and threads; the first one is the primary."""
        found: dict[str, Target] = {}
        for text in _parts(self.profile):
            own = Target.parse(text)
            target = own if "/" in text else Target(own.profile, self.aim, self.threads)
            if target.profile in found:
                raise InputError(f"--profile names a device once, {target.profile!r} is there twice: remove one")
            if target.precision != self.aim:
                raise InputError(
                    f"--profile {text} is of the precision {self.aim}, got {target.precision!r}: ask for it with "
                    f"--precision {target.precision}"
                )
            found[target.profile] = target
        return tuple(found.values())

    def limits_of(self, device: str) -> dict[str, str]:
        """The budgets of one device as text by quantity; the default ones where none is given for any device."""
        if self._unlimited:
            return {LIMITS[name]: text for name, text in DEFAULT_LIMITS.items()}
        devices, found = [target.profile for target in self.targets], {}
        for name, quantity in LIMITS.items():
            texts = _by_device(name, getattr(self, name), devices)
            if {device, EVERY_DEVICE} & texts.keys():
                found[quantity] = texts[device] if device in texts else texts[EVERY_DEVICE]
        return found

    @property
    def _unlimited(self) -> bool:
        return all(getattr(self, name) is None for name in LIMITS)

    def for_each(self) -> dict[str, TaskSetting]:
        """This task for each of its devices alone, by the device's name."""
        texts = dict(zip((target.profile for target in self.targets), _parts(self.profile), strict=True))
        alone = {}
        for device, text in texts.items():
            limits = {} if self._unlimited else self.limits_of(device)
            if not limits and not self._unlimited:
                raise InputError(
                    f"--per-device needs a budget for every device, {device} has none: name one, as "
                    f"--max-latency {device}=60%"
                )
            own: dict[str, Any] = {name: limits.get(quantity) for name, quantity in LIMITS.items()}
            if None in dict(self.measure_commands) and len(texts) > 1:
                raise InputError("with --per-device each --measure-command names its device, as DEVICE=COMMAND: add it")
            own["measure_command"] = dict(self.measure_commands).get(device, dict(self.measure_commands).get(None))
            alone[device] = replace(self, profile=text, **own)
        return alone

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without those that are left open."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def to_toml(self) -> str:
        """The setting as a task file."""
        lines = [f"{name} = {_toml(value)}" for name, value in self.to_dict().items()]
        return "\n".join(["# an rcnas-edge task; every key is the flag of that name", *lines]) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "a task") -> TaskSetting:
        """From plain values; InputError names an unknown key and the nearest known one."""
        known = [field.name for field in fields(cls)]
        values = {key.replace("-", "_"): value for key, value in values.items()}
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                raise InputError(f"{where} has no key {key[:80]!r}; {hint}")
        typed = {
            key: float(value) if key in _FLOATS and type(value) is int and abs(value) <= MOST_NUMBER else value
            for key, value in values.items()
        }
        joined = {key: between.join(values[key]) for key, between in SEVERAL.items() if _are_texts(values.get(key))}
        return cls(**typed | joined)  # type: ignore[arg-type]


_TYPES = {"str": str, "int": int, "float": float}
_FLOATS = {field.name for field in fields(TaskSetting) if "float" in str(field.type)}


def flag(name: str) -> str:
    """The command line's name of a field."""
    return "--" + name.replace("_", "-")


def _are_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, str) for one in value)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _by_device(name: str, text: str | None, devices: list[str]) -> dict[str, str]:
    """The limits of one option by device, or by EVERY_DEVICE; InputError for a device that is not there, or twice."""
    found: dict[str, str] = {}
    for part in _parts(text) if text is not None else ():
        device, named, amount = part.rpartition("=")
        device = device.strip()
        if named and device not in devices:
            raise InputError(
                f"a limit is for a device of --profile ({', '.join(devices)}), {flag(name)} got {part!r}: correct its "
                "name, or ask for the device too"
            )
        if device in found or (found and EVERY_DEVICE in (device, *found)):
            raise InputError(
                f"a device has one limit of a kind, and one without a name holds for every device, {flag(name)} got "
                f"{text!r}: give one limit for all, or each device its own, as {flag(name)} {devices[0]}=LIMIT"
            )
        found[device] = amount.strip()
    return found


def read_task(path: Path) -> dict[str, Any]:
    """The values of a task file by field; InputError names a file that is missing or not TOML."""
    try:
        values = tomllib.loads(read_limited(path, MOST_TASK, "a task file").decode("utf-8"))
    except OSError as error:
        raise InputError(f"a task file is a TOML file, {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # tomllib's own, bytes that are no UTF-8, numbers without an end
        raise InputError(f"a task file is a TOML file, {path} is not: {' '.join(str(error).split())[:200]}") from error
    return {key.replace("-", "_"): value for key, value in values.items()}


def asked_of(path: Path, given: Mapping[str, Any]) -> TaskSetting:
    """The task of a file, overridden by what was given beside it; InputError for a file with a command for the shell.

    A file may be somebody else's, so what the shell runs is never taken from one: it is given anew each time.
    """
    values = read_task(path)
    if "measure_command" in values and "measure_command" not in given:
        raise InputError(
            f"a task file holds no command for the shell, {path} has measure_command: delete that line, or give "
            "--measure-command itself"
        )
    return TaskSetting.from_dict(values | dict(given), where=str(path))


def _toml(value: str | int | float) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)  # such strings are TOML's
