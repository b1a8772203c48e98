"""What a device is: which kernels its runtime makes of a network, how long each takes, and where numbers are from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.fusion import DEPTHWISE, RUNTIMES, Kernel, Key, kernels
from rcnas_edge.rates import Rates
from rcnas_edge.space import IMAGE, Layer
from rcnas_edge.table import Table

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Target:
    """Where a network runs: a profile, a precision and a number of threads; written host/fp32/1."""

    profile: str = "host"
    precision: str = "fp32"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"a precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.threads < 1:
            raise InputError(f"a target has at least one thread, got {self.threads}")
        if not self.profile or "/" in self.profile:
            raise InputError(f"a profile's name is not empty and has no '/', got {self.profile!r}")

    @property
    def setting(self) -> str:
        """Precision and threads, the part that a profile's tables are keyed by: fp32/1."""
        return f"{self.precision}/{self.threads}"

    def __str__(self) -> str:
        return f"{self.profile}/{self.setting}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """A target from `profile`, `profile/precision` or `profile/precision/threads`."""
        parts = text.split("/")
        if len(parts) > 3 or (len(parts) == 3 and not parts[2].isdecimal()):
            raise InputError(f"a target is profile/precision/threads, as host/fp32/1, got {text!r}")
        precision = parts[1] if len(parts) > 1 else cls.precision
        return cls(parts[0], precision, int(parts[2]) if len(parts) > 2 else cls.threads)


COLUMNS = ("precision", "threads", *Key._fields, "channels_in", "channels_out", "ms")
"""Of a table on disk."""


@dataclass(frozen=True)
class Row:
    """One measured kernel: its key, its channels, its time in ms for one image."""

    precision: str
    threads: int
    key: Key
    channels_in: int
    channels_out: int
    ms: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ms) and self.ms > 0):
            raise InputError(f"a latency is a positive number of ms, the row {self.kernel} has {self.ms}")
        _, _, kernel, stride, groups, height, width, *channels = self.kernel
        if min(kernel, stride, height, width, *channels, self.threads) < 1 or (groups < 1 and groups != DEPTHWISE):
            raise InputError(
                "kernel, stride, sizes, channels and threads are at least 1, groups too or -1 (depthwise), the row "
                f"{self.kernel} with {self.threads} threads is not"
            )

    @property
    def setting(self) -> str:
        return f"{self.precision}/{self.threads}"

    @property
    def kernel(self) -> Kernel:
        return (*self.key, self.channels_in, self.channels_out)

    @property
    def cells(self) -> tuple[Any, ...]:
        """The row in the order of COLUMNS."""
        return (self.precision, self.threads, *self.kernel, self.ms)


@dataclass(frozen=True)
class Profile:
    """A device with its latency table.

    `overhead_ms` (of a call, without kernels) and `scale` (whole networks against the sum of their kernels) are
    keyed by "precision/threads/HxW" of the image, and by "precision/threads" for any other image; so is `streaming`,
    (megabytes of weights that stay in the cache, ms per megabyte of a network's weights beyond). `provenance` has
    one entry per measurement: when, where, with what, how steadily.
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
    provenance: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    description: str = ""
    on_first_use: bool = False

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise InputError(f"a profile's name is not empty and has no '/', got {self.name!r}")
        if self.runtime not in RUNTIMES:
            raise InputError(f"a profile's runtime is one of {', '.join(RUNTIMES)}, {self.name!r} has {self.runtime!r}")
        for setting, value in self.overhead_ms.items():
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"an overhead is finite and not negative, {setting} has {value}")
        for setting, value in self.scale.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"a scale is finite and above 0, {setting} has {value}")
        for setting, pair in self.streaming.items():
            if len(pair) != 2 or not all(math.isfinite(value) and value >= 0 for value in pair):
                raise InputError(f"streaming is MB of cache and ms per MB beyond, not negative, {setting} has {pair}")

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
                f"a latency comes from measured rows, the profile {self.name!r} has "
                f"{', '.join(self.tables) or 'none'} but not {setting}: measure it on the device first"
            )
        measured = estimated = 0.0
        lookup = table.lookup
        for kernel, _ in kernels(layers, self.runtime):
            ms, known = lookup(kernel)
            if known:
                measured += ms
            else:
                estimated += ms
        scale, overhead = self.scale_and_overhead(layers, setting)
        total = overhead + scale * (measured + estimated)
        return total, 1.0 - scale * estimated / total if table.surfaces else 0.0

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
        content = [self.runtime, sorted(row.cells for row in self.rows), dict(self.overhead_ms), dict(self.scale)]
        content += [dict(self.streaming)] if self.streaming else []
        content += [{setting: dict(rates.by_operation) for setting, rates in self.rates.items()}] if self.rates else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def megabytes_of_weights(layers: Sequence[Layer]) -> float:
    """What the weights of convolutions and linear layers take in fp32, in MB (10^6 bytes)."""
    return 4e-6 * sum(layer.parameters for layer in layers if layer.kind in ("conv", "linear"))


def image_size(layers: Sequence[Layer]) -> str:
    """HxW of the image that the rows read."""
    _, height, width = next(layer.inputs for layer in layers if layer.reads[0] == IMAGE)
    return f"{height}x{width}"
