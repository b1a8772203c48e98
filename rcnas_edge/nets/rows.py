"""Writes the layer rows of a network in the order of execution, keeping track of shapes."""

from __future__ import annotations

from dataclasses import dataclass, field

from rcnas_edge.space import IMAGE, Layer, Shape


def halved(size: int, stride: int) -> int:
    """Height or width after a padded layer of this stride."""
    return (size - 1) // stride + 1


@dataclass
class RowWriter:
    """Appends rows; every method returns the index that later rows read."""

    image: Shape
    rows: list[Layer] = field(default_factory=list)

    def shape(self, index: int) -> Shape:
        """The (C, H, W) that row `index` produces."""
        return self.image if index == IMAGE else self.rows[index].output

    def _append(self, layer: Layer) -> int:
        self.rows.append(layer)
        return len(self.rows) - 1

    def convolution(
        self, name: str, source: int, channels: int, *, kernel: int, stride: int = 1, groups: int = 1
    ) -> int:
        """A convolution without bias, padded by kernel // 2."""
        inputs = self.shape(source)
        output = (channels, halved(inputs[1], stride), halved(inputs[2], stride))
        return self._append(Layer(name, "conv", inputs, output, (source,), kernel, stride, groups))

    def linear(self, name: str, source: int, features: int, *, bias: bool) -> int:
        """A fully connected layer on (C, 1, 1)."""
        return self._append(Layer(name, "linear", self.shape(source), (features, 1, 1), (source,), bias=bias))

    def elementwise(self, name: str, kind: str, *sources: int) -> int:
        """normalize, batchnorm, relu, relu6, sigmoid, add or multiply: the output has the first operand's shape."""
        shape = self.shape(sources[0])
        return self._append(Layer(name, kind, shape, shape, sources))

    def normalised_relu(self, norm: str, relu: str, source: int) -> int:
        """Batch normalisation and ReLU: they open a pre-activation block, and follow a convolution in others."""
        return self.elementwise(relu, "relu", self.elementwise(norm, "batchnorm", source))

    def channels(self, name: str, source: int, start: int, count: int) -> int:
        """A slice of `count` channels from `start`."""
        inputs = self.shape(source)
        return self._append(Layer(name, "slice", inputs, (count, *inputs[1:]), (source,), start=start))

    def concatenate(self, name: str, *sources: int) -> int:
        """Channels of all sources, one after the other."""
        inputs = self.shape(sources[0])
        total = sum(self.shape(source)[0] for source in sources)
        return self._append(Layer(name, "concat", inputs, (total, *inputs[1:]), sources))

    def average_pool(self, name: str, source: int, *, kernel: int, stride: int) -> int:
        """Mean over kernel x kernel, padded by kernel // 2, padding counted."""
        inputs = self.shape(source)
        output = (inputs[0], halved(inputs[1], stride), halved(inputs[2], stride))
        return self._append(Layer(name, "avgpool", inputs, output, (source,), kernel, stride))

    def max_pool(self, name: str, source: int, *, kernel: int, stride: int) -> int:
        """Largest of kernel x kernel, padded by kernel // 2."""
        inputs = self.shape(source)
        output = (inputs[0], halved(inputs[1], stride), halved(inputs[2], stride))
        return self._append(Layer(name, "maxpool", inputs, output, (source,), kernel, stride))

    def global_pool(self, name: str, source: int) -> int:
        """Mean over height and width."""
        inputs = self.shape(source)
        return self._append(Layer(name, "globalpool", inputs, (inputs[0], 1, 1), (source,)))
