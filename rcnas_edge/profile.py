"""Device profiles on disk: a TOML file with a CSV table beside it, found by name.

They come from plugin packages, from the cache of this machine, or from a path; `measure.measure_profile` makes them.
What they hold is in `device`. This module never imports torch or a runtime.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import platform
import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from rcnas_edge import plugins
from rcnas_edge.device import COLUMNS, Profile, Row, Target, image_size
from rcnas_edge.errors import InputError
from rcnas_edge.fusion import Group, Key, fuse
from rcnas_edge.rates import Rate, Rates

__all__ = [
    "Group",
    "Key",
    "Profile",
    "Row",
    "Target",
    "cache_folder",
    "cache_path",
    "fuse",
    "image_size",
    "list_profiles",
    "load_profile",
    "machine",
    "read_profile",
    "save_profile",
]

log = logging.getLogger(__name__)

SCHEMA = 2

_KINDS: dict[str, tuple[type, str]] = {
    "name": (str, "a text"),
    "table": (str, "the name of a file"),
    "precisions": (list, "a list"),
    "threads": (list, "a list"),
    "overhead_ms": (dict, "a table of numbers"),
    "scale": (dict, "a table of numbers"),
    "streaming": (dict, "a table of pairs of numbers"),
    "provenance": (list, "a list of tables"),
    "on_first_use": (bool, "true or false"),
}
"""What a key of the file holds, where another kind would only be noticed later."""


@lru_cache(maxsize=1)
def _machine() -> tuple[tuple[str, str], ...]:
    found = {"cpu": platform.processor() or platform.machine(), "features": ""}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            label, _, value = (part.strip() for part in line.partition(":"))
            if label == "model name":
                found["cpu"] = value
            elif label in ("flags", "Features"):
                found["features"] = hashlib.sha256(value.encode()).hexdigest()[:12]
            elif not label:  # the first processor is described
                break
    except OSError:
        pass  # not Linux: the platform's own words have to do
    found["runtime"] = "onnxruntime not installed"
    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            found["runtime"] = f"onnxruntime {metadata.version(package)}"
            break
        except metadata.PackageNotFoundError:
            continue
    return tuple(found.items())


def machine() -> dict[str, str]:
    """What a latency measured here depends on: processor, its features, runtime version."""
    return dict(_machine())


def cache_folder() -> Path:
    """Where profiles measured on this machine are kept: $RCNAS_CACHE, or ~/.cache/rcnas_edge/profiles."""
    asked = os.environ.get("RCNAS_CACHE")
    return Path(asked) if asked else Path.home() / ".cache" / "rcnas_edge" / "profiles"


def cache_path(name: str) -> Path:
    """The file of a profile measured here; another processor or runtime version is another file."""
    digest = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / f"{name}-{digest}.toml"


def load_profile(name: str) -> Profile:
    """The profile of a name: what was measured on this machine first, then the plugin packages."""
    if name != Path(name).name:
        raise InputError(f"a profile is called by a name, not by a path, got {name!r}: read_profile opens a path")
    for path in (cache_path(name), cache_folder() / f"{name}.toml"):
        if path.is_file():
            return read_profile(path)
    there = _shipped()
    if name not in there:
        names = ", ".join(profile.name for profile in list_profiles()) or "none"
        raise InputError(f"no profile is called {name!r}; there are: {names}")
    return _named(name, there[name])


def list_profiles() -> tuple[Profile, ...]:
    """Every profile that `load_profile` finds, by name; a file in the cache that cannot be read is left out."""
    found = {name: _named(name, entry) for name, entry in _shipped().items()}
    suffix = cache_path("").stem
    paths = sorted(cache_folder().glob("*.toml"), key=lambda path: path.stem.endswith(suffix))
    for path in paths:  # those of this machine last, so that they take the place of others
        try:
            profile = read_profile(path)
        except InputError as error:
            log.warning("%s", error)
            continue
        if path.stem in (profile.name, profile.name + suffix):
            found[profile.name] = profile
    return tuple(found[name] for name in sorted(found))


def _shipped() -> dict[str, Any]:
    """The TOML files of the plugin packages by profile name (the file's stem)."""
    found: dict[str, Any] = {}
    for plugin, package in plugins.load_all(plugins.PROFILES):
        if not hasattr(package, "__path__"):
            raise InputError(f"a plugin of profiles names a package of TOML files, {plugin!r} names {package!r}")
        for entry in resources.files(package).iterdir():
            if entry.name.endswith(".toml"):
                name = entry.name.removesuffix(".toml")
                if name in found:
                    raise InputError(
                        f"a profile's name is used once, {name!r} of {plugin!r} is also in another package: "
                        "uninstall one of the two"
                    )
                found[name] = entry
    return found


def _named(name: str, entry: Any) -> Profile:
    """The profile in a file of a plugin package, which has the name that it is found by."""
    profile = _read(entry)
    if profile.name != name:
        raise InputError(f"the name of a profile is the stem of its file, {entry} has the name {profile.name!r}")
    return profile


def read_profile(path: Path | str) -> Profile:
    """A profile from its TOML file and the CSV table beside it; InputError says what is wrong with them."""
    return _read(Path(path))


def _read(entry: Any) -> Profile:
    """Read a path, or a file inside an installed package."""
    try:
        values = tomllib.loads(entry.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"a profile is a TOML file, {entry} cannot be read: {error}") from error
    schema = values.pop("schema", None)
    if schema != SCHEMA:
        raise InputError(f"profiles of schema {SCHEMA} are read, {entry} has {schema!r}: measure the device anew")
    for key, (kind, called) in _KINDS.items():
        if not isinstance(values.get(key, kind()), kind):
            raise InputError(f"a profile's {key} is {called}, {entry} has {values[key]!r}")
    rows: tuple[Row, ...] = ()
    if table := values.pop("table", ""):
        beside = entry.parent / table if isinstance(entry, Path) else entry.joinpath("..", table)
        try:
            rows = tuple(_rows(beside.read_text(encoding="utf-8"), str(beside)))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"the table of the profile {entry} cannot be read: {error}") from error
    try:
        return Profile(
            name=values.pop("name"),
            vendor=values.pop("vendor"),
            runtime=values.pop("runtime"),
            precisions=tuple(values.pop("precisions", ("fp32",))),
            threads=tuple(values.pop("threads", (1,))),
            rows=rows,
            rates={setting: _rates(of_setting) for setting, of_setting in values.pop("rates", {}).items()},
            overhead_ms=values.pop("overhead_ms", {}),
            scale=values.pop("scale", {}),
            streaming={setting: tuple(pair) for setting, pair in values.pop("streaming", {}).items()},
            provenance=tuple(dict(entry) for entry in values.pop("provenance", ())),
            **values,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"a profile has name, vendor, runtime and what the format documents, {entry}: {error}"
        ) from error


def _rates(by_operation: Mapping[str, Any]) -> Rates:
    """The rates of one setting."""
    return Rates({operation: Rate(**numbers) for operation, numbers in by_operation.items()})


def _rows(text: str, where: str) -> Iterable[Row]:
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise InputError(
            f"the table of a profile has the columns {', '.join(COLUMNS)}, {where} has {reader.fieldnames}"
        )
    for line, values in enumerate(reader, start=2):
        try:
            numbers = (int(values[name]) for name in Key._fields[2:])
            key = Key(values["operation"], values["layout"], *numbers)
            yield Row(
                values["precision"],
                int(values["threads"]),
                key,
                int(values["channels_in"]),
                int(values["channels_out"]),
                float(values["ms"]),
            )
        except (TypeError, ValueError) as error:
            raise InputError(f"a row of a profile's table holds numbers, {where} line {line}: {error}") from error


def save_profile(profile: Profile, folder: Path | str, *, stem: str | None = None) -> Path:
    """Write a profile and its table, each whole or not at all, and return the path of the TOML file.

    The table comes first: a kill between the two leaves the former description with a table that has more rows.
    """
    folder, stem = Path(folder), stem or profile.name
    folder.mkdir(parents=True, exist_ok=True)
    if profile.rows:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row.cells for row in profile.rows)
        _write_whole(folder / f"{stem}.csv", text.getvalue())
    path = folder / f"{stem}.toml"
    _write_whole(path, _toml(profile, f"{stem}.csv" if profile.rows else ""))
    return path


def _toml(profile: Profile, table: str) -> str:
    """The description as TOML; JSON's strings, numbers and lists are TOML's."""
    head: dict[str, Any] = {"schema": SCHEMA}
    for name in ("name", "vendor", "runtime", "description", "precisions", "threads", "on_first_use"):
        head[name] = getattr(profile, name)
    if table:
        head["table"] = table
    lines = _assignments(head)
    for section in ("overhead_ms", "scale", "streaming"):
        lines += ["", f"[{section}]", *_assignments(getattr(profile, section))]
    for setting, rates in profile.rates.items():
        for operation, rate in rates.by_operation.items():
            lines += ["", f"[rates.{json.dumps(setting)}.{json.dumps(operation)}]", *_assignments(rate._asdict())]
    for entry in profile.provenance:
        lines += ["", "[[provenance]]", *_assignments(entry)]
    return "\n".join(lines) + "\n"


def _assignments(values: Mapping[str, Any]) -> list[str]:
    return [f"{json.dumps(name)} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]


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
