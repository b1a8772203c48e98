"""The published networks of mobile-ml-benchmark, as the kernels that `rcnas_edge.profile.fusion` would make of them.

What a network consists of is read off the file of its operators on a phone's GPU. That file lists convolutions, linear
layers, pools and concatenations; sums, activations, gates and paddings are read off the names of the fused kernels
("convolution_2d_11_linked_:_add_12_linked_:_relu_13") and off the gaps in their numbers.
"""

from __future__ import annotations

import ast
import csv
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rcnas_edge.profile.fusion import DEPTHWISE, Kernel
from rcnas_edge.profile.table import work

OPERATORS, NETWORKS = "mobileml_tflite_cnn_ops_gpu.csv", "mobileml_tflite_cnn_e2e.csv"
OPERATIONS = {
    "CONV_2D": "conv", "CONV_2D_GROUP": "conv", "DEPTHWISE_CONV_2D": "conv", "FULLY_CONNECTED": "linear",
    "MEAN": "globalpool", "MAX_POOL_2D": "maxpool", "AVERAGE_POOL_2D": "avgpool", "CONCATENATION": "concat",
}  # fmt: skip
PAD = "pad"
"""A padding of its own, which the published networks have and ours do not."""

FAMILIES = (
    ("resnet", r"(se)?(pre)?resnet|diracnet"),
    ("mobilenet", r"(fd)?mobilenet"),
    ("searched", r"mnasnet|proxylessnas|fbnet|spnasnet|efficientnet"),
    ("squeezenet", r"squeeze"),
    ("densenet", r"densenet|peleenet"),
    *((name, name) for name in ("resnext", "regnet", "hardnet", "hrnet", "vovnet", "ghostnet", "dla", "bninception")),
    ("bagnet", "bagnet"),
)
"""Networks of one design: name, and how the names of its members begin."""


@dataclass(frozen=True)
class Network:
    """A published network: its kernels, and those that the file lists with what they took by column."""

    name: str
    kernels: tuple[Kernel, ...]
    listed: tuple[tuple[Kernel, Mapping[str, str]], ...]

    @property
    def family(self) -> str:
        return next(name for name, begin in FAMILIES if re.match(begin, self.name))

    @cached_property
    def work(self) -> Mapping[str, np.ndarray]:
        """(kernels, 10^6 MACs, MB) by rated operation."""
        sums: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
        for kernel in self.kernels:
            sums[rated(kernel)] += np.array(work(kernel)) * (1, 1e-6, 1e-6)
        return sums

    @property
    def macs(self) -> float:
        """10^6 multiply-accumulates."""
        return float(sum(sums[1] for sums in self.work.values()))


def rated(kernel: Kernel) -> str:
    """The name of the rate that a kernel has (`rcnas_edge.profile.rates`)."""
    operation, size, groups = kernel[0], kernel[2], kernel[4]
    if operation != "conv":
        return operation
    if groups != 1:
        return "depthwise" if groups == DEPTHWISE else "grouped"
    return "pointwise" if size == 1 else "conv"


def read_networks(folder: Path) -> list[Network]:
    """Every network of the file of operators, by name."""
    rows: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    with open(folder / OPERATORS, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows[row["model"]].append(row)
    return [network(name, rows[name]) for name in sorted(rows)]


def read_latencies(folder: Path) -> Mapping[str, Mapping[str, tuple[float, float]]]:
    """(mean, standard deviation) in ms of whole networks, by network and column ("pixel4|1large|float")."""
    with open(folder / NETWORKS, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    settings = [name.removesuffix("|mean") for name in rows[0] if name.endswith("|mean")]
    return {
        row["model"]: {name: (float(row[f"{name}|mean"]) / 1e3, float(row[f"{name}|std"]) / 1e3) for name in settings}
        for row in rows
    }


def network(name: str, rows: Sequence[Mapping[str, str]]) -> Network:
    """The kernels of a network in order: listed operators, what stands between them, and what is fused into them."""
    kernels: list[Kernel] = []
    listed: list[tuple[Kernel, Mapping[str, str]]] = []
    pooled, gated, expected = (0, 0), False, 0
    for row in rows:
        feature = ast.literal_eval(row["feature"])
        kernel = listed_kernel(row["operation"], feature)
        size, channels = kernel[5], kernel[7]
        first, *fused = row["pixel4|gpu|kernel"].split("_linked_:_")
        numbers = [int(part.rpartition("_")[2]) for part in (first, *fused)]
        missing = numbers[0] - expected
        if kernel[0] in ("conv", "maxpool") and kernel[2] > 1 and int(feature["Input_shape"]) != size:
            kernels.append(elementwise(PAD, channels, size))
            missing -= 1
        if gated and missing > 0:  # squeeze-excitation: what was pooled is multiplied by the gate
            kernels.append(elementwise("multiply", *pooled))
            missing -= 1
        kernels += [elementwise("batchnorm", channels, size)] * max(0, missing)
        kernels.append(kernel)
        listed.append((kernel, row))
        names = [part.rpartition("_")[0] for part in fused]
        made = math.ceil(size / kernel[3])
        kernels += [elementwise(operation, kernel[8], made) for operation in unfused(names)]
        gated = names[-1:] == ["sigmoid"]
        pooled = (channels, size) if kernel[0] == "globalpool" else pooled
        expected = numbers[-1] + 1
    return Network(name, tuple(kernels), tuple(listed))


def listed_kernel(operation: str, feature: Mapping[str, object]) -> Kernel:
    """The kernel of a listed operator, of the size before a padding: size / stride, rounded up, is what it makes."""

    def number(name: str, otherwise: int = 1) -> int:
        text = str(feature[name])
        return int(text) if text.isdecimal() and int(text) else otherwise

    channels, size, made = number("Input_channel"), number("Input_shape"), number("Output_shape")
    kernel, stride, groups, filters = number("Kernel"), number("Stride"), 1, channels
    if operation in ("CONV_2D", "CONV_2D_GROUP", "FULLY_CONNECTED"):
        filters, groups = number("Filter"), number("Group")
    elif operation == "DEPTHWISE_CONV_2D":
        groups = DEPTHWISE
    elif operation == "MEAN" or (operation == "AVERAGE_POOL_2D" and made == 1):
        return ("globalpool", "plain", 1, 1, 1, size, size, channels, channels)
    elif operation == "CONCATENATION":
        channels, size, kernel, filters = number("Filter"), made, 1, 2
    if math.ceil(size / stride) != made:
        size = made * stride
    return (OPERATIONS[operation], "plain", kernel, stride, groups, size, size, channels, filters)


def elementwise(operation: str, channels: int, size: int) -> Kernel:
    return (operation, "plain", 1, 1, 1, size, size, channels, channels)


def unfused(names: Sequence[str]) -> list[str]:
    """What the GPU fuses behind an operator and our plain runtimes do not: all but a first ReLU or ReLU6."""
    found: list[str] = []
    for place, name in enumerate(names):
        before = names[place - 1] if place else ""
        if name == "mul":
            found.append("batchnorm" if names[place + 1 : place + 2] == ["add"] else "multiply")
        elif name == "add" and before != "mul":
            found.append("add")
        elif name == "sigmoid":
            found.append("sigmoid")
        elif name == "hard_swish" or (name == "relu" and before not in ("", "minimum")):
            found.append("relu")
    return found
