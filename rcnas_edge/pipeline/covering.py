"""Which networks a table is made to cover: the students of a family's largest network, on images of one size."""

from __future__ import annotations

import re

from rcnas_edge.errors import InputError
from rcnas_edge.nets import families, family
from rcnas_edge.space import Shape, Space

ALL_FAMILIES = "all"
"""In the place of a family's name: every one that is registered."""


def spaces(kind: str, base: str | None, image: str, classes: int) -> dict[str, Space]:
    """By the name of its largest network each space that is to be covered, for images "CxHxW".

    `kind` is a family, `base` one of its networks, its default one if None; the family `all` stands for each of them.
    """
    shape = shape_of(image)
    if kind == ALL_FAMILIES and base is not None:
        raise InputError(f"--base is a network of one family, got {base!r} with --family {ALL_FAMILIES}: leave it out")
    mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
    found: dict[str, Space] = {}
    for each in families() if kind == ALL_FAMILIES else (family(kind),):
        largest = each.network(base or each.default_network, image=shape, classes=classes, mean=mean, std=std)
        found[largest.name] = each.space(largest)
    return found


def shape_of(image: str) -> Shape:
    """(C, H, W) of an image that is written "CxHxW"."""
    sizes = image.split("x")
    if len(sizes) != 3 or not all(re.fullmatch("[1-9][0-9]{0,4}", size) for size in sizes):
        raise InputError(f"--image is channels x height x width, as 3x32x32, got {image!r}")
    channels, height, width = map(int, sizes)
    return channels, height, width
