"""Where the cost of a network lies: its MACs, parameters and predicted milliseconds, kernel by kernel.

The kernels are those that the runtime of the profile fuses, so that the parts add up to what `cost_of` says of the
whole. Fewer MACs need not be less time: a reordering has none, and small convolutions keep a processor waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rcnas_edge.profile import Group, Profile, Target, fuse
from rcnas_edge.profile.fusion import kernels_of
from rcnas_edge.space import Layer

OVERHEAD = "overhead"
"""The kind, and the name, of the part that no kernel has: the call of the runtime."""


@dataclass(frozen=True)
class Part:
    """One kernel for one image: `latency_ms` is None without a table, `measured` says that it rests on rows alone."""

    name: str
    kind: str
    macs: int
    params: int
    latency_ms: float | None
    measured: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def breakdown(layers: Sequence[Layer], profile: Profile, target: Target) -> tuple[Part, ...]:
    """The kernels of a network in the order in which they are found, and the overhead of a call."""
    groups = fuse(layers, kernels_of(profile.runtime, target.precision))
    table = profile.tables.get(target.setting)
    measures = table is not None and profile.measures(layers, target.setting)
    scale, overhead = profile.scale_and_overhead(layers, target.setting)
    parts = []
    for index, group in enumerate(groups):
        ms, known = (None, None)
        if table is not None:
            ms, inside = table.lookup((*group.key, group.channels_in, group.channels_out))
            known = inside and measures
        parts.append(
            Part(
                _name(groups, index),
                "+".join((group.key.operation, *group.fused)),
                sum(layer.macs for layer in group.layers),
                sum(layer.parameters for layer in group.layers),
                None if ms is None else scale * ms,
                known,
            )
        )
    if table is not None:
        parts.append(Part(OVERHEAD, OVERHEAD, 0, 0, overhead, measures))
    return tuple(parts)


def _name(groups: Sequence[Group], index: int) -> str:
    """Of its first row; a reordering has none and stands with the kernel that it is for."""
    group = groups[index]
    if group.layers:
        return group.layers[0].name
    beside = next((other for other in (*groups[index:], *reversed(groups[:index])) if other.layers), None)
    block, dot, _ = beside.layers[0].name.rpartition(".") if beside else ("", "", "")
    return f"{block}{dot}{group.key.operation}"
