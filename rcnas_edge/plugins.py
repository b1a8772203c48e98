"""Extension points, all on one page: exporters, device profiles and network families come by entry point.

The core never imports the folders `exporters/` and `profiles/`; what we ship is reached exactly as a third
party's is. Groups: `rcnas_edge.exporters` (a class or function that makes an `Exporter`), `rcnas_edge.profiles`
(a package with `*.toml` files, a `DeviceProfile`, or a function that gives one or several), `rcnas_edge.families` (an
object with the methods of `nets.Family`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint as EntryPoint
from importlib.metadata import entry_points
from typing import Any

from rcnas_edge.errors import InputError

EXPORTERS = "rcnas_edge.exporters"
PROFILES = "rcnas_edge.profiles"
FAMILIES = "rcnas_edge.families"
MOST_WORDS = 300
"""Letters of a stranger's error."""


def registered(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name; two different ones under one name are refused."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        twin = found.setdefault(entry.name, entry)
        if twin.value != entry.value:
            raise InputError(
                f"a name in {group} is registered once, {entry.name!r} is both {twin.value!r} and {entry.value!r}: "
                "uninstall one of the two packages"
            )
    return found


def every(group: str) -> list[EntryPoint]:
    """The entry points of a group in the order of their names, also different ones under one name."""
    found = {(entry.name, entry.value): entry for entry in entry_points(group=group)}
    return [found[key] for key in sorted(found)]


def distribution(entry: EntryPoint) -> str:
    """The installed package that registered an entry point, with its version."""
    made_by = entry.dist
    return "an unknown package" if made_by is None else f"{made_by.name} {made_by.version}"


def load(group: str, name: str) -> Any:
    """The object that a plugin registered; InputError names the key and what there is."""
    there = registered(group)
    if name not in there:
        kind, names = group.rsplit(".", 1)[1], ", ".join(sorted(there)) or "none"
        raise InputError(f"no plugin of {kind} is called {name!r}; there are: {names}")
    return load_entry(there[name])


def load_entry(entry: EntryPoint) -> Any:
    """Import what an entry point names; a plugin that raises becomes one sentence."""
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise InputError(f"the plugin {entry.name!r} ({entry.value}) does not load: {in_words(error)}") from error


def in_words(error: BaseException) -> str:
    """An error of somebody else's code on one line, which is short and can be shown."""
    words = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return "".join(letter if letter.isprintable() else "?" for letter in words[:MOST_WORDS])


def check_owed(made: Any, owed: Sequence[str], called: str) -> None:
    """Raise InputError unless an object of a plugin, `called` so ("the exporter 'x'"), has what its group owes."""
    try:
        missing = [name for name in owed if not hasattr(made, name)]
    except (Exception, SystemExit) as error:  # a property may do anything
        raise InputError(f"{called} has {', '.join(owed)}, to ask for them fails: {in_words(error)}") from error
    if missing:
        raise InputError(
            f"{called} has {', '.join(owed)}, this {type(made).__name__} has no {', '.join(missing)}: the plugin is "
            "not made for this version"
        )


def load_all(group: str) -> Iterator[tuple[str, Any]]:
    """Every plugin of a group, by name."""
    for name, entry in sorted(registered(group).items()):
        yield name, load_entry(entry)
