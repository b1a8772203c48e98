"""A judge that trains nothing, for what is left of a search without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rcnas_edge.search.protocol import Score
from rcnas_edge.space import Architecture


class EvenJudge:
    """Every network is as good, at once."""

    digest = "even"

    def __call__(self, architecture: Architecture) -> Score:
        return Score(0.5, 0.5, 1, self.digest)

    def prepare(self) -> None:
        """Nothing to prepare."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
