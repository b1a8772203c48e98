"""Device profiles by name: those that were measured on this machine, and those that plugin packages bring.

What a profile holds is in `device`, its files in `format`, the plugins in `plugins`;
`measure.measure_profile` makes one. This module never imports torch or a runtime.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from rcnas_edge.board.machine import processor
from rcnas_edge.errors import InputError
from rcnas_edge.profile import format as profile_format
from rcnas_edge.profile import plugins as profile_plugins
from rcnas_edge.profile.bounds import check_name, meant
from rcnas_edge.profile.device import Profile
from rcnas_edge.profile.domain import Domain, image_size
from rcnas_edge.profile.fusion import Group, Key, fuse
from rcnas_edge.profile.rates import Rate, Rates
from rcnas_edge.profile.row import Row
from rcnas_edge.profile.target import Target

DeviceProfile = Profile
"""The public name, for plugins that make one in Python."""

__all__ = [
    "DeviceProfile",
    "Domain",
    "Group",
    "Key",
    "Listed",
    "Profile",
    "Rate",
    "Rates",
    "Row",
    "Target",
    "cache_folder",
    "cache_path",
    "catalogue",
    "fuse",
    "image_size",
    "list_profiles",
    "load_profile",
    "machine",
    "read_profile",
    "save_profile",
]

CACHE = "cache of this machine"
MEASURED_HERE = re.compile(r"(.+)-[0-9a-f]{12}")
"""Stem of a file in the cache: a name, and the digest of machine and format."""


@lru_cache(maxsize=1)
def _machine() -> tuple[tuple[str, str], ...]:
    found = processor()
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
    """The file of a profile measured here; another processor, runtime version or format is another file."""
    made_for = machine() | {"schema": profile_format.SCHEMA}
    digest = hashlib.sha256(json.dumps(made_for, sort_keys=True).encode()).hexdigest()[:12]
    return cache_folder() / f"{name}-{digest}.toml"


def load_profile(name: str) -> Profile:
    """The profile of a name: what was measured on this machine first, then the plugin packages."""
    check_name(name)
    for path in (cache_path(name), cache_folder() / f"{name}.toml"):
        if path.is_file():
            return _named(path, name)
    offers, problems = profile_plugins.offers()
    found = offers.get(name)
    if found is None:
        names = sorted({*offers, *(listed.name for listed in _cached())})
        broken = f"; {len(problems)} plugin(s) cannot be read, see 'rcnas-edge profile list'" if problems else ""
        raise InputError(f"no profile is called {name!r}: {meant(name, names)}{broken}")
    return found.open()


@dataclass(frozen=True)
class Listed:
    """A profile that was found, and who brought it; or, with `profile` None, the sentence that says what is wrong."""

    name: str
    brought_by: str
    profile: Profile | None = None
    problem: str = ""


def catalogue() -> tuple[Listed, ...]:
    """All that `load_profile` knows, by name; what is broken is told and stops nothing else."""
    offers, problems = profile_plugins.offers()
    cached = _cached()
    hidden = {listed.name for listed in cached}
    found = [*cached, *(Listed(name, brought_by, problem=problem) for name, brought_by, problem in problems)]
    for name, offer in offers.items():
        if name not in hidden:
            try:
                found.append(Listed(name, offer.brought_by, offer.open()))
            except InputError as error:
                found.append(Listed(name, offer.brought_by, problem=str(error)))
            except Exception as error:  # a stranger's code
                found.append(
                    Listed(name, offer.brought_by, problem=f"{name} cannot be read: {profile_plugins.in_words(error)}")
                )
    return tuple(sorted(found, key=lambda listed: (listed.name, listed.problem)))


def list_profiles() -> tuple[Profile, ...]:
    """Every profile that `load_profile` gives, by name; what is broken is left out, `catalogue` tells of it."""
    return tuple(listed.profile for listed in catalogue() if listed.profile is not None)


def _cached() -> list[Listed]:
    """Profiles in the cache: under their name, or measured on this machine with this version, which come first."""
    found: dict[str, Listed] = {}
    suffix = cache_path("").stem
    for path in sorted(cache_folder().glob("*.toml"), key=lambda path: path.stem.endswith(suffix)):
        here = path.stem.endswith(suffix)
        if not here and MEASURED_HERE.fullmatch(path.stem):
            continue  # of another machine, runtime or format
        name = path.stem.removesuffix(suffix) if here else path.stem
        try:
            found[name] = Listed(name, CACHE, _named(path, name))
        except InputError as error:
            found[name] = Listed(name, CACHE, problem=str(error))
    return list(found.values())


def _named(path: Path, name: str) -> Profile:
    """The profile of a file in the cache, which has the name that it is found by."""
    profile = read_profile(path)
    if profile.name != name:
        raise InputError(
            f"{path}: the profile of this file is called {name!r}, it has the name {profile.name!r}: rename it"
        )
    return profile


def read_profile(path: Path | str) -> Profile:
    """A profile from its TOML file and the CSV table beside it; InputError says what is wrong with them."""
    return profile_format.read(Path(path))


def save_profile(profile: Profile, folder: Path | str, *, stem: str | None = None) -> Path:
    """Write a profile and its table, each whole or not at all, and return the path of the TOML file.

    InputError for numbers without provenance, which could not be read again.
    """
    return profile_format.save(profile, Path(folder), stem or profile.name)
