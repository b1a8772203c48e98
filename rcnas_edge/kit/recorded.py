"""Makes a device profile of what a board wrote down: the analysis of this machine's measurements, on recorded times."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.kit import FIT
from rcnas_edge.kit.results import Results, Setting, read_results
from rcnas_edge.measure import Measurement
from rcnas_edge.measure.calibration import Pair
from rcnas_edge.measure.planning import ordered
from rcnas_edge.profile import MEASURED_HERE, Profile, Target, cache_folder, cache_path, save_profile, validation
from rcnas_edge.profile.bounds import check_name
from rcnas_edge.profile.fusion import Kernel
from rcnas_edge.profile.provenance import UNKNOWN
from rcnas_edge.profile.table import Table

log = logging.getLogger(__name__)

HOST = "host"
"""The profile that is measured where it is used, and nowhere else."""


def import_results(path: Path, name: str, folder: Path | None = None) -> tuple[Profile, Path]:
    """The profile of a results.json under a name, and its file in `folder`, by default the cache of this machine."""
    check_name(name)
    if name == HOST:
        raise InputError(f"{HOST!r} is the machine that a profile is used on, a board has another name: take --name")
    if folder is None and (cache_path(name).exists() or MEASURED_HERE.fullmatch(name)):
        raise InputError(f"a board has a name of its own, {name!r} is of what was measured here: take another --name")
    profile = profile_of(read_results(path), name, str(path))
    return profile, save_profile(profile, cache_folder() if folder is None else folder)


def summary(profile: Profile, path: Path) -> list[str]:
    """Lines for people: the rows of each setting, and how its predictions of whole networks compare."""
    lines = [f"{profile.name}: {profile.runtime}, {profile.description}"]
    for setting in profile.settings:
        rows = sum(row.setting == setting for row in profile.rows)
        checks = [
            f"{key.removeprefix(setting).lstrip('/')}: {validation.words(numbers)}"
            for key, numbers in profile.validation.items()
            if key.split("/")[:2] == setting.split("/")
        ]
        entries = [entry for entry in profile.provenance if entry.get("setting") == setting]
        steady = "" if all(entry["stable"] for entry in entries) else "; UNSTEADY while it was measured"
        throttled = "; THROTTLED while it was measured" if any(entry.get("throttled") for entry in entries) else ""
        lines.append(
            f"{setting}: {rows} rows; {'; '.join(checks) or 'not checked on whole networks'}{steady}{throttled}"
        )
    return [*lines, f"{path}"]


def profile_of(results: Results, name: str, where: str = "results") -> Profile:
    """Rows from the kernels of each setting, a calibration from whole networks, and a check on others of them."""
    settings = [setting for setting in results.settings if setting.kernels]
    if not settings:
        raise InputError(f"a profile is made of timed kernels, {where} has none: let measure.py run longer")
    device = str(results.machine.get("gpu") or results.machine["cpu"])
    profile = Profile(
        name,
        device,
        results.runtime,
        threads=tuple(sorted(setting.threads for setting in settings)),
        description=f"{results.machine.get('board') or device}, by a kit of {results.kit['made_by']}",
    )
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings:
            profile = _measured(profile, results, setting, Path(folder) / f"{name}.toml")
    if not profile.rows:
        raise InputError(f"a profile has kernels that take a time above 0, {where} has none: measure again when idle")
    return profile


def _measured(profile: Profile, results: Results, setting: Setting, path: Path) -> Profile:
    """The profile with one more setting."""
    measurement = Measurement(
        profile,
        path,
        Target(profile.name, "fp32", setting.threads),
        setting,
        lambda label, share: None,
        lambda: facts(results, setting),
    )
    counts: Counter[Kernel] = Counter()
    for whole in results.networks.values():
        counts.update(whole.kernels)
    measurement.time_kernels(ordered(list(setting.kernels), counts, results.runtime), float("inf"))
    if not measurement.samples:
        return profile
    table = Table(measurement.surfaces)
    pairs: dict[str, dict[bool, list[Pair]]] = {}
    for network, ms in setting.networks.items():
        whole = results.networks[network]
        summed = sum(count * table.lookup(kernel)[0] for kernel, count in whole.kernels.items())
        of_size = pairs.setdefault(whole.image, {True: [], False: []})
        of_size[whole.role == FIT].append((summed, ms, whole.megabytes))
    for size, of_size in pairs.items():
        measurement.save(complete=True, size=size, fitted=of_size[True], held=of_size[False], seconds=setting.seconds)
    return measurement.profile


def facts(results: Results, setting: Setting) -> Mapping[str, Any]:
    """What provenance says of the board."""
    machine, seen = results.machine, dict(setting.seen)
    clocks = seen.pop("clocks_mhz", None)
    load = seen.pop("load", None)
    governor = f", governor {seen.pop('governor')}" if "governor" in seen else ""
    return {
        "source": machine.get("gpu") or machine.get("board") or machine["cpu"],
        "when": setting.when,
        **machine,
        "clocks": f"{clocks[0]:.0f} to {clocks[1]:.0f} MHz{governor}" if isinstance(clocks, list) else UNKNOWN,
        "load": load[1] if isinstance(load, list) else UNKNOWN,
        "kit": results.kit["digest"],
        **seen,
    }
