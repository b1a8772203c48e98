"""Where the numbers of a profile are from: what an entry says, what it covers, and one line of it for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.profile.bounds import (
    check_choice,
    check_flag,
    check_list,
    check_mapping,
    check_number,
    check_setting,
    check_words,
    meant,
    refuse,
    shown,
)

Entry = Mapping[str, Any]

TABLE, RATES, OVERHEAD, LIMITS = GROUPS = ("table", "rates", "overhead", "limits")
"""Of numbers: measured kernels; rates; overhead, scale and streaming; memory and disk."""
MEASURED, THIRD_PARTY, ESTIMATE = KINDS = ("measured", "third party", "estimate")
OWED = ("covers", "kind", "when", "source")
OWED_IF_MEASURED = ("runtime", "threads", "clocks", "load", "reference_ms", "stable")
UNKNOWN = "unknown"
"""In the place of what a measurement owes and nobody noted."""
NOT_MEASURED_HERE = ("tflite", "pytorch-mobile")
"""Runtimes that nothing of ours runs: rates of theirs are somebody else's measurements, or estimates."""
MOST_ENTRIES, MOST_LEVELS = 1000, 6


def check_entries(entries: object) -> None:
    """Raise InputError unless each entry of a profile's provenance says what it owes."""
    if not isinstance(entries, (list, tuple)):
        raise refuse("provenance", "a list of tables, [[provenance]]", entries)
    if len(entries) > MOST_ENTRIES:
        raise InputError(f"provenance has at most {MOST_ENTRIES} entries, got {len(entries)}: sum them up")
    for number, entry in enumerate(entries, start=1):
        _check_plain(f"provenance {number}", check_mapping(f"provenance {number}", entry))


def check_complete(entries: Sequence[Entry], groups: Collection[str], runtime: str) -> None:
    """Raise InputError unless every entry is one and every group of numbers that is there is covered by one."""
    for number, entry in enumerate(entries, start=1):
        _check_owed(f"provenance {number}", entry, runtime)
    covered = {group for entry in entries for group in entry["covers"]}
    for group in GROUPS:
        if group in groups and group not in covered:
            raise InputError(
                f"every number has its provenance, no entry covers {group!r}: add a [[provenance]] whose covers has it"
            )


def _check_owed(where: str, entry: Entry, runtime: str) -> None:
    measured = entry.get("kind") == MEASURED
    owed = (*OWED, *OWED_IF_MEASURED) if measured else OWED
    for key in owed:
        if key not in entry:
            near = meant(key, [other for other in entry if other not in owed])
            hint = f"; {near}" if near.startswith("did") else ""
            unknown = f' (or {key} = "{UNKNOWN}")' if key in OWED_IF_MEASURED else ""
            raise InputError(f"{where} has {', '.join(owed)}, there is no {key}: add it{unknown}{hint}")
    for group in check_list(f"{where} covers", entry["covers"]):
        check_choice(f"{where} covers", group, GROUPS)
    check_choice(f"{where} kind", entry["kind"], KINDS)
    check_words(f"{where} when", entry["when"])
    check_words(f"{where} source", entry["source"])
    if "setting" in entry:
        check_setting(f"{where} setting", entry["setting"], sized=True)
    if "held_out_error" in entry:
        check_number(f"{where} held_out_error", entry["held_out_error"])
    if not measured:
        return
    check_words(f"{where} runtime", entry["runtime"])
    if entry["stable"] != UNKNOWN:
        check_flag(f"{where} stable", entry["stable"])
    for key in ("threads", "reference_ms"):
        if entry[key] != UNKNOWN:
            check_number(f"{where} {key}", entry[key], above=True)
    if runtime in NOT_MEASURED_HERE and RATES in entry["covers"]:
        raise InputError(
            f"rates of {runtime} are not measured from here, {where} covers them as {MEASURED!r}: its kind is "
            f"{THIRD_PARTY!r} or {ESTIMATE!r}"
        )


def _check_plain(where: str, value: object, level: int = 0) -> None:
    """Raise unless a value is text, numbers, lists and tables that a file holds."""
    if level > MOST_LEVELS:
        raise InputError(f"{where} has lists and tables in at most {MOST_LEVELS} levels: flatten it")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_words(f"a key of {where}", key)
            _check_plain(f"{where} {shown(key).strip(chr(39))}", inner, level + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_plain(where, inner, level + 1)
    elif isinstance(value, str):
        check_words(where, value, empty=True)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        check_number(where, value, least=-1e15, most=1e15)
    elif not isinstance(value, bool):
        raise refuse(where, "text, numbers, true or false, or lists and tables of these", value)


def origin(entries: Sequence[Entry], setting: str, groups: Sequence[str]) -> str:
    """One line for people: where the numbers of these groups are from, for one setting ("fp32/1").

    It says what the first group of `groups` rests on, and what the others do where that is different.
    """
    found: list[str] = []
    for group in groups:
        about = [entry for entry in entries if group in entry.get("covers", ()) and _is_about(entry, setting)]
        words = _words(about[-1]) if about else "of unknown origin"
        if words not in found:
            found.append(words)
    return "; the rest ".join(found)


def kind_of(entries: Sequence[Entry], setting: str, group: str) -> str | None:
    """The kind of the last entry about a group of numbers and a setting, None without one."""
    about = [entry for entry in entries if group in entry.get("covers", ()) and _is_about(entry, setting)]
    return about[-1].get("kind") if about else None


def _is_about(entry: Entry, setting: str) -> bool:
    """Whether an entry speaks of a setting: it names it, with or without the size of an image, or names none."""
    return str(entry.get("setting", setting)).split("/")[:2] == setting.split("/")


def _words(entry: Entry) -> str:
    """One entry in words."""
    kind, source, when = entry.get("kind"), _line(entry.get("source", UNKNOWN)), _line(entry.get("when", UNKNOWN))
    fitted = ""
    if "held_out_error" in entry:
        fitted = f", fitted (MAPE {100 * float(entry['held_out_error']):.2g} % held out)"
    elif "fit" in entry:
        fitted = ", fitted"
    if kind == ESTIMATE:
        return f"ESTIMATE{fitted}, not measured: {source}, {when}"
    if kind == THIRD_PARTY:
        return f"third party measurements{fitted}: {source}, {when}"
    return f"measured on {source}{fitted}, {when[:10]}" + (", UNSTEADY" if entry.get("stable") is False else "")


def _line(value: object) -> str:
    return " ".join(str(value).split())
