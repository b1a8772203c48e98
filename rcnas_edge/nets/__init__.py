"""Network families: each describes its networks as rows, builds them in torch and cuts students out of teachers.

A family is a plugin (entry point group `rcnas_edge.families`); `family(name)` finds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from rcnas_edge import plugins
from rcnas_edge.errors import InputError
from rcnas_edge.space import Layer, Shape, Space

if TYPE_CHECKING:
    import torch


class NetworkConfig(Protocol):
    """Everything that is needed to build one network, as a frozen value."""

    @property
    def image(self) -> Shape:
        """(C, H, W)."""

    @property
    def classes(self) -> int:
        """How many it tells apart, the length of the logits."""

    @property
    def name(self) -> str:
        """What people call this network, e.g. `wrn-28-10`."""

    def stages(self) -> list[dict[str, Any]]:
        """Per stage `name`, `depth` (blocks), `width` (channels) and `block` (its kind), for people."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the opposite of `Family.config`."""


class Family(Protocol):
    """A family of networks that students can be drawn from. Only `build` and `inherit` need torch.

    `networks` tells people which names there are. `published_moments` is the (mean, std) per channel of pixels in
    [0, 1] that weights published for the family expect; None where they are normalised as the data is.
    """

    name: str
    default_network: str
    networks: str
    published_moments: tuple[tuple[float, ...], tuple[float, ...]] | None

    def network(
        self, name: str, *, image: Shape, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> NetworkConfig:
        """The configuration of a network by name; InputError says which names there are."""

    def config(self, values: Mapping[str, Any]) -> NetworkConfig:
        """A configuration from its JSON values; InputError names what is wrong."""

    def layers(self, config: NetworkConfig) -> tuple[Layer, ...]:
        """The rows of the network."""

    def build(self, config: NetworkConfig) -> torch.nn.Module:
        """The network, on images (N, C, H, W) in [0, 1], with fresh weights."""

    def space(self, base: NetworkConfig) -> Space:
        """The sub-networks of a base network."""

    def inherit(
        self,
        student: torch.nn.Module,
        student_config: NetworkConfig,
        parent: torch.nn.Module,
        parent_config: NetworkConfig,
    ) -> float:
        """Copy importance-ordered slices of the parent's weights; returns the share of the student that was copied."""


OWED = (
    "name",
    "default_network",
    "networks",
    "published_moments",
    "network",
    "config",
    "layers",
    "build",
    "space",
    "inherit",
)
"""What a `Family` has."""


def families() -> tuple[Family, ...]:
    """Every family that is registered, by name."""
    return tuple(_checked(name, kind) for name, kind in plugins.load_all(plugins.FAMILIES))


def family(name: str) -> Family:
    """The family registered under a name; InputError lists what there is."""
    return _checked(name, plugins.load(plugins.FAMILIES, name))


def _checked(name: str, kind: Any) -> Family:
    """The family itself; InputError unless it has all that a family owes, and the name that it is found by."""
    plugins.check_owed(kind, OWED, f"the family {name!r}")
    if kind.name != name:
        raise InputError(f"a family is registered under its own name, {kind.name!r} is registered as {name!r}")
    return kind
