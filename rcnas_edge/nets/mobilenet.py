"""torchvision's MobileNetV2 in torch, at any depth, width and expansion; the `mobilenet` family.

Modules are torchvision's blocks under torchvision's names, so that a network of full size takes torchvision's own
state dict as it is. The normalisation of pixels is inside and has no weights. Ours: no dropout before the classifier,
because it draws from torch's global generator, and a resumed training would not come to the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops.misc import Conv2dNormActivation

from rcnas_edge.nets import mobilenet_inherit, mobilenet_rows
from rcnas_edge.nets.layers import Normalize, check_images
from rcnas_edge.nets.mobilenet_rows import NETWORKS, STRIDES, MobileNetConfig
from rcnas_edge.nets.mobilenet_space import mobilenet_space
from rcnas_edge.nets.ratios import RatioSpace
from rcnas_edge.nets.stems import IMAGENET_MOMENTS
from rcnas_edge.space import Layer, Shape


class MobileNet(nn.Module):
    """A MobileNetV2 on images (N, C, H, W) in [0, 1]."""

    def __init__(self, config: MobileNetConfig) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        channels = config.stem_channels
        self.features = nn.Sequential(_normalised(config.image[0], channels, 3, config.stem_stride))
        strides = STRIDES[config.stem]
        for depth, width, expansion, stride in zip(
            config.depths, config.widths, config.expansions, strides, strict=True
        ):
            for position in range(depth):
                block = InvertedResidual(channels, width, stride if position == 0 else 1, expansion)
                block.use_res_connect = position > 0
                self.features.append(block)
                channels = width
        self.features.append(_normalised(channels, config.head_channels, 1))
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(config.head_channels, config.classes))
        self.apply(_initialise)

    @property
    def stages(self) -> list[Any]:
        """The blocks of each stage, in sequence."""
        starts = [1 + sum(self.config.depths[:stage]) for stage in range(len(self.config.depths))]
        return [self.features[start : start + depth] for start, depth in zip(starts, self.config.depths, strict=True)]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        check_images(images, self.config.image)
        return self.classifier(self.features(self.normalize(images)).mean((2, 3)))


def _normalised(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU6."""
    return Conv2dNormActivation(inputs, outputs, kernel, stride, activation_layer=nn.ReLU6)


def _initialise(module: nn.Module) -> None:
    """As torchvision does: He over the fan-out, small weights of the classifier."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)


class MobileNetFamily:
    """MobileNetV2 as torchvision publishes it, of any width, and its students."""

    name = "mobilenet"
    default_network = "mobilenet-v2"
    networks = NETWORKS
    published_moments = IMAGENET_MOMENTS

    def network(
        self, name: str, *, image: Shape, classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> MobileNetConfig:
        """`mobilenet-v2` or `mobilenet-v2-W`; for images below 64 pixels with fewer strides."""
        return mobilenet_rows.network(name, image=image, classes=classes, mean=mean, std=std)

    def config(self, values: Mapping[str, Any]) -> MobileNetConfig:
        """A configuration from JSON values."""
        return MobileNetConfig.from_dict(values)

    def layers(self, config: MobileNetConfig) -> tuple[Layer, ...]:
        """The rows of the network."""
        return mobilenet_rows.rows(config)

    def build(self, config: MobileNetConfig) -> MobileNet:
        """The network with fresh weights."""
        return MobileNet(config)

    def space(self, base: MobileNetConfig) -> RatioSpace:
        """Depth and width ratios and the expansion per stage."""
        return mobilenet_space(base)

    def inherit(
        self, student: MobileNet, student_config: MobileNetConfig, parent: MobileNet, parent_config: MobileNetConfig
    ) -> float:
        """Importance-ordered slices of the parent; see `mobilenet_inherit`."""
        return mobilenet_inherit.inherit(student, student_config, parent, parent_config)


family = MobileNetFamily()
