"""The operators that can be re-imported: ONNX name -> what builds a function on tensors from a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from rcnas_edge.reimport import arithmetic, quantised, shapes, windows
from rcnas_edge.reimport.graph import Node

OPERATORS: dict[str, Callable[[Node], Callable[..., Any]]] = {
    "Conv": windows.convolution,
    "MaxPool": windows.max_pool,
    "AveragePool": windows.average_pool,
    "GlobalAveragePool": windows.global_average_pool,
    "Pad": windows.pad,
    "Gemm": arithmetic.gemm,
    "MatMul": arithmetic.matmul,
    "BatchNormalization": arithmetic.batch_normalisation,
    "Relu": arithmetic.of_one(functional.relu),
    "LeakyRelu": arithmetic.of_one(arithmetic.leaky_relu, alpha=0.01),
    "Elu": arithmetic.of_one(arithmetic.elu, alpha=1.0),
    "Sigmoid": arithmetic.of_one(torch.sigmoid),
    "Tanh": arithmetic.of_one(torch.tanh),
    "HardSigmoid": arithmetic.of_one(arithmetic.hard_sigmoid, alpha=0.2, beta=0.5),
    "HardSwish": arithmetic.of_one(arithmetic.hard_swish),
    "Clip": arithmetic.clip,
    "Softmax": arithmetic.softmax,
    "ReduceMean": arithmetic.mean,
    "Add": arithmetic.add,
    "Sum": arithmetic.of_two(torch.add),
    "Sub": arithmetic.of_two(torch.sub),
    "Mul": arithmetic.of_two(torch.mul),
    "Div": arithmetic.of_two(arithmetic.divide),
    "Cast": arithmetic.cast,
    "Constant": shapes.constant,
    "ConstantOfShape": shapes.constant_of_shape,
    "Identity": shapes.identity,
    "Dropout": shapes.identity,
    "Reshape": shapes.reshape,
    "Flatten": shapes.flatten,
    "Transpose": shapes.transpose,
    "Concat": shapes.concatenate,
    "Split": shapes.split,
    "Slice": shapes.cut,
    "Squeeze": shapes.squeeze,
    "Unsqueeze": shapes.unsqueeze,
    "Shape": shapes.shape_of,
    "Gather": shapes.gather,
    "QuantizeLinear": quantised.quantise_linear,
    "DequantizeLinear": quantised.dequantise_linear,
}

WITH_SCALES = ("Add", "Conv", "Gemm", "MatMul", "QuantizeLinear")
"""Operators that know what to do with whole numbers and their scale; the others get real numbers."""

SCALED_ALIKE = (
    "Relu",
    "MaxPool",
    "Identity",
    "Dropout",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "GlobalAveragePool",
)
"""Operators that give s f(x) for s x with a scale s > 0: they work on the whole numbers and keep the scale."""
