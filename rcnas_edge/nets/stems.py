"""Two kinds of stem for torchvision's networks: their own for large images, one with fewer strides for small ones."""

from __future__ import annotations

from rcnas_edge.errors import InputError
from rcnas_edge.nets.ratios import LARGE_IMAGE
from rcnas_edge.space import Shape

STEMS = ("imagenet", "small")

IMAGENET_MOMENTS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation per RGB channel that torchvision's published weights expect."""


def check_stem(stem: str) -> None:
    """Raise InputError for a kind of stem that there is not."""
    if stem not in STEMS:
        raise InputError(f"a stem is one of {', '.join(STEMS)}, got {stem!r}")


def default_stem(image: Shape) -> str:
    """torchvision's own, or the small one for images below 64 pixels, which its strides would leave nothing of."""
    return "small" if min(image[1:]) < LARGE_IMAGE else "imagenet"


def stem_suffix(stem: str, image: Shape) -> str:
    """What a network's name says of its stem: nothing where it is the image's default."""
    return "" if stem == default_stem(image) else f"-{stem}"
