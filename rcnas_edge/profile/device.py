"""What a device is: which kernels its runtime makes of a network, how long each takes, and where numbers are from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.profile import bounds, provenance
from rcnas_edge.profile.bounds import PRECISIONS
from rcnas_edge.profile.domain import Domain, image_size
from rcnas_edge.profile.fusion import RUNTIMES, Key, kernels, kernels_of
from rcnas_edge.profile.rates import Rates
from rcnas_edge.profile.row import Row
from rcnas_edge.profile.table import Table
from rcnas_edge.profile.target import Target
from rcnas_edge.profile.validation import check_validation
from rcnas_edge.space import Layer

MEGABYTE = 1e6
"""Bytes of a MB."""


@dataclass(frozen=True)
class Profile:
    """A device with what is known of the time that kernels take on it.

    `rows` are measured kernels, `rates` by "precision/threads" the time of the others; numbers are for `domain`.
    `overhead_ms` (of a call, without kernels) and `scale` (whole networks against the sum of their kernels) are
    keyed by "precision/threads/HxW" of the image, and by "precision/threads" for any other image; so is `streaming`,
    (megabytes of weights that stay in the cache, ms per megabyte of a network's weights beyond). `memory_mb` and
    `disk_mb` (10^6 bytes) are what a network may take at most. `validation` says by the same keys how predictions of
    whole networks compared with their times, `provenance` where each number is from.
    """

    name: str
    vendor: str
    runtime: str
    precisions: tuple[str, ...] = ("fp32",)
    threads: tuple[int, ...] = (1,)
    rows: tuple[Row, ...] = field(default=(), repr=False)
    rates: Mapping[str, Rates] = field(default_factory=dict, repr=False)
    overhead_ms: Mapping[str, float] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    streaming: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    domain: Domain = field(default_factory=Domain)
    memory_mb: float | None = None
    disk_mb: float | None = None
    validation: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    provenance: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    description: str = ""
    on_first_use: bool = False

    def __post_init__(self) -> None:
        bounds.check_name(self.name)
        bounds.check_words("vendor", self.vendor)
        bounds.check_words("description", self.description, empty=True)
        bounds.check_choice("runtime", self.runtime, RUNTIMES)
        bounds.check_flag("on_first_use", self.on_first_use)
        for precision in bounds.check_list("precisions", self.precisions):
            bounds.check_choice("precisions", precision, PRECISIONS)
        for threads in bounds.check_list("threads", self.threads):
            bounds.check_count("threads", threads, most=bounds.MOST_THREADS)
        for key in ("memory_mb", "disk_mb"):
            if getattr(self, key) is not None:
                bounds.check_number(key, getattr(self, key), least=1e-6, most=1e9)
        self._check_calibration()
        check_validation(self.validation)
        provenance.check_entries(self.provenance)
        for setting, rates in bounds.check_mapping("rates", self.rates).items():
            bounds.check_setting("rates", setting)
            _check_kind(f"rates of {setting}", rates, Rates)
        _check_kind("domain", self.domain, Domain)
        if not isinstance(self.rows, (list, tuple)):
            raise bounds.refuse("rows", "a list of rows", self.rows)
        self._check_rows()

    def _check_calibration(self) -> None:
        for key, least in (("overhead_ms", 0.0), ("scale", 1e-6)):
            for setting, value in bounds.check_mapping(key, getattr(self, key)).items():
                bounds.check_setting(key, setting, sized=True)
                bounds.check_number(f"{key} of {setting}", value, least=least)
        for setting, pair in bounds.check_mapping("streaming", self.streaming).items():
            bounds.check_setting("streaming", setting, sized=True)
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise bounds.refuse(f"streaming of {setting}", "[MB of cache, ms per MB beyond]", pair)
            for value in pair:
                bounds.check_number(f"streaming of {setting}, [MB of cache, ms per MB beyond],", value)

    def _check_rows(self) -> None:
        """Every kernel once, and every setting among the precisions and threads."""
        seen: set[Any] = set()
        for row in self.rows:
            _check_kind("each of the rows", row, Row)
            before = len(seen)
            seen.add((row.precision, row.threads, row.kernel))
            if len(seen) == before:
                raise InputError(
                    f"a table has a kernel once, {', '.join(map(str, row.cells[:-1]))} is twice there: remove one"
                )
        for setting in self.settings:
            precision, threads = setting.split("/")
            if precision not in self.precisions or int(threads) not in self.threads:
                raise InputError(
                    f"precisions and threads are those of the numbers, there are numbers of {setting} but precisions "
                    f"are {', '.join(self.precisions)} and threads {', '.join(map(str, self.threads))}: add them"
                )

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """The settings ("fp32/1") that latencies are known for, measured ones first."""
        return tuple(dict.fromkeys([*(row.setting for row in self.rows), *self.rates]))

    @property
    def groups(self) -> tuple[str, ...]:
        """Which groups of numbers there are, of `provenance.GROUPS`."""
        there = {
            provenance.TABLE: self.rows,
            provenance.RATES: self.rates,
            provenance.OVERHEAD: (*self.overhead_ms, *self.scale, *self.streaming),
            provenance.LIMITS: self.limits,
        }
        return tuple(group for group, numbers in there.items() if numbers)

    @property
    def limits(self) -> dict[str, float]:
        """What a network may take at most on the device, in bytes by quantity (`cost.QUANTITIES`)."""
        known = {"memory": self.memory_mb, "size": self.disk_mb}
        return {quantity: MEGABYTE * value for quantity, value in known.items() if value is not None}

    def check_provenance(self) -> None:
        """Raise InputError unless every number says where it is from; files and plugins owe that."""
        provenance.check_complete(self.provenance, self.groups, self.runtime)

    def origin(self, target: Target) -> str:
        """One line for people: where the latencies for a target are from."""
        if not self.covers(target):
            return "measured on first use" if self.on_first_use else "not measured, no latencies"
        table = any(row.setting == target.setting for row in self.rows)
        groups = [provenance.TABLE] if table else []
        groups += [provenance.RATES] if target.setting in self.rates else []
        return provenance.origin(self.provenance, target.setting, groups)

    @property
    def origins(self) -> dict[str, tuple[str, ...]]:
        """Every different origin with the settings that share it; a profile without numbers has the one of none."""
        found: dict[str, tuple[str, ...]] = {}
        for setting in self.settings:
            words = self.origin(Target.parse(f"{self.name}/{setting}"))
            found[words] = (*found.get(words, ()), setting)
        return found or {self.origin(Target(self.name)): ()}

    def outside(self, layers: Sequence[Layer]) -> str:
        """Why predictions for a network count as not measured, in a sentence; empty where they are in the domain."""
        why = self.domain.outside(image_size(layers))
        return f"the profile {self.name!r} is asked for {why}: its latencies count as not measured" if why else ""

    @cached_property
    def tables(self) -> Mapping[str, Table]:
        """The table of each setting ("fp32/1") that has rows or rates."""
        surfaces: dict[str, dict[Key, dict[tuple[int, int], float]]] = {setting: {} for setting in self.rates}
        for row in self.rows:
            points = surfaces.setdefault(row.setting, {}).setdefault(row.key, {})
            points[row.channels_in, row.channels_out] = row.ms
        return {
            setting: Table(of_setting, self.rates[setting].of if setting in self.rates else None)
            for setting, of_setting in surfaces.items()
        }

    def covers(self, target: Target) -> bool:
        """Whether there are latencies for the precision and threads of a target."""
        return target.setting in self.tables

    def latency(self, layers: Sequence[Layer], target: Target) -> tuple[float, float]:
        """Predicted ms for one image, and the share of it that rests on measured rows inside their grid."""
        setting = target.setting
        table = self.tables.get(setting)
        if table is None:
            raise InputError(
                f"a latency comes from rows or rates, the profile {self.name!r} has "
                f"{', '.join(self.tables) or 'none'} but not {setting}: measure it on the device first"
            )
        measured = estimated = 0.0
        lookup = table.lookup
        for kernel, _ in kernels(layers, kernels_of(self.runtime, target.precision)):
            ms, known = lookup(kernel)
            if known:
                measured += ms
            else:
                estimated += ms
        scale, overhead = self.scale_and_overhead(layers, setting)
        total = overhead + scale * (measured + estimated)
        return total, 1.0 - scale * estimated / total if self.measures(layers, setting) else 0.0

    def measures(self, layers: Sequence[Layer], setting: str) -> bool:
        """Whether a prediction can rest on measured rows: there are some, and the image is in the domain.

        A table of which provenance says that it is an estimate is none.
        """
        kind = provenance.kind_of(self.provenance, setting, provenance.TABLE)
        return bool(self.tables[setting].surfaces) and kind != provenance.ESTIMATE and not self.outside(layers)

    def scale_and_overhead(self, layers: Sequence[Layer], setting: str) -> tuple[float, float]:
        """Whole networks of this image size against the sum of their kernels, and the ms beside: of a call without
        kernels, and of weights that have to be read from memory.
        """
        sized = f"{setting}/{image_size(layers)}"
        scale = self.scale.get(sized, self.scale.get(setting, 1.0))
        overhead = self.overhead_ms.get(sized, self.overhead_ms.get(setting, 0.0))
        streaming = self.streaming.get(setting) if sized not in self.scale else self.streaming.get(sized)
        if streaming:
            cache, ms_per_megabyte = streaming
            overhead += ms_per_megabyte * max(0.0, megabytes_of_weights(layers) - cache)
        return scale, overhead

    def digest(self) -> str:
        """Short digest of everything that a latency depends on; provenance and descriptions are not part of it."""
        content: list[Any] = [
            self.runtime,
            sorted(row.cells for row in self.rows),
            dict(self.overhead_ms),
            dict(self.scale),
        ]
        content += [dict(self.streaming)] if self.streaming else []
        content += [{setting: dict(rates.by_operation) for setting, rates in self.rates.items()}] if self.rates else []
        content += [[self.domain.images, self.domain.batch]] if self.domain != Domain() else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _check_kind(key: str, value: object, kind: type) -> None:
    """Raise unless a part of a profile made in Python is of its class, which checks its values."""
    if not isinstance(value, kind):
        raise bounds.refuse(key, f"a value of {kind.__name__}", value)


def megabytes_of_weights(layers: Sequence[Layer]) -> float:
    """What the weights of convolutions and linear layers take in fp32, in MB (10^6 bytes)."""
    return 4e-6 * sum(layer.parameters for layer in layers if layer.kind in ("conv", "linear"))
