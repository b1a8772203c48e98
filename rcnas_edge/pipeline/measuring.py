"""`rcnas-edge profile measure`: this machine as a device profile, covering the students of a family."""

from __future__ import annotations

import math
import re
from pathlib import Path

from rcnas_edge.errors import InputError
from rcnas_edge.measure import measure_profile, runtime_here
from rcnas_edge.pipeline.console import Advance
from rcnas_edge.pipeline.covering import spaces
from rcnas_edge.pipeline.prepare import sampled_layers
from rcnas_edge.profile import Profile, Target, cache_path, list_profiles, machine

PASSES = 9
"""Over the table, at most: what the budget leaves room for."""
CALIBRATION, CHECK = 40, 120
"""Whole networks that fix overhead and scale, and others that the predictions are held against."""
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def measure_here(
    name: str,
    advance: Advance,
    *,
    family: str = "wrn",
    base: str | None = None,
    image: str = "3x32x32",
    classes: int = 10,
    precision: str = "fp32",
    threads: int = 1,
    budget: str = "5min",
    anew: bool = False,
) -> tuple[Profile, Path]:
    """Measure a profile of this machine for the students of the network `base` on images "CxHxW"; and where it is kept.

    `family` is one, or `all`; `base` its largest student, the family's default network if None. `budget` is the time
    that it may take. What the profile has already is kept, so that a killed call goes on; `anew` begins
    again, with the rows of all precisions and threads.
    """
    seconds = seconds_of(budget)
    covered = spaces(family, base, image, classes).values()
    networks = [layers for space in covered for layers in sampled_layers(space, 0)]
    new = Profile(name, machine()["cpu"], runtime_here(), on_first_use=True)
    known = {found.name: found for found in list_profiles()}.get(Target(name, precision, threads).profile, new)
    if not known.on_first_use:
        raise InputError(
            f"a profile that is measured here is of this machine, {name!r} is another device: take --name host, or a "
            "name of your own"
        )
    path = cache_path(name)
    if anew:
        path.unlink(missing_ok=True)
        known = {found.name: found for found in list_profiles()}.get(name, new)
    found = measure_profile(
        name,
        networks,
        precision=precision,
        threads=threads,
        budget_seconds=seconds,
        passes=PASSES,
        calibration=CALIBRATION,
        check=CHECK,
        base=known,
        progress=lambda text, share: advance(share, text),
        path=path,
    )
    return found, path


def seconds_of(text: str) -> float:
    """Seconds of a time that is written "90s", "10min" or "1h"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text)
    seconds = float(match[1]) * UNITS[match[2]] if match and match[2] in UNITS else math.nan
    if not 1 <= seconds <= 86400:
        raise InputError(f"--budget is a time between 1s and 24h, as 90s, 10min or 1h, got {text!r}")
    return seconds
