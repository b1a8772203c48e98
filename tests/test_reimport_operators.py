"""Every operator of a re-imported file gives what ONNX Runtime gives, with every attribute that is supported."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from rcnas_edge.errors import InputError
from rcnas_edge.reimport import reimport
from rcnas_edge.reimport.operators import OPERATORS

IMAGE = (3, 7, 6)
GENERATOR = np.random.default_rng(0)


def file_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray] | None = None,
    *,
    image: tuple[Any, ...] = IMAGE,
    batch: int | str = "N",
    opset: int = 18,
) -> bytes:
    """A graph from "x" (batch, *image) to "y", whose shape the runtime finds."""
    tensors = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *image])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model.SerializeToString()


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def answers(model: bytes, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime and the re-import give."""
    with torch.no_grad():
        twin = reimport(model)(torch.from_numpy(images)).numpy()
    return np.asarray(session_of(model).run(None, {"x": images})[0]), twin


def images_of(batch: int = 2, image: tuple[int, ...] = IMAGE, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (batch, *image)).astype(np.float32)


def check(model: bytes, image: tuple[int, ...] = IMAGE, *, batches: tuple[int, ...] = (1, 3)) -> None:
    for batch in batches:
        expected, found = answers(model, images_of(batch, image))
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def numbers(*shape: int) -> np.ndarray:
    return GENERATOR.normal(0, 1, shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


CHANNEL = numbers(3, 1, 1)
STATISTICS = {"s": numbers(3), "b": numbers(3), "m": numbers(3), "v": np.abs(numbers(3)) + 0.5}
ROWS: list[tuple[str, dict[str, Any], dict[str, np.ndarray], int]] = [
    ("Relu", {}, {}, 18),
    ("LeakyRelu", {}, {}, 18),
    ("LeakyRelu", {"alpha": 0.3}, {}, 18),
    ("Elu", {"alpha": 0.7}, {}, 18),
    ("Tanh", {}, {}, 18),
    ("Sigmoid", {}, {}, 18),
    ("HardSigmoid", {}, {}, 18),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, {}, 18),
    ("HardSwish", {}, {}, 18),
    ("Identity", {}, {}, 18),
    ("Dropout", {}, {}, 18),
    ("Dropout", {"ratio": 0.4}, {}, 11),
    ("Clip", {}, {"low": np.float32(0), "high": np.float32(6)}, 18),
    ("Clip", {}, {"low": np.float32(-1)}, 18),
    ("Clip", {"min": -0.5, "max": 0.25}, {}, 9),
    ("Clip", {"max": 0.25}, {}, 9),
    ("Softmax", {}, {}, 18),
    ("Softmax", {"axis": 1}, {}, 18),
    ("Softmax", {}, {}, 11),
    ("Softmax", {"axis": 2}, {}, 11),
    ("Add", {}, {"c": CHANNEL}, 18),
    ("Sum", {}, {"c": CHANNEL, "d": numbers(1)}, 18),
    ("Sub", {}, {"c": CHANNEL}, 18),
    ("Mul", {}, {"c": CHANNEL}, 18),
    ("Div", {}, {"c": np.abs(CHANNEL) + 1}, 18),
    ("BatchNormalization", {"epsilon": 1e-3}, STATISTICS, 18),
    ("BatchNormalization", {}, STATISTICS, 9),
    ("GlobalAveragePool", {}, {}, 18),
    ("ReduceMean", {}, {"axes": whole(2, 3)}, 18),
    ("ReduceMean", {"keepdims": 0}, {"axes": whole(-1, -2)}, 18),
    ("ReduceMean", {"axes": [2, 3], "keepdims": 0}, {}, 13),
    ("ReduceMean", {"axes": [1]}, {}, 17),
    ("ReduceMean", {"noop_with_empty_axes": 1}, {}, 18),
    ("Flatten", {}, {}, 18),
    ("Flatten", {"axis": 2}, {}, 18),
    ("Flatten", {"axis": -1}, {}, 18),
    ("Flatten", {"axis": 0}, {}, 18),
    ("Reshape", {}, {"shape": whole(0, -1)}, 18),
    ("Reshape", {}, {"shape": whole(-1, 42, 3)}, 18),
    ("Transpose", {"perm": [0, 2, 3, 1]}, {}, 18),
    ("Transpose", {}, {}, 18),
    ("Concat", {"axis": 1}, {}, 18),
    ("Unsqueeze", {}, {"axes": whole(1, -1)}, 18),
    ("Unsqueeze", {"axes": [0, 3]}, {}, 11),
    ("Slice", {}, {"starts": whole(1, -3), "ends": whole(2**31, -1), "axes": whole(1, 3)}, 18),
    ("Slice", {}, {"s": whole(-1), "e": whole(-(2**31)), "axes": whole(2), "steps": whole(-2)}, 18),
    ("Slice", {}, {"s": whole(0), "e": whole(6), "axes": whole(-2), "steps": whole(3)}, 18),
    ("Slice", {}, {"s": whole(0, 1), "e": whole(9, 2)}, 18),
    ("Slice", {"starts": [1], "ends": [-1], "axes": [2]}, {}, 9),
    ("Gather", {"axis": 1}, {"i": whole(2, 0)}, 18),
    ("Gather", {"axis": -1}, {"i": np.array(-1, dtype=np.int64)}, 18),
    ("Pad", {}, {"p": whole(0, 0, 1, 2, 0, 1, 0, 3)}, 18),
    ("Pad", {}, {"p": whole(1, 2, 0, 3), "v": np.float32(0.5), "axes": whole(2, -1)}, 18),
    ("Pad", {"mode": "reflect"}, {"p": whole(0, 0, 1, 2, 0, 0, 3, 0)}, 18),
    ("Pad", {"mode": "edge"}, {"p": whole(0, 0, 1, 2, 0, 0, 3, 0)}, 18),
    ("Pad", {"pads": [0, 0, 1, 0, 0, 0, -1, 2], "value": 1.5}, {}, 9),
    ("Cast", {"to": TensorProto.FLOAT}, {}, 18),
    ("MatMul", {}, {"w": numbers(6, 4)}, 18),
    ("MatMul", {}, {"w": numbers(3, 6, 5)}, 18),
]  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "attributes", "constants", "opset"),
    ROWS,
    ids=[f"{row[0]}-{place}" for place, row in enumerate(ROWS)],
)
def test_an_operator_gives_what_the_runtime_gives(operator, attributes, constants, opset):
    inputs = ["x", "x"] if operator == "Concat" else ["x"]
    check(file_of([helper.make_node(operator, [*inputs, *constants], ["y"], **attributes)], constants, opset=opset))


WINDOWS = [
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [0, 1, 2, 0]},
    {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("window", [*WINDOWS, {"kernel_shape": [3, 3], "dilations": [2, 1], "pads": [2, 1, 2, 1]}])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_gives_what_the_runtime_gives(window, groups):
    constants = {"w": numbers(8, 4 // groups, *window["kernel_shape"]), "b": numbers(8)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, **window)
    check(file_of([node], constants, image=(4, 7, 6)), (4, 7, 6))


POOLED = [
    *WINDOWS,
    {"kernel_shape": [3, 3], "strides": [2, 2]},
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [0, 0, 1, 1]},
]


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("window", POOLED)
def test_an_average_gives_what_the_runtime_gives(window, counted, ceil):
    node = helper.make_node("AveragePool", ["x"], ["y"], count_include_pad=counted, ceil_mode=ceil, **window)
    check(file_of([node], opset=19))


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("window", [*POOLED, {"kernel_shape": [2, 2], "dilations": [2, 3], "pads": [1, 1, 0, 0]}])
def test_a_maximum_gives_what_the_runtime_gives(window, ceil):
    check(file_of([helper.make_node("MaxPool", ["x"], ["y"], ceil_mode=ceil, **window)]))


@pytest.mark.parametrize(("turned", "alpha", "beta"), itertools.product([0, 1], [1.0, 0.5], [1.0, 2.0]))
def test_a_gemm_gives_what_the_runtime_gives(turned, alpha, beta):
    pixels = int(np.prod(IMAGE))
    constants = {"w": numbers(4, pixels) if turned else numbers(pixels, 4), "b": numbers(4)}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=turned, alpha=alpha, beta=beta),
    ]
    check(file_of(nodes, constants))


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_a_split_gives_what_the_runtime_gives(opset):
    sizes = {} if opset == 11 else {"sizes": whole(1, 2)}
    attributes = {"split": [1, 2]} if opset == 11 else {}
    nodes = [
        helper.make_node("Split", ["x", *sizes], ["a", "b"], axis=1, **attributes),
        helper.make_node("Concat", ["b", "a"], ["y"], axis=1),
    ]
    check(file_of(nodes, sizes, opset=opset))


def test_an_even_split_may_leave_a_smaller_rest():
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2),
        helper.make_node("Concat", ["b", "a"], ["y"], axis=2),
    ]
    check(file_of(nodes))


@pytest.mark.parametrize("opset", [11, 18])
def test_axes_of_size_one_are_left_out(opset):
    axes = {} if opset == 11 else {"axes": whole(2, 3)}
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Squeeze", ["mean", *axes], ["y"], **({"axes": [2, 3]} if opset == 11 else {})),
    ]
    check(file_of(nodes, axes, opset=opset))


def test_a_shape_that_is_computed_holds_at_any_batch():
    """What torch's older exporter writes for x.view(x.size(0), -1)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["first"], axis=0),
        helper.make_node("Unsqueeze", ["first", "axes"], ["batch"]),
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(whole(-1))),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    check(file_of(nodes, {"zero": np.array(0, dtype=np.int64), "axes": whole(0)}), batches=(1, 5, 16))


def test_a_constant_has_no_batch_that_could_be_free():
    """A factor of a file for one image at a time that is written as a vector."""
    nodes = [
        helper.make_node("Reshape", ["factor", "shape"], ["columns"]),
        helper.make_node("Mul", ["x", "columns"], ["y"]),
    ]
    factor = numbers(IMAGE[-1])
    model = file_of(nodes, {"factor": factor, "shape": whole(1, 1, 1, IMAGE[-1])}, batch=1)
    check(model, batches=(1,))
    images = torch.from_numpy(images_of(3))
    np.testing.assert_allclose(reimport(model)(images), images * torch.from_numpy(factor), rtol=1e-5, atol=1e-6)


def test_shapes_take_part_in_arithmetic():
    """A mean that is written as a sum over the number of pixels, which the file computes."""
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"], start=2),
        helper.make_node("Gather", ["sizes", "zero"], ["height"], axis=0),
        helper.make_node("Cast", ["height"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ConstantOfShape", ["one"], ["two"], value=numpy_helper.from_array(np.array([2.0], "f"))),
        helper.make_node("Mul", ["real", "two"], ["double"]),
        helper.make_node("Div", ["x", "double"], ["y"]),
    ]
    check(file_of(nodes, {"zero": np.array(0, dtype=np.int64), "one": whole(1)}))


@pytest.mark.parametrize("seed", range(12))
def test_a_random_convolution_gives_what_the_runtime_gives(seed):
    draw = np.random.default_rng(seed)
    groups, height, width = int(draw.integers(1, 4)), int(draw.integers(1, 4)), int(draw.integers(1, 4))
    channels, filters = groups * int(draw.integers(1, 3)), groups * int(draw.integers(1, 3))
    image = (channels, int(draw.integers(8, 12)), int(draw.integers(8, 12)))
    window = {
        "kernel_shape": [height, width],
        "strides": draw.integers(1, 4, 2).tolist(),
        "dilations": draw.integers(1, 3, 2).tolist(),
        "pads": draw.integers(0, 4, 4).tolist(),
    }
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups, **window)
    check(file_of([node], {"w": numbers(filters, channels // groups, height, width)}, image=image), image)


@pytest.mark.parametrize("seed", range(16))
def test_random_pooling_gives_what_the_runtime_gives(seed):
    draw = np.random.default_rng(seed)
    window = draw.integers(1, 4, 2)
    attributes = {
        "kernel_shape": window.tolist(),
        "strides": draw.integers(1, 4, 2).tolist(),
        "pads": [*draw.integers(0, window).tolist(), *draw.integers(0, window).tolist()],
        "ceil_mode": int(draw.integers(2)),
    }
    if seed % 2:
        attributes["count_include_pad"] = int(draw.integers(2))
    node = helper.make_node("AveragePool" if seed % 2 else "MaxPool", ["x"], ["y"], **attributes)
    check(file_of([node], opset=19))


def test_every_operator_has_a_test():
    with open(__file__, encoding="utf-8") as file:
        tested = file.read()
    for operator in set(OPERATORS) - {"QuantizeLinear", "DequantizeLinear"}:
        assert f'"{operator}"' in tested, operator


# What is refused


REFUSED = [
    ("Det", {}, {}, r"operator Det \(node 'odd'\) is not supported; supported are Add, AveragePool"),
    ("Conv", {"kernel_shape": [3]}, {"w": numbers(3, 3, 3)}, r"Conv \(node 'odd'\)"),
    ("MaxPool", {"kernel_shape": [3]}, {}, r"MaxPool \(node 'odd'\): its kernel_shape \[3\] are not of two dimensions"),
    ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, {}, "dilations of an average"),
    ("Conv", {"auto_pad": "SAME"}, {"w": numbers(3, 3, 3, 3)}, "its auto_pad 'SAME' is unknown"),
    ("Pad", {"mode": "wrap"}, {"p": whole(*[0] * 8)}, "its mode 'wrap' is not supported"),
    ("BatchNormalization", {"training_mode": 1}, STATISTICS, "it is in training mode"),
    ("Cast", {"to": TensorProto.INT64}, {}, "pixels become whole numbers there, which has no gradient"),
]


@pytest.mark.parametrize(("operator", "attributes", "constants", "words"), REFUSED)
def test_what_is_not_supported_is_named_with_its_node(operator, attributes, constants, words):
    nodes = [helper.make_node(operator, ["x", *constants], ["y"], "odd", **attributes)]
    with pytest.raises(InputError, match=words):
        reimport(file_of(nodes, constants), name="net.onnx")


def test_a_shape_that_follows_from_pixels_is_refused():
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["x", "mean"], ["y"], "odd"),
    ]
    with pytest.raises(InputError, match=r"Reshape \(node 'odd'\): its sizes follow from the pixels"):
        reimport(file_of(nodes))


def test_a_node_that_nobody_reads_is_not_looked_at():
    nodes = [helper.make_node("Det", ["x"], ["unused"]), helper.make_node("Relu", ["x"], ["y"])]
    with torch.no_grad():
        assert reimport(file_of(nodes))(-torch.ones(1, *IMAGE)).sum() == 0
