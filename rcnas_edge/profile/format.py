"""Profiles as files: a TOML file, and a CSV table beside it where kernels were measured; read safely, written whole.

Who wrote a file is not known, so that its size is looked at before it is read, and all that can be wrong with it is one
InputError that names the file. The values check themselves (`device.Profile`, `row.Row`, `rates.Rates`).
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.profile.bounds import check_count, check_keys, check_list, check_mapping, check_words, shown
from rcnas_edge.profile.device import Profile
from rcnas_edge.profile.domain import Domain
from rcnas_edge.profile.rates import Rate, Rates
from rcnas_edge.profile.row import MOST_ROWS, Row, table_rows, table_text

SCHEMA = 2
MOST_TOML, MOST_TABLE = 2_000_000, 50_000_000
"""Bytes of the two files."""
MOST_PARTS = 32
"""Of a dotted key: Python's parser takes quadratic time in their number."""

_HEAD = ("name", "vendor", "runtime", "description", "precisions", "threads", "on_first_use")
_OPTIONAL = ("memory_mb", "disk_mb")
_SECTIONS = ("overhead_ms", "scale", "streaming", "validation")
KEYS = ("schema", *_HEAD, *_OPTIONAL, "table", "rows", "domain", "rates", *_SECTIONS, "provenance")
"""Of a profile's TOML file."""

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*\.[ \t]*{_PART}){{{MOST_PARTS}}}")


def read(entry: Any) -> Profile:
    """The profile of a TOML file, a path or a file inside an installed package; InputError says what is wrong."""
    with _naming(entry):
        values = _values(_text(entry, MOST_TOML, "a profile"))
        schema = values.pop("schema", None)
        if schema != SCHEMA or isinstance(schema, bool):
            newer = isinstance(schema, int) and schema > SCHEMA
            way_out = (
                "install a newer rcnas-edge"
                if newer
                else "measure the device anew; a run that keeps it wants a new folder"
            )
            raise InputError(f"the schema of a profile is {SCHEMA}, got {shown(schema)}: {way_out}")
        check_keys("a profile", values, KEYS)
        for key in ("name", "vendor", "runtime"):
            if key not in values:
                raise InputError(f"a profile has a name, a vendor and a runtime, there is no {key}: add it")
        rows = _table(entry, values.pop("table", None), values.pop("rows", 0))
        profile = _profile(values, rows)
        profile.check_provenance()
    return profile


def save(profile: Profile, folder: Path, stem: str) -> Path:
    """Write a profile and its table, each whole or not at all, and return the path of the TOML file.

    The table comes first: a kill between the two leaves the former description with a table that has more rows.
    """
    profile.check_provenance()
    folder.mkdir(parents=True, exist_ok=True)
    if profile.rows:
        _write_whole(folder / f"{stem}.csv", table_text(profile.rows))
    path = folder / f"{stem}.toml"
    _write_whole(path, _toml(profile, f"{stem}.csv" if profile.rows else ""))
    return path


@contextmanager
def _naming(entry: Any) -> Iterator[None]:
    """Every error inside names the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{_line(entry)}: {error}") from error


def _line(entry: Any) -> str:
    """The name of a file on one line."""
    text = str(entry)
    return text if text.isprintable() else shown(text)


def _text(entry: Any, most: int, what: str) -> str:
    """The text of a regular file of at most so many bytes."""
    try:
        if isinstance(entry, Path):  # elsewhere, in an archive, there are no pipes and devices
            there = entry.stat()
            if not stat.S_ISREG(there.st_mode):
                raise InputError(f"{what} is a regular file, this is none: put a file there")
            if there.st_size > most:
                raise InputError(
                    f"{what} has at most {most / 1e6:g} MB, got {there.st_size / 1e6:.0f} MB: is it the right one?"
                )
        with entry.open("rb") as file:
            content = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        words = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{what} is a file that can be read, this cannot: {words}") from error
    if len(content) > most:
        raise InputError(f"{what} has at most {most / 1e6:g} MB, this file has more: is it the right one?")
    if content.startswith(b"\xef\xbb\xbf"):
        raise InputError(f"{what} is UTF-8 text without a byte order mark, this begins with one: save it without")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} is UTF-8 text, byte {error.start} of this file is not: save it as UTF-8") from error
    if "\0" in text:
        raise InputError(f"{what} is text, this file has NUL bytes: is it the right one?")
    return text


def _values(text: str) -> dict[str, Any]:
    """What a TOML text says, dates as text."""
    if _LONG_KEY.search(text):
        raise InputError(f"a key of a profile has at most {MOST_PARTS} dotted parts, there is a longer one: shorten it")
    try:
        return {key: _undated(value) for key, value in tomllib.loads(text).items()}
    except RecursionError as error:
        raise InputError("a profile is a TOML file of few levels, this is nested too deeply: flatten it") from error
    except ValueError as error:  # tomllib's own is one, and so is a number with too many digits
        raise InputError(f"a profile is a TOML file, this is not: {' '.join(str(error).split())[:200]}") from error


def _undated(value: Any) -> Any:
    if isinstance(value, (date, time, datetime)):
        return value.isoformat()
    if isinstance(value, dict):
        return {key: _undated(inner) for key, inner in value.items()}
    return [_undated(inner) for inner in value] if isinstance(value, list) else value


def _profile(values: dict[str, Any], rows: tuple[Row, ...]) -> Profile:
    """The profile of what the file says; the values have their types once it exists."""
    domain = check_mapping("domain", values.pop("domain", {}))
    check_keys("domain", domain, ("images", "batch"))
    images = tuple(check_list("domain images", domain["images"])) if "images" in domain else ()
    rates = {
        setting: _rates(f"rates of {shown(setting)}", by_operation)
        for setting, by_operation in check_mapping("rates", values.pop("rates", {})).items()
    }
    lists: dict[str, Any] = {
        key: tuple(check_list(key, values.pop(key))) for key in ("precisions", "threads") if key in values
    }
    entries = values.pop("provenance", ())
    return Profile(
        rows=rows,
        rates=rates,
        domain=Domain(images, domain.get("batch", 1)),
        streaming={
            setting: tuple(pair) if isinstance(pair, list) else pair
            for setting, pair in check_mapping("streaming", values.pop("streaming", {})).items()
        },
        provenance=tuple(entries) if isinstance(entries, list) else entries,
        **lists,
        **values,
    )


def _rates(where: str, by_operation: object) -> Rates:
    """The rates of one setting."""
    found = {}
    for operation, numbers in check_mapping(where, by_operation).items():
        check_keys(
            f"{where}, {shown(operation)},", check_mapping(f"{where}, {shown(operation)},", numbers), Rate._fields
        )
        found[operation] = Rate(**numbers)
    try:
        return Rates(found)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _table(entry: Any, name: object, least: object) -> tuple[Row, ...]:
    """The rows of the table of that name beside a file; it has at least as many as were there when it was written."""
    check_count("rows", least, least=0, most=MOST_ROWS)
    if name is None:
        if least:
            raise InputError(f"a profile with rows names their table, there is none for {least} rows: add table")
        return ()
    check_words("table", name)
    assert isinstance(name, str)
    if name != Path(name).name or "\\" in name or "/" in name or name in (".", "..") or not name.endswith(".csv"):
        raise InputError(f"table is the bare name of a CSV file beside the profile, got {shown(name)}: put it there")
    if isinstance(entry, Path):
        beside: Any = entry.with_name(name)
        folders = {os.path.realpath(entry.parent), os.path.dirname(os.path.realpath(entry))}
        if os.path.dirname(os.path.realpath(beside)) not in folders:
            raise InputError(f"table is a file beside the profile, {shown(name)} is a link to elsewhere: put it there")
    else:
        beside = entry.parent.joinpath(name)
    with _naming(name):
        rows = tuple(table_rows(_text(beside, MOST_TABLE, "the table of a profile")))
        if len(rows) < int(least):  # type: ignore[call-overload]
            raise InputError(f"the profile says that its table has at least {least} rows, got {len(rows)}: it was cut")
    return rows


def _toml(profile: Profile, table: str) -> str:
    """The description as TOML."""
    head: dict[str, Any] = {"schema": SCHEMA} | {name: getattr(profile, name) for name in _HEAD}
    head |= {name: value for name in _OPTIONAL if (value := getattr(profile, name)) is not None}
    if table:
        head |= {"table": table, "rows": len(profile.rows)}
    lines = _assignments(head)
    if profile.domain != Domain():
        images = {"images": profile.domain.images} if profile.domain.images else {}
        lines += ["", "[domain]", *_assignments(images | {"batch": profile.domain.batch})]
    for setting, rates in profile.rates.items():
        for operation, rate in rates.by_operation.items():
            there = {name: value for name, value in rate._asdict().items() if value}
            lines += ["", f"[rates.{json.dumps(setting)}.{json.dumps(operation)}]", *_assignments(there)]
    for section in _SECTIONS:
        if content := getattr(profile, section):
            lines += ["", f"[{section}]", *_assignments(content)]
    for entry in profile.provenance:
        lines += ["", "[[provenance]]", *_assignments(entry)]
    return "\n".join(lines) + "\n"


def _assignments(values: Mapping[str, Any]) -> list[str]:
    return [f"{_literal(name)} = {_literal(value)}" for name, value in values.items()]


def _literal(value: Any) -> str:
    """A value as TOML; JSON's strings, numbers and flags are TOML's (a profile has no control characters)."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(_assignments(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _write_whole(path: Path, text: str) -> None:
    """Write aside, flush to disk, rename: a reader sees the former file or this one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
