"""Residual networks with normalisation after the convolution, as torchvision builds them, as values and layer rows.

He et al., CVPR 2016 (arXiv 1512.03385); the bottleneck strides in its 3x3 convolution, as torchvision's does
("ResNet v1.5"). The stem has as many channels as the first stage has planes, as all published ones have. Ours: the
small stem, a 3x3 convolution of stride 1 without pooling, taken by default below 64 pixels, where torchvision's
strides of 32 in all would leave a single pixel. No torch here.
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

STRIDES = (1, 2, 2, 2)
STEM_STRIDES = {"imagenet": 2, "small": 1}
EXPANSION = 4
"""Output channels of a bottleneck per plane."""
WIDTHS = (64, 128, 256, 512)
RESNETS = {  # blocks per stage, and whether they are bottlenecks; Table 1 of arXiv 1512.03385
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
NETWORKS = "resnet-" + ", -".join(map(str, RESNETS))


@dataclass(frozen=True)
class ResNetConfig:
    """A four-stage residual network: blocks and planes per stage, one kind of block, and the kind of stem.

    `image` is (C, H, W); `mean` and `std` (per channel, of pixels in [0, 1]) are applied inside the network.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    image: Shape
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stem: str = "imagenet"
    stem_stride: int = 2

    def __post_init__(self) -> None:
        for label in ("depths", "widths"):
            if len(getattr(self, label)) != 4:
                raise InputError(f"a ResNet has four stages, got {label} {getattr(self, label)}")
        if min(*self.depths, *self.widths, self.stem_stride) < 1:
            raise InputError(f"depths, widths and stem stride of a ResNet are at least 1, got {self}")
        check_stem(self.stem)
        check_frame(self.image, self.classes, self.mean, self.std)

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels per stage."""
        return tuple(planes * (EXPANSION if self.bottleneck else 1) for planes in self.widths)

    @property
    def name(self) -> str:
        """`resnet-18` where it is one, with the stem where that is not the image's default; else depths and widths."""
        suffix = stem_suffix(self.stem, self.image)
        for layers, (depths, bottleneck) in RESNETS.items():
            published = (depths, bottleneck, WIDTHS, STEM_STRIDES[self.stem])
            if (self.depths, self.bottleneck, self.widths, self.stem_stride) == published:
                return f"resnet-{layers}{suffix}"
        kind = "bottleneck" if self.bottleneck else "basic"
        return f"resnet d{'.'.join(map(str, self.depths))} w{'.'.join(map(str, self.widths))} {kind}{suffix}"

    def stages(self) -> list[dict[str, Any]]:
        """Per stage its name, blocks, planes and kind of block, for people."""
        kind = "bottleneck" if self.bottleneck else "basic"
        return [
            {"name": f"stage {index}", "depth": depth, "width": planes, "block": kind}
            for index, (depth, planes) in enumerate(zip(self.depths, self.widths, strict=True), start=1)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ResNetConfig:
        """The opposite of `to_dict`; InputError on a missing, unknown or ill-typed value."""
        return from_values(cls, values, "a ResNet")


def network(name: str, *, image: Shape, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> ResNetConfig:
    """`resnet-18`, -34, -50, -101 or -152; `-imagenet` or `-small` behind it asks for that stem."""
    match = re.fullmatch(rf"resnet-?(\d+)(?:-({'|'.join(STEMS)}))?", name.lower())
    if not match or int(match[1]) not in RESNETS:
        raise InputError(
            f"a network of the family resnet is {NETWORKS}, with -imagenet or -small behind it to choose the stem, "
            f"got {name!r}"
        )
    depths, bottleneck = RESNETS[int(match[1])]
    stem = match[2] or default_stem(image)
    return ResNetConfig(
        depths,
        WIDTHS,
        bottleneck,
        image=image,
        classes=classes,
        mean=mean,
        std=std,
        stem=stem,
        stem_stride=STEM_STRIDES[stem],
    )


@lru_cache(maxsize=4096)
def rows(config: ResNetConfig) -> tuple[Layer, ...]:
    """The layers in the order of execution; names are the module paths of the built network, torchvision's own."""
    write = RowWriter(config.image)
    out = write.elementwise("normalize", "normalize", IMAGE)
    kernel = 7 if config.stem == "imagenet" else 3
    out = write.convolution("conv1", out, config.widths[0], kernel=kernel, stride=config.stem_stride)
    out = write.normalised_relu("bn1", "relu", out)
    if config.stem == "imagenet":
        out = write.max_pool("maxpool", out, kernel=3, stride=2)
    block_rows = _bottleneck if config.bottleneck else _basic_block
    for stage, (depth, planes) in enumerate(zip(config.depths, config.widths, strict=True)):
        for block in range(depth):
            out = block_rows(write, f"layer{stage + 1}.{block}", out, planes, STRIDES[stage] if block == 0 else 1)
    write.linear("fc", write.global_pool("avgpool", out), config.classes, bias=True)
    return tuple(write.rows)


def _basic_block(write: RowWriter, path: str, source: int, planes: int, stride: int) -> int:
    out = write.convolution(f"{path}.conv1", source, planes, kernel=3, stride=stride)
    out = write.normalised_relu(f"{path}.bn1", f"{path}.relu1", out)
    out = write.convolution(f"{path}.conv2", out, planes, kernel=3)
    out = write.elementwise(f"{path}.bn2", "batchnorm", out)
    return _joined(write, path, source, out, stride)


def _bottleneck(write: RowWriter, path: str, source: int, planes: int, stride: int) -> int:
    out = write.convolution(f"{path}.conv1", source, planes, kernel=1)
    out = write.normalised_relu(f"{path}.bn1", f"{path}.relu1", out)
    out = write.convolution(f"{path}.conv2", out, planes, kernel=3, stride=stride)
    out = write.normalised_relu(f"{path}.bn2", f"{path}.relu2", out)
    out = write.convolution(f"{path}.conv3", out, EXPANSION * planes, kernel=1)
    out = write.elementwise(f"{path}.bn3", "batchnorm", out)
    return _joined(write, path, source, out, stride)


def _joined(write: RowWriter, path: str, source: int, out: int, stride: int) -> int:
    """The sum with the block's input, or with its 1x1 projection where shapes differ, and the ReLU behind it."""
    shortcut, channels = source, write.shape(out)[0]
    if stride != 1 or write.shape(source)[0] != channels:
        shortcut = write.convolution(f"{path}.downsample.0", source, channels, kernel=1, stride=stride)
        shortcut = write.elementwise(f"{path}.downsample.1", "batchnorm", shortcut)
    return write.elementwise(f"{path}.relu", "relu", write.elementwise(f"{path}.add", "add", out, shortcut))
