"""What the numbers of a profile are for: elsewhere a prediction is a guess, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rcnas_edge.profile.bounds import check_count, check_list, check_size
from rcnas_edge.space import IMAGE, Layer


@dataclass(frozen=True)
class Domain:
    """What the numbers of a profile are for: images "HxW" (none: of any size), and images in a batch."""

    images: tuple[str, ...] = ()
    batch: int = 1

    def __post_init__(self) -> None:
        if self.images:
            for image in check_list("domain images", self.images):
                check_size("domain images", image)
        check_count("domain batch", self.batch, most=100_000)

    def outside(self, image: str) -> str:
        """Why a prediction for one image of this size, "HxW", is outside of it; empty inside."""
        if self.images and image not in self.images:
            return f"images of {image}, its numbers are for {', '.join(self.images)}"
        return f"a single image, its numbers are for batches of {self.batch}" if self.batch != 1 else ""


def image_size(layers: Sequence[Layer]) -> str:
    """HxW of the image that the rows read."""
    _, height, width = next(layer.inputs for layer in layers if layer.reads[0] == IMAGE)
    return f"{height}x{width}"
