"""Profiles that other packages bring, through the entry point group `rcnas_edge.profiles`.

An entry point names a package with TOML files (which needs no Python at all), a `DeviceProfile`, or a function without
arguments that gives one or several. Each profile is checked when it is opened; what is broken is a problem with a name
and hides nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import resources
from types import ModuleType
from typing import Any, NamedTuple

from rcnas_edge import plugins
from rcnas_edge.errors import InputError
from rcnas_edge.profile import format as profile_format
from rcnas_edge.profile.bounds import check_name, shown
from rcnas_edge.profile.device import Profile

OURS = "rcnas-edge"
"""The distribution whose names no other one takes."""
MOST_OFFERED = 10_000
"""Profiles of one entry point: a function that never ends is no plugin."""


class Offer(NamedTuple):
    """A profile that a package brings under a name, opened when it is asked for."""

    name: str
    brought_by: str
    open: Callable[[], Profile]


class Problem(NamedTuple):
    """What is wrong with an entry point, or with one profile of it."""

    name: str
    brought_by: str
    words: str


def offers() -> tuple[dict[str, Offer], list[Problem]]:
    """What every package offers, by name, and what is wrong with some; a name that two take is opened by neither."""
    found: dict[str, Offer] = {}
    problems: list[Problem] = []
    for entry in plugins.every(plugins.PROFILES):
        brought_by = plugins.distribution(entry)
        try:
            for name, opened in _of(entry):
                offer = Offer(name, brought_by, opened)
                found[name] = _one_of(found[name], offer) if name in found else offer
        except InputError as error:
            problems.append(Problem(entry.name, brought_by, str(error)))
        except Exception as error:  # a stranger's code
            words = f"the plugin {entry.name!r} cannot be read: {in_words(error)}"
            problems.append(Problem(entry.name, brought_by, words))
    return found, problems


def in_words(error: Exception) -> str:
    """An error of somebody else's code on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _one_of(former: Offer, offer: Offer) -> Offer:
    """Of two with one name: ours, else neither."""
    for mine in (former, offer):
        if mine.brought_by.split(" ")[0] == OURS:
            return mine
    return former._replace(open=partial(_taken_twice, former, offer))


def _taken_twice(former: Offer, offer: Offer) -> Profile:
    raise InputError(
        f"the name of a profile is used once, {offer.name!r} is in {former.brought_by} and in {offer.brought_by}: "
        "uninstall one of the two"
    )


def _of(entry: plugins.EntryPoint) -> Iterator[tuple[str, Callable[[], Profile]]]:
    """(name, how to open it) of every profile of an entry point."""
    made = plugins.load_entry(entry)
    called = f"the plugin {entry.name!r} ({entry.value})"
    if isinstance(made, ModuleType):
        yield from _files(made, called)
        return
    for profile in _profiles(made, called):
        if not isinstance(profile, Profile):
            raise InputError(
                f"{called} is a package of TOML files, a DeviceProfile or a function that gives one or several, it "
                f"gives {shown(profile)}: see profiles/README.md of rcnas_edge"
            )
        yield profile.name, partial(_checked, profile, called)


def _profiles(made: Any, called: str) -> Iterable[Any]:
    """What an entry point that is no package comes to."""
    if isinstance(made, Profile):
        return (made,)
    if not callable(made):
        return (made,)
    try:
        given = made()
        if isinstance(given, (Profile, str)) or not isinstance(given, Iterable):
            return (given,)
        return tuple(profile for profile, _ in zip(given, range(MOST_OFFERED), strict=False))
    except (Exception, SystemExit) as error:
        raise InputError(f"{called} does not run: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _checked(profile: Profile, called: str) -> Profile:
    """A profile of an object, which owes what a file owes."""
    try:
        profile.check_provenance()
    except InputError as error:
        raise InputError(f"{called}, the profile {profile.name!r}: {error}") from error
    return profile


def _files(package: ModuleType, called: str) -> Iterator[tuple[str, Callable[[], Profile]]]:
    """The TOML files of a package, which may be a folder without any Python."""
    if not hasattr(package, "__path__"):
        raise InputError(f"{called} names a package of TOML files, this is a module: name the package that holds it")
    files = sorted((file for file in resources.files(package).iterdir() if file.name.endswith(".toml")), key=_name)
    if not files:
        raise InputError(f"{called} names a package of TOML files, there is none in it: is its package data installed?")
    for file in files:
        yield _name(file), partial(_opened, file)


def _name(file: Any) -> str:
    return str(file.name).removesuffix(".toml")


def _opened(file: Any) -> Profile:
    """The profile of a file, which has the name that it is found by."""
    check_name(_name(file))
    profile = profile_format.read(file)
    if profile.name != _name(file):
        raise InputError(f"{file}: the name of a profile is the stem of its file, got {profile.name!r}: rename it")
    return profile
