"""MobileNetV2 as torchvision builds it, as values and layer rows, without torch.

Sandler et al., CVPR 2018 (arXiv 1801.04381, Table 2). A block adds its input unless it opens its stage; torchvision's
rule (equal shapes) is the same for its networks of width 0.3 and more. Ours: the small stem, for images below 64
pixels, strides in the first convolution and in the second stage by 1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rcnas_edge.errors import InputError
from rcnas_edge.nets.frame import check_frame, from_values, to_values
from rcnas_edge.nets.rows import RowWriter
from rcnas_edge.nets.stems import STEMS, check_stem, default_stem, stem_suffix
from rcnas_edge.space import IMAGE, Layer, Shape

STRIDES = {"imagenet": (1, 2, 2, 2, 1, 2, 1), "small": (1, 1, 2, 2, 1, 2, 1)}
STEM_STRIDES = {"imagenet": 2, "small": 1}
DEPTHS = (1, 2, 3, 4, 3, 3, 1)
WIDTHS = (16, 24, 32, 64, 96, 160, 320)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
CHANNEL_MULTIPLE = 8
LEAST_MULTIPLIER = 0.3
NETWORKS = "mobilenet-v2, mobilenet-v2-W (W times as wide, as mobilenet-v2-0.5)"


def divisible(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and not below 0.9 of the channels; torchvision's rule."""
    nearest = max(CHANNEL_MULTIPLE, int(channels + CHANNEL_MULTIPLE / 2) // CHANNEL_MULTIPLE * CHANNEL_MULTIPLE)
    return nearest + CHANNEL_MULTIPLE if nearest < 0.9 * channels else nearest


@dataclass(frozen=True)
class MobileNetConfig:
    """A MobileNetV2: blocks, channels and expansion per stage, channels of stem and head, and the kind of stem.

    `image` is (C, H, W); `mean` and `std` (per channel, of pixels in [0, 1]) are applied inside the network.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    expansions: tuple[int, ...]
    image: Shape
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stem_channels: int = STEM_CHANNELS
    head_channels: int = HEAD_CHANNELS
    stem: str = "imagenet"
    stem_stride: int = 2

    def __post_init__(self) -> None:
        for label in ("depths", "widths", "expansions"):
            if len(getattr(self, label)) != len(DEPTHS):
                raise InputError(f"a MobileNetV2 has {len(DEPTHS)} stages, got {label} {getattr(self, label)}")
        numbers = (*self.depths, *self.widths, *self.expansions)
        if min(*numbers, self.stem_channels, self.head_channels, self.stem_stride) < 1:
            raise InputError(f"depths, widths, expansions and stem of a MobileNetV2 are at least 1, got {self}")
        check_stem(self.stem)
        check_frame(self.image, self.classes, self.mean, self.std)

    @property
    def name(self) -> str:
        """`mobilenet-v2` or `mobilenet-v2-W` where it is one, else its depths, widths and expansions."""
        suffix, multiplier = stem_suffix(self.stem, self.image), self.head_channels / HEAD_CHANNELS
        for candidate in dict.fromkeys((1.0, round(multiplier, 4), *PUBLISHED_MULTIPLIERS)):
            if candidate >= LEAST_MULTIPLIER and self._shape() == _shape(candidate, self.stem):
                return "mobilenet-v2" + ("" if candidate == 1 else f"-{candidate:g}") + suffix
        numbers = ".".join(map(str, (self.stem_channels, *self.widths, self.head_channels)))
        depths, expansions = (".".join(map(str, each)) for each in (self.depths, self.expansions))
        return f"mobilenet-v2 d{depths} w{numbers} e{expansions}{suffix}"

    def _shape(self) -> tuple[Any, ...]:
        return (
            self.depths,
            self.widths,
            self.expansions,
            self.stem_channels,
            self.head_channels,
            self.stem_stride,
        )

    def stages(self) -> list[dict[str, Any]]:
        """Per stage its name, blocks, channels and kind of block, for people."""
        return [
            {"name": f"stage {index}", "depth": depth, "width": width, "block": f"inverted x{expansion}"}
            for index, (depth, width, expansion) in enumerate(
                zip(self.depths, self.widths, self.expansions, strict=True), start=1
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MobileNetConfig:
        """The opposite of `to_dict`; InputError on a missing, unknown or ill-typed value."""
        return from_values(cls, values, "a MobileNetV2")


PUBLISHED_MULTIPLIERS = (0.35, 0.5, 0.75, 1.3, 1.4)
"""Of the paper, beside 1."""


def _shape(multiplier: float, stem: str) -> tuple[Any, ...]:
    """Depths, widths, expansions, channels of stem and head, stem stride of a width multiplier."""
    widths = tuple(divisible(width * multiplier) for width in WIDTHS)
    head = divisible(HEAD_CHANNELS * max(1.0, multiplier))
    return DEPTHS, widths, EXPANSIONS, divisible(STEM_CHANNELS * multiplier), head, STEM_STRIDES[stem]


def network(
    name: str, *, image: Shape, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> MobileNetConfig:
    """`mobilenet-v2` or `mobilenet-v2-W`, W times as wide; `-imagenet` or `-small` behind it asks for that stem."""
    match = re.fullmatch(rf"mobilenet-?v2(?:-(\d+(?:\.\d+)?))?(?:-({'|'.join(STEMS)}))?", name.lower())
    if not match:
        raise InputError(
            f"a network of the family mobilenet is {NETWORKS}, with -imagenet or -small behind it to choose the stem, "
            f"got {name!r}"
        )
    multiplier = float(match[1] or 1)
    if multiplier < LEAST_MULTIPLIER:
        raise InputError(f"a MobileNetV2 is at least {LEAST_MULTIPLIER} times as wide as the published, got {name!r}")
    stem = match[2] or default_stem(image)
    depths, widths, expansions, stem_channels, head_channels, stem_stride = _shape(multiplier, stem)
    return MobileNetConfig(
        depths,
        widths,
        expansions,
        image=image,
        classes=classes,
        mean=mean,
        std=std,
        stem_channels=stem_channels,
        head_channels=head_channels,
        stem=stem,
        stem_stride=stem_stride,
    )


@lru_cache(maxsize=4096)
def rows(config: MobileNetConfig) -> tuple[Layer, ...]:
    """The layers in the order of execution; names are the module paths of the built network, torchvision's own."""
    write = RowWriter(config.image)
    out = write.elementwise("normalize", "normalize", IMAGE)
    out = _normalised(write, "features.0", out, config.stem_channels, kernel=3, stride=config.stem_stride)
    place = 0
    strides = STRIDES[config.stem]
    for depth, width, expansion, stride in zip(config.depths, config.widths, config.expansions, strides, strict=True):
        for block in range(depth):
            place += 1
            made = _block(write, f"features.{place}", out, width, expansion, stride if block == 0 else 1)
            out = made if block == 0 else write.elementwise(f"features.{place}.add", "add", out, made)
    out = _normalised(write, f"features.{place + 1}", out, config.head_channels, kernel=1)
    write.linear("classifier.1", write.global_pool("pool", out), config.classes, bias=True)
    return tuple(write.rows)


def _normalised(
    write: RowWriter, path: str, source: int, channels: int, *, kernel: int, stride: int = 1, groups: int = 1
) -> int:
    """Convolution, batch normalisation and ReLU6."""
    out = write.convolution(f"{path}.0", source, channels, kernel=kernel, stride=stride, groups=groups)
    return write.elementwise(f"{path}.2", "relu6", write.elementwise(f"{path}.1", "batchnorm", out))


def _block(write: RowWriter, path: str, source: int, width: int, expansion: int, stride: int) -> int:
    """1x1 expansion (none by 1), 3x3 depthwise, 1x1 projection without activation."""
    hidden, place, out = write.shape(source)[0] * expansion, 0, source
    if expansion != 1:
        out, place = _normalised(write, f"{path}.conv.0", out, hidden, kernel=1), 1
    out = _normalised(write, f"{path}.conv.{place}", out, hidden, kernel=3, stride=stride, groups=hidden)
    out = write.convolution(f"{path}.conv.{place + 1}", out, width, kernel=1)
    return write.elementwise(f"{path}.conv.{place + 2}", "batchnorm", out)
