"""What every network's configuration has in common: image, classes and normalisation, and its form as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from rcnas_edge.errors import InputError
from rcnas_edge.space import Shape

Config = TypeVar("Config")

MOST, MOST_BLOCKS = 100_000, 1_000
"""Of any number of a configuration (channels, pixels, classes), and of the blocks of a stage."""


def check_frame(image: Shape, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise InputError unless images (C, H, W) of at least one pixel are normalised and told into two classes or more.

    `mean` and `std` are per channel, of pixels in [0, 1].
    """
    if len(image) != 3 or min(image) < 1:
        raise InputError(f"an image is (channels, height, width), each at least 1, got {image}")
    if classes < 2:
        raise InputError(f"a classifier has at least two classes, got {classes}")
    if not len(mean) == len(std) == image[0] or min(std) <= 0:
        raise InputError(f"mean and std (> 0) have one value per channel, got {mean} and {std}")


def to_values(config: Any) -> dict[str, Any]:
    """A configuration (a dataclass) as plain JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}


def from_values(made: type[Config], values: Mapping[str, Any], called: str) -> Config:
    """The opposite of `to_values`; InputError on a missing, unknown or ill-typed value, as of `called` ("a WRN")."""
    known = {field.name for field in fields(made)}  # type: ignore[arg-type]
    names = ", ".join(sorted(known))
    if set(values) - known:
        raise InputError(f"{called} has the values {names}, got also {', '.join(sorted(set(values) - known))}")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for field in fields(made):  # type: ignore[arg-type]
        most = MOST_BLOCKS if field.name == "depths" else MOST
        if field.name in given and not _fits(str(field.type), given[field.name], most):
            raise InputError(
                f"{called} has {field.name} of type {field.type}, of at most {most}, got {repr(given[field.name])[:80]}"
            )
    try:
        return made(**given)
    except TypeError as error:
        raise InputError(f"{called} has the values {names}: {error}") from error


def _fits(kind: str, value: Any, most: int) -> bool:
    """Whether a value is of the type that a field is declared with."""
    if kind == "Shape":
        kind = "tuple[int, ...]"
    if kind.startswith("tuple["):
        inner = kind.removeprefix("tuple[").partition(",")[0]
        return isinstance(value, tuple) and all(_fits(inner, one, most) for one in value)
    if kind in ("int", "float"):
        numbers = int if kind == "int" else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool) and abs(value) <= most
    return isinstance(value, {"bool": bool, "str": str}.get(kind, object))
