"""The kinds of values that a JSON document may hold, each of which checks what it reads and says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Protocol

from rcnas_edge.errors import InputError


class Kind(Protocol):
    """What may stand in a place of report.json; `read` returns the value as plain JSON or raises InputError."""

    @property
    def noun(self) -> str:
        """What the documentation calls it."""

    def read(self, value: Any, at: str, notes: list[str]) -> Any:
        """The value at this place; numbers that are not finite become None and one sentence in `notes`."""


def refuse(at: str, rule: str, value: Any) -> InputError:
    """The error for a value that breaks a rule at a place."""
    return InputError(f"report.json's {at} is {rule}, got {value!r}: correct the values given to the report")


@dataclass(frozen=True)
class Text:
    """A string; with `among`, one of these."""

    among: tuple[str, ...] = ()
    noun = "text"

    def read(self, value: Any, at: str, notes: list[str]) -> str:
        if not isinstance(value, str):
            raise refuse(at, "a text", value)
        if self.among and value not in self.among:
            raise refuse(at, f"one of {', '.join(map(repr, self.among))}", value)
        return value


@dataclass(frozen=True)
class Number:
    """A real number, at least `least`; with `whole`, an integer. A bool is neither."""

    whole: bool = False
    least: float = -math.inf

    @property
    def noun(self) -> str:
        return "integer" if self.whole else "number"

    def read(self, value: Any, at: str, notes: list[str]) -> int | float | None:
        # numpy's scalars register with `numbers`, so they are read without importing numpy
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            raise refuse(at, f"a {'whole ' if self.whole else ''}number", value)
        if not math.isfinite(value):
            notes.append(f"{at} was not a finite number ({float(value)}) and is written as null")
            return None
        if value < self.least:
            raise refuse(at, f"at least {self.least:g}", value)
        return int(value) if isinstance(value, Integral) else float(value)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    noun = "true or false"

    def read(self, value: Any, at: str, notes: list[str]) -> bool:
        if not isinstance(value, bool):
            raise refuse(at, "true or false", value)
        return value


@dataclass(frozen=True)
class Anything:
    """Any JSON value: for what a family, a task or a recipe says of itself."""

    noun = "any"

    def read(self, value: Any, at: str, notes: list[str]) -> Any:
        if value is None or isinstance(value, (str, bool)):
            return value
        if isinstance(value, Real):
            return Number().read(value, at, notes)
        if isinstance(value, Mapping):
            return Each(self).read(value, at, notes)
        if isinstance(value, Sequence):
            return Many(self).read(value, at, notes)
        raise refuse(at, "a JSON value", value)


@dataclass(frozen=True)
class Many:
    """A list of one kind."""

    of: Kind

    @property
    def noun(self) -> str:
        return "list"

    def read(self, value: Any, at: str, notes: list[str]) -> list[Any]:
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise refuse(at, "a list", value)
        return [self.of.read(entry, f"{at}[{index}]", notes) for index, entry in enumerate(value)]


@dataclass(frozen=True)
class Each:
    """An object whose keys are free (targets, stages, packages) and whose values are of one kind."""

    of: Kind
    null: bool = True

    @property
    def noun(self) -> str:
        return "object"

    def read(self, value: Any, at: str, notes: list[str]) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise refuse(at, "an object with texts as keys", value)
        return {
            key: None if entry is None and self.null else self.of.read(entry, f"{at}.{key}", notes)
            for key, entry in value.items()
        }


@dataclass(frozen=True)
class Field:
    """A key of an object: its kind, what it means, whether it may be left out (then null), whether it may be null."""

    kind: Kind
    meaning: str
    optional: bool = False
    null: bool = True


@dataclass(frozen=True)
class Record:
    """An object with these keys; others are refused unless it is `open`."""

    fields: Mapping[str, Field]
    open: bool = False
    noun = "object"

    def read(self, value: Any, at: str, notes: list[str]) -> dict[str, Any]:
        place = at or "top level"
        if not isinstance(value, Mapping):
            raise refuse(place, "an object", value)
        unknown = [str(key) for key in value if key not in self.fields]
        if unknown and not self.open:
            raise InputError(
                f"report.json's {place} has no field {unknown[0]!r}; its fields are: {', '.join(self.fields)}"
            )
        missing = [name for name, field in self.fields.items() if name not in value and not field.optional]
        if missing:
            way_out = "give it, or null where it is not known" if self.fields[missing[0]].null else "give it"
            raise InputError(f"report.json's {place} needs the field {missing[0]!r}, which is missing: {way_out}")
        read: dict[str, Any] = {}
        for name, field in self.fields.items():
            where = f"{at}.{name}" if at else name
            if value.get(name) is not None:
                read[name] = field.kind.read(value[name], where, notes)
            else:
                read[name] = None
            if read[name] is None and not field.null:
                raise refuse(where, "never null and always a finite number", value.get(name))
        for name in unknown:
            read[name] = Anything().read(value[name], f"{at}.{name}", notes)
        return read


def described(kind: Any, at: str = "") -> Iterator[tuple[str, str, str]]:
    """Every field below a kind as (place, noun, meaning), in order; `[]` is any entry of a list, `*` any key."""
    if isinstance(kind, Record):
        for name, field in kind.fields.items():
            place = f"{at}.{name}" if at else name
            yield place, field.kind.noun, field.meaning
            yield from described(field.kind, place)
    elif isinstance(kind, Many):
        yield from described(kind.of, f"{at}[]")
    elif isinstance(kind, Each):
        yield from described(kind.of, f"{at}.*")
