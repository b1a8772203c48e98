"""Whose state it is: a search continues only with the strategy and configuration it began with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rcnas_edge.errors import InputError


def identity(name: str, config: Any) -> dict[str, Any]:
    """The first two entries of every search's state; `config` is the strategy's frozen dataclass."""
    return {"strategy": name, "config": asdict(config)}


def require_own(state: Mapping[str, Any], name: str, config: Any) -> None:
    """InputError for the state of another strategy or configuration."""
    ours = identity(name, config)
    theirs = {key: state.get(key) for key in ours}
    if theirs != ours:
        raise InputError(
            f"a search resumes with the strategy and configuration it began with, {theirs}, got {ours}: "
            "begin a new run, or restore the old configuration"
        )
