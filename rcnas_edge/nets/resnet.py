"""torchvision's residual networks in torch, at any depth and width; the `resnet` family.

Modules are torchvision's blocks under torchvision's names, so that a network of full size takes torchvision's own
state dict as it is. The normalisation of pixels is inside and has no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from rcnas_edge.nets import resnet_inherit, resnet_rows
from rcnas_edge.nets.layers import Normalize, check_images
from rcnas_edge.nets.ratios import RatioSpace
from rcnas_edge.nets.resnet_rows import NETWORKS, STRIDES, ResNetConfig
from rcnas_edge.nets.resnet_space import resnet_space
from rcnas_edge.nets.stems import IMAGENET_MOMENTS
from rcnas_edge.space import Layer, Shape


class ResNet(nn.Module):
    """A four-stage residual network on images (N, C, H, W) in [0, 1]."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        channels, kernel = config.widths[0], 7 if config.stem == "imagenet" else 3
        self.conv1 = nn.Conv2d(config.image[0], channels, kernel, config.stem_stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if config.stem == "imagenet" else nn.Identity()
        made = Bottleneck if config.bottleneck else BasicBlock
        for stage, (depth, planes, out) in enumerate(zip(config.depths, config.widths, config.channels, strict=True)):
            blocks = nn.Sequential()
            for position in range(depth):
                stride = STRIDES[stage] if position == 0 else 1
                downsample = None
                if stride != 1 or channels != out:
                    downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
                blocks.append(made(channels, planes, stride, downsample))
                channels = out
            self.add_module(f"layer{stage + 1}", blocks)
        self.fc = nn.Linear(channels, config.classes)
        self.apply(_initialise)

    @property
    def stages(self) -> list[Any]:
        """layer1 to layer4, each a sequence of blocks."""
        return [self.get_submodule(f"layer{stage + 1}") for stage in range(len(self.config.depths))]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        check_images(images, self.config.image)
        out = self.maxpool(functional.relu(self.bn1(self.conv1(self.normalize(images)))))
        for stage in self.stages:
            out = stage(out)
        return self.fc(out.mean((2, 3)))


def _initialise(module: nn.Module) -> None:
    """He initialisation over the fan-out, as torchvision does."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNetFamily:
    """Residual networks as torchvision publishes them, and their students."""

    name = "resnet"
    default_network = "resnet-18"
    networks = NETWORKS
    published_moments = IMAGENET_MOMENTS

    def network(
        self, name: str, *, image: Shape, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> ResNetConfig:
        """`resnet-18` to `-152`; for images below 64 pixels with a stem without strides."""
        return resnet_rows.network(name, image=image, classes=classes, mean=mean, std=std)

    def config(self, values: Mapping[str, Any]) -> ResNetConfig:
        """A configuration from JSON values."""
        return ResNetConfig.from_dict(values)

    def layers(self, config: ResNetConfig) -> tuple[Layer, ...]:
        """The rows of the network."""
        return resnet_rows.rows(config)

    def build(self, config: ResNetConfig) -> ResNet:
        """The network with fresh weights."""
        return ResNet(config)

    def space(self, base: ResNetConfig) -> RatioSpace:
        """Depth and width ratios per stage."""
        return resnet_space(base)

    def inherit(
        self, student: ResNet, student_config: ResNetConfig, parent: ResNet, parent_config: ResNetConfig
    ) -> float:
        """Importance-ordered slices of the parent; see `resnet_inherit`."""
        return resnet_inherit.inherit(student, student_config, parent, parent_config)


family = ResNetFamily()
