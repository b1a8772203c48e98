"""Pre-activation wide residual networks and the robust residual block in torch; the `wrn` family.

Sources in `wrn_rows`. One departure from the published robust block: its first 1x1 convolution reads the raw
input and leaves the opening batch normalisation unused where there is no projection; ours reads the
normalised, rectified input everywhere, which is what pre-activation means. Counts are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnas_edge.nets import wrn_inherit, wrn_rows
from rcnas_edge.nets.layers import Normalize, check_images
from rcnas_edge.nets.ratios import RatioSpace
from rcnas_edge.nets.wrn_rows import CARDINALITY, EXPANSION, SCALES, STRIDES, WrnConfig, group_width, squeezed
from rcnas_edge.nets.wrn_space import wrn_space
from rcnas_edge.space import Layer, Shape


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the resolution at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)


class BasicBlock(nn.Module):
    """BN-ReLU-conv3x3-BN-ReLU-conv3x3 plus the identity, or a 1x1 projection of the activated input."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.shortcut = convolution(inputs, planes, 1, stride) if stride != 1 or inputs != planes else None
        self.conv1 = convolution(inputs, planes, 3, stride)
        self.norm2 = nn.BatchNorm2d(planes)
        self.conv2 = convolution(planes, planes, 3)
        self.channels = planes

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, planes, H / stride, W / stride)."""
        active = functional.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out = self.conv1(active)
        return self.conv2(functional.relu(self.norm2(out))) + shortcut


class RobustBlock(nn.Module):
    """1x1, eight-way hierarchical grouped 3x3, 1x1, with a residual squeeze-excitation on the normalised branch."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.width, self.channels, self.stride = group_width(planes), EXPANSION * planes, stride
        self.norm1 = nn.BatchNorm2d(inputs)
        projects = stride != 1 or inputs != self.channels
        self.shortcut = convolution(inputs, self.channels, 1, stride) if projects else None
        self.conv1 = convolution(inputs, self.width * SCALES, 1)
        self.norm2 = nn.BatchNorm2d(self.width * SCALES)
        self.convs = nn.ModuleList(
            convolution(self.width, self.width, 3, stride, CARDINALITY) for _ in range(SCALES - 1)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(self.width) for _ in range(SCALES - 1))
        self.conv3 = convolution(self.width * SCALES, self.channels, 1)
        self.norm3 = nn.BatchNorm2d(self.channels)
        self.squeeze = nn.Linear(self.channels, squeezed(self.channels), bias=False)
        self.excite = nn.Linear(squeezed(self.channels), self.channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, 4 planes, H / stride, W / stride)."""
        active = functional.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        parts = functional.relu(self.norm2(self.conv1(active))).split(self.width, dim=1)
        done: list[Tensor] = []
        for part, conv, norm in zip(parts[:-1], self.convs, self.norms, strict=True):
            if done and self.stride == 1:
                part = part + done[-1]
            done.append(functional.relu(norm(conv(part))))
        last = parts[-1] if self.stride == 1 else functional.avg_pool2d(parts[-1], 3, self.stride, 1)
        out = self.conv3(torch.cat([*done, last], dim=1))
        normed = self.norm3(out)
        gate = torch.sigmoid(self.excite(functional.relu(self.squeeze(normed.mean((2, 3))))))
        return out + shortcut + normed * gate[:, :, None, None]


class WideResNet(nn.Module):
    """A three-stage pre-activation residual network on images (N, C, H, W) in [0, 1]."""

    def __init__(self, config: WrnConfig) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.stem = convolution(config.image[0], config.stem_channels, 3, config.stem_stride)
        self.stages = nn.ModuleList()
        channels = config.stem_channels
        for depth, planes, robust, stride in zip(config.depths, config.widths, config.robust, STRIDES, strict=True):
            block = RobustBlock if robust else BasicBlock
            stage = nn.Sequential()
            for position in range(depth):
                made = block(channels, planes, stride if position == 0 else 1)
                stage.append(made)
                channels = made.channels
            self.stages.append(stage)
        self.norm = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, config.classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        check_images(images, self.config.image)
        out = self.stem(self.normalize(images))
        for stage in self.stages:
            out = stage(out)
        return self.classifier(functional.relu(self.norm(out)).mean((2, 3)))


def _initialise(module: nn.Module) -> None:
    """He initialisation over the fan-out, as in the published code of both papers."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
    elif isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class WrnFamily:
    """Wide residual networks, the family of RC-NAS's teachers and students."""

    name = "wrn"
    default_network = "wrn-16-2"
    networks = "wrn-d-w (as wrn-28-10), robustresnet-a1 to -a4"
    published_moments = None

    def network(
        self, name: str, *, image: Shape, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> WrnConfig:
        """`wrn-d-w` or `robustresnet-a1` to `-a4`."""
        return wrn_rows.network(name, image=image, classes=classes, mean=mean, std=std)

    def config(self, values: Mapping[str, Any]) -> WrnConfig:
        """A configuration from JSON values."""
        return WrnConfig.from_dict(values)

    def layers(self, config: WrnConfig) -> tuple[Layer, ...]:
        """The rows of the network."""
        return wrn_rows.rows(config)

    def build(self, config: WrnConfig) -> WideResNet:
        """The network with fresh weights."""
        return WideResNet(config)

    def space(self, base: WrnConfig) -> RatioSpace:
        """RC-NAS's space over this base."""
        return wrn_space(base)

    def inherit(
        self, student: WideResNet, student_config: WrnConfig, parent: WideResNet, parent_config: WrnConfig
    ) -> float:
        """Importance-ordered slices of the parent; see `wrn_inherit`."""
        return wrn_inherit.inherit(student, student_config, parent, parent_config)


family = WrnFamily()
