"""Pre-activation wide residual networks as values and layer rows, without torch.

WRN-d-w: Zagoruyko and Komodakis, BMVC 2016 (arXiv 1605.07146). RobustResNet-A1..A4 and the robust residual block:
Huang et al., CVPR 2023 (arXiv 2212.11005).
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
from rcnas_edge.space import IMAGE, Layer, Shape

STRIDES = (1, 2, 2)
EXPANSION = 4
"""Output channels of a robust block per plane."""
SCALES = 8
CARDINALITY = 4
BASE_WIDTH = 10
SQUEEZE = 64

ROBUSTRESNET = {  # depth and width multipliers per stage, Table 5 of arXiv 2212.11005; robust blocks throughout
    "a1": ((14, 14, 7), (5, 7, 3)),
    "a2": ((17, 17, 8), (7, 9, 4)),
    "a3": ((22, 22, 11), (8, 11, 5)),
    "a4": ((27, 28, 13), (10, 14, 6)),
}


@dataclass(frozen=True)
class WrnConfig:
    """A three-stage pre-activation residual network: blocks, planes and kind of block per stage.

    `image` is (C, H, W); `mean` and `std` (per channel, of pixels in [0, 1]) are applied inside the network.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    robust: tuple[bool, ...]
    image: Shape
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stem_channels: int = 16
    stem_stride: int = 1

    def __post_init__(self) -> None:
        for label in ("depths", "widths", "robust"):
            if len(getattr(self, label)) != 3:
                raise InputError(f"a WRN has three stages, got {label} {getattr(self, label)}")
        if min(*self.depths, *self.widths, *self.image, self.stem_channels, self.stem_stride) < 1:
            raise InputError(f"depths, widths, stem and image of a WRN are at least 1, got {self}")
        check_frame(self.image, self.classes, self.mean, self.std)

    @property
    def name(self) -> str:
        """`wrn-d-w` where it is one, else its depths and widths."""
        depth, width = self.depths[0], self.widths[0] // 16
        if width >= 1 and not any(self.robust) and self == wrn(6 * depth + 4, width, **self._frame()):
            return f"wrn-{6 * depth + 4}-{width}"
        blocks = "".join("r" if flag else "b" for flag in self.robust)
        return f"wrn d{'.'.join(map(str, self.depths))} w{'.'.join(map(str, self.widths))} {blocks}"

    def _frame(self) -> dict[str, Any]:
        return {"image": self.image, "classes": self.classes, "mean": self.mean, "std": self.std}

    def stages(self) -> list[dict[str, Any]]:
        """Per stage its name, blocks, planes and kind of block, for people."""
        return [
            {"name": f"stage {index}", "depth": depth, "width": planes, "block": "robust" if robust else "basic"}
            for index, (depth, planes, robust) in enumerate(
                zip(self.depths, self.widths, self.robust, strict=True), start=1
            )
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return to_values(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WrnConfig:
        """The opposite of `to_dict`; InputError on a missing, unknown or ill-typed value."""
        return from_values(cls, values, "a WRN")


def wrn(
    depth: int, width: int, *, image: Shape, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> WrnConfig:
    """WRN-depth-width; depth is 6 n + 4 for n blocks per stage."""
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1 or width < 1:
        raise InputError(f"WRN-d-w has d = 6 n + 4 (10, 16, 22, 28, ...) and w >= 1, got WRN-{depth}-{width}")
    planes = (16 * width, 32 * width, 64 * width)
    return WrnConfig((blocks,) * 3, planes, (False,) * 3, image=image, classes=classes, mean=mean, std=std)


def network(name: str, *, image: Shape, classes: int, mean: tuple[float, ...], std: tuple[float, ...]) -> WrnConfig:
    """`wrn-d-w` for any depth and width, or `robustresnet-a1` to `-a4`."""
    frame: dict[str, Any] = {"image": image, "classes": classes, "mean": mean, "std": std}
    plain = re.fullmatch(r"wrn-(\d+)-(\d+)", name.lower())
    if plain:
        return wrn(int(plain[1]), int(plain[2]), **frame)
    robust = re.fullmatch(r"robustresnet-(a[1-4])", name.lower())
    if robust:
        depths, widths = ROBUSTRESNET[robust[1]]
        planes = (16 * widths[0], 32 * widths[1], 64 * widths[2])
        return WrnConfig(depths, planes, (True,) * 3, **frame)
    raise InputError(f"a network of the family wrn is wrn-d-w (as wrn-28-10) or robustresnet-a1 to -a4, got {name!r}")


def group_width(planes: int) -> int:
    """Channels of one of the eight scales of a robust block; the published formula, at least one per group."""
    return max(1, planes * BASE_WIDTH // 160) * CARDINALITY


def squeezed(channels: int) -> int:
    """Hidden features of the squeeze-excitation on `channels`, at least one."""
    return max(1, channels // SQUEEZE)


@lru_cache(maxsize=4096)
def rows(config: WrnConfig) -> tuple[Layer, ...]:
    """The layers in the order of execution; names are the module paths of the built network."""
    write = RowWriter(config.image)
    out = write.elementwise("normalize", "normalize", IMAGE)
    out = write.convolution("stem", out, config.stem_channels, kernel=3, stride=config.stem_stride)
    for stage, (depth, planes, robust) in enumerate(zip(config.depths, config.widths, config.robust, strict=True)):
        for block in range(depth):
            stride = STRIDES[stage] if block == 0 else 1
            rows_of_block = _robust_block if robust else _basic_block
            out = rows_of_block(write, f"stages.{stage}.{block}", out, planes, stride)
    out = write.normalised_relu("norm", "relu", out)
    out = write.linear("classifier", write.global_pool("pool", out), config.classes, bias=True)
    return tuple(write.rows)


def _basic_block(write: RowWriter, path: str, source: int, planes: int, stride: int) -> int:
    active = write.normalised_relu(f"{path}.norm1", f"{path}.relu1", source)
    shortcut = source
    if stride != 1 or write.shape(source)[0] != planes:
        shortcut = write.convolution(f"{path}.shortcut", active, planes, kernel=1, stride=stride)
    out = write.convolution(f"{path}.conv1", active, planes, kernel=3, stride=stride)
    out = write.normalised_relu(f"{path}.norm2", f"{path}.relu2", out)
    out = write.convolution(f"{path}.conv2", out, planes, kernel=3)
    return write.elementwise(f"{path}.add", "add", out, shortcut)


def _robust_block(write: RowWriter, path: str, source: int, planes: int, stride: int) -> int:
    width, channels = group_width(planes), EXPANSION * planes
    active = write.normalised_relu(f"{path}.norm1", f"{path}.relu1", source)
    shortcut = source
    if stride != 1 or write.shape(source)[0] != channels:
        shortcut = write.convolution(f"{path}.shortcut", active, channels, kernel=1, stride=stride)
    out = write.convolution(f"{path}.conv1", active, width * SCALES, kernel=1)
    out = write.normalised_relu(f"{path}.norm2", f"{path}.relu2", out)
    parts = [write.channels(f"{path}.slice{scale}", out, scale * width, width) for scale in range(SCALES)]
    done: list[int] = []
    for scale, part in enumerate(parts[:-1]):
        if done and stride == 1:
            part = write.elementwise(f"{path}.join{scale}", "add", part, done[-1])
        part = write.convolution(f"{path}.convs.{scale}", part, width, kernel=3, stride=stride, groups=CARDINALITY)
        done.append(write.normalised_relu(f"{path}.norms.{scale}", f"{path}.relus.{scale}", part))
    last = parts[-1] if stride == 1 else write.average_pool(f"{path}.pool", parts[-1], kernel=3, stride=stride)
    out = write.convolution(f"{path}.conv3", write.concatenate(f"{path}.concat", *done, last), channels, kernel=1)
    normed = write.elementwise(f"{path}.norm3", "batchnorm", out)
    gate = write.linear(f"{path}.squeeze", write.global_pool(f"{path}.mean", normed), squeezed(channels), bias=False)
    gate = write.linear(f"{path}.excite", write.elementwise(f"{path}.relu3", "relu", gate), channels, bias=False)
    excited = write.elementwise(f"{path}.scale", "multiply", normed, write.elementwise(f"{path}.gate", "sigmoid", gate))
    return write.elementwise(f"{path}.add2", "add", write.elementwise(f"{path}.add1", "add", out, shortcut), excited)
