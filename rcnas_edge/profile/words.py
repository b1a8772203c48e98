"""A profile in words, line by line: what it is, how many numbers it has, and where each of them is from."""

from __future__ import annotations

from collections.abc import Iterator

from rcnas_edge.profile import validation
from rcnas_edge.profile.device import Profile

PLAIN = ("setting", "covers", "kind")
"""Of a provenance entry: told before the rest."""
MOST = 200
"""Characters of a value in a line."""


def lines(profile: Profile) -> Iterator[str]:
    """What `rcnas-edge profile show` prints."""
    yield f"name         {profile.name}"
    yield f"vendor       {_line(profile.vendor)}"
    if profile.description:
        yield f"description  {_line(profile.description, 1000)}"
    yield f"runtime      {profile.runtime}"
    yield f"precisions   {', '.join(profile.precisions)}"
    yield f"threads      {', '.join(map(str, profile.threads))}"
    first_use = not profile.rows and profile.on_first_use
    yield f"rows         {len(profile.rows)}" + (" (measured on first use)" if first_use else "")
    yield from _limits(profile)
    for words, settings in profile.origins.items():
        yield f"origin       {', '.join(settings) + ': ' if settings else ''}{words}"
    for setting, rates in profile.rates.items():
        yield f"{setting:12} rates of {', '.join(rates.by_operation)}"
    for setting in dict.fromkeys((*profile.overhead_ms, *profile.scale)):
        overhead, scale = profile.overhead_ms.get(setting, 0.0), profile.scale.get(setting, 1.0)
        yield f"{setting:12} overhead {overhead:.4f} ms, scale {scale:.3f}"
    for setting, (cache, ms) in profile.streaming.items():
        yield f"{setting:12} weights beyond {cache:g} MB take {ms:.4f} ms per MB"
    for setting, numbers in profile.validation.items():
        yield f"{setting:12} validation: {validation.words(numbers)}"
    for entry in profile.provenance:
        first = [f"{entry['kind']}: {', '.join(entry['covers'])}"] if {"kind", "covers"} <= set(entry) else []
        first += [str(entry["setting"])] if "setting" in entry else []
        rest = [f"{key} {_line(value)}" for key, value in entry.items() if key not in PLAIN]
        yield "provenance   " + ", ".join([*first, *rest])


def measured_words(profile: Profile, setting: str) -> Iterator[str]:
    """What a measurement came to: how well whole networks were predicted, and whether the machine held still."""
    for sized, numbers in profile.validation.items():
        if sized.rpartition("/")[0] == setting:
            yield f"{sized:12} {validation.words(numbers)}"
    entries = [entry for entry in profile.provenance if entry.get("setting") == setting and "passes" in entry]
    for entry in entries[-1:]:
        spread = f"the reference kernel varied by {100 * float(entry['reference_spread']):.1f} %"
        steady = "steady" if entry["stable"] else "UNSTEADY, measure it again on a quieter machine with --anew"
        yield f"{entry['setting']:12} {steady}: {spread}, in {entry['passes']} pass(es)"


def _limits(profile: Profile) -> Iterator[str]:
    """What a network may take on the device, and what the numbers are for."""
    known = {"memory": profile.memory_mb, "disk": profile.disk_mb}
    limits = [f"{name} {value:g} MB" for name, value in known.items() if value is not None]
    yield f"limits       {', '.join(limits) or 'none known'}"
    images, batch = profile.domain.images, profile.domain.batch
    if images or batch != 1:
        yield f"domain       images of {', '.join(images) or 'any size'}, batches of {batch}"


def _line(value: object, most: int = MOST) -> str:
    """A value on one line, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 4] + " ..."
