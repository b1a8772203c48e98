"""What a value of a profile may be: each check names the key, the value, the rule and the way out in one sentence."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rcnas_edge.errors import InputError

PRECISIONS = ("fp32", "fp16", "int8")
MOST = 1e7
"""Of a number: ms (almost three hours) and what is derived from it."""
MOST_THREADS = 1024
MOST_PIXELS = 100_000
"""Of the side of an image."""
MOST_LISTED = 1000
"""Of values in a list."""
MOST_WORDS = 10_000
"""Characters of a text."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
NAME_RULE = "a to z, 0 to 9, '.', '_' and '-', at most 64, the first a letter or a digit"
SIZE = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", re.ASCII)
SETTING = re.compile(rf"({'|'.join(PRECISIONS)})/([1-9][0-9]{{0,3}})(?:/({SIZE.pattern}))?", re.ASCII)

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 3


def shown(value: object) -> str:
    """A value in an error message: on one line, and not longer than that."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    return _SHORT.repr(value)


def refuse(key: str, rule: str, value: object, way_out: str = "correct it") -> InputError:
    """The error for a key whose value breaks a rule."""
    return InputError(f"{key} is {rule}, got {shown(value)}: {way_out}")


def check_number(key: str, value: object, *, least: float = 0.0, most: float = MOST, above: bool = False) -> None:
    """Raise unless it is a finite number from `least` (or above it) to `most`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # a NaN is in no order, so that it fails here too
    if not number or not (least < value <= most if above else least <= value <= most):  # type: ignore[operator]
        raise refuse(
            key, f"a number {'above' if above else 'from'} {least:g} {'up ' if above else ''}to {most:g}", value
        )


def check_count(key: str, value: object, *, least: int = 1, most: int = 10**9) -> None:
    """Raise unless it is a whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise refuse(key, f"a whole number from {least} to {most}", value)


def check_flag(key: str, value: object) -> None:
    """Raise unless it is true or false."""
    if not isinstance(value, bool):
        raise refuse(key, "true or false", value)


def check_words(key: str, value: object, *, empty: bool = False) -> None:
    """Raise unless it is text for people: UTF-8, without control characters but tabs and ends of lines."""
    if not isinstance(value, str) or not (empty or value.strip()):
        raise refuse(key, "a text" if empty else "a text that is not empty", value)
    if len(value) > MOST_WORDS:
        raise refuse(key, f"a text of at most {MOST_WORDS} characters", value, "shorten it")
    for letter in value:
        if (letter < " " and letter not in "\t\n\r") or "\x7f" <= letter <= "\x9f" or "\ud800" <= letter <= "\udfff":
            raise refuse(key, "a text without control characters", letter, "remove it")


def check_name(value: object) -> None:
    """Raise unless it may be the name of a profile, which is also the stem of its file."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise refuse("the name of a profile", f"made of {NAME_RULE}", value, "rename it")


def check_choice(key: str, value: object, there: Collection[str]) -> None:
    """Raise unless it is one of the known words."""
    if not isinstance(value, str) or value not in there:
        raise refuse(key, f"one of {', '.join(there)}", value, _near(value, there) or "correct it")


def check_setting(key: str, value: object, *, sized: bool = False) -> None:
    """Raise unless it is "precision/threads", or with `sized` also "precision/threads/HxW"."""
    found = SETTING.fullmatch(value) if isinstance(value, str) else None
    if not found or int(found[2]) > MOST_THREADS or (found[3] and not sized):
        by = '"precision/threads"' + (' or "precision/threads/HxW"' if sized else "") + ', as "fp32/1"'
        raise refuse(f"a key of {key}", f"{by} (precisions {', '.join(PRECISIONS)})", value)
    if found[3]:
        check_size(key, found[3])


def check_size(key: str, value: object) -> None:
    """Raise unless it is the size of an image, "HxW"."""
    found = SIZE.fullmatch(value) if isinstance(value, str) else None
    if not found or max(int(found[1]), int(found[2])) > MOST_PIXELS:
        raise refuse(key, f'height x width, as "224x224", at most {MOST_PIXELS}', value)


def check_mapping(key: str, value: object) -> Mapping[str, Any]:
    """The value itself if it is a table of keys and values, else raise."""
    if not isinstance(value, Mapping):
        raise refuse(key, "a table of keys and values", value)
    return value


def check_list(key: str, value: object) -> Iterable[Any]:
    """The value itself if it is a list without repetitions, else raise."""
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= MOST_LISTED:
        raise refuse(key, f"a list of 1 to {MOST_LISTED} values", value)
    if any(value[place] in value[:place] for place in range(len(value))):
        raise refuse(key, "a list without repetitions", value, "remove what is twice there")
    return value


def check_keys(where: str, values: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise for a key that is not known, and name the nearest known one."""
    for key in values:
        if key not in known:
            raise InputError(f"{where} has no key {shown(key)}: {meant(key, known)}")


def meant(word: object, known: Collection[str]) -> str:
    """What somebody may have meant, else what there is."""
    return _near(word, known) or f"it is one of {', '.join(known) or 'none'}"


def _near(word: object, known: Collection[str]) -> str:
    """The nearest known word as a question, if any is near."""
    near = difflib.get_close_matches(word, known, 1, 0.5) if isinstance(word, str) and len(word) < 100 else []
    return f"did you mean {near[0]!r}?" if near else ""


def check_plain(where: str, key: str, value: object) -> None:
    """Raise unless it is a text, a number, or true or false, under a key that can be shown."""
    check_words(f"a key beside {where}", key)
    if isinstance(value, str):
        check_words(where, value, empty=True)
    elif not isinstance(value, bool):
        check_number(where, value, least=-1e15, most=1e15)


def check_table(where: str, value: object, keys: tuple[str, ...], again: str) -> Mapping[str, Any]:
    """The value if it is a table with exactly these keys; `again` is the way out where one is missing."""
    found = check_mapping(where, value)
    check_keys(where, found, keys)
    for key in keys:
        if key not in found:
            raise InputError(f"{where} has {', '.join(keys)}, there is no {key}: copy the file again, or {again}")
    return found
