"""ONNX files that are wrong in hundreds of ways: each is one sentence, or answers as a classifier does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fuzz_doubles import CLASSES, IMAGE, SEEDED, Opener, assert_sentence
from hypothesis import event, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="module")
def opener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    made = Opener(tmp_path_factory.mktemp("elsewhere"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("given") / "net.onnx"


@cache
def good() -> bytes:
    """A small residual network with what exporters write: windows, shapes that are computed, rounding, a head."""
    draw = np.random.default_rng(0)
    shapes = {"w1": (4, 1, 3, 3), "w2": (4, 4, 3, 3), "head": (4, CLASSES), "bias": (CLASSES,)}
    constants = {name: draw.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"scale": np.float32(0.02), "zero": np.array(128, dtype=np.uint8)}
    constants |= {"start": np.array([0]), "end": np.array([1]), "rest": np.array([-1])}
    window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1], "group": 1}
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], "stem", **window),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "body", **window),
        helper.make_node("Add", ["b", "c"], ["d"], "join"),
        helper.make_node("MaxPool", ["d"], ["e"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("QuantizeLinear", ["e", "scale", "zero"], ["q"], "round"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["f"], "real"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], "mean"),
        helper.make_node("Shape", ["g"], ["s"], "shape"),
        helper.make_node("Slice", ["s", "start", "end"], ["n"], "batch"),
        helper.make_node("Concat", ["n", "rest"], ["t"], "sizes", axis=0),
        helper.make_node("Reshape", ["g", "t"], ["h"], "flat"),
        helper.make_node("Gemm", ["h", "head", "bias"], ["logits"], "gemm", alpha=1.0, transB=0),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *IMAGE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return bytes(model.SerializeToString())


def test_the_good_one_is_taken(opener: Opener, place: Path) -> None:
    place.write_bytes(good())
    assert opener("onnx", place) == ""
    assert opener.died == 0


def taken_or_refused(opener: Opener, place: Path, content: bytes) -> None:
    place.write_bytes(content)
    words = opener("onnx", place)
    event("taken" if not words else words[:5])
    assert_sentence(words)
    if words and not words.startswith("died"):
        assert "net.onnx" in words


# bytes


@settings(SEEDED, max_examples=150)
@given(
    places=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True, allow_subnormal=False), st.integers(0, 255)), min_size=1, max_size=4
    ),
    junk=st.binary(max_size=6),
    cut=st.one_of(st.none(), st.none(), st.floats(0, 1, allow_subnormal=False)),
)
def test_bytes_that_are_changed_or_cut(
    opener: Opener, place: Path, places: list[tuple[float, int]], junk: bytes, cut: float | None
) -> None:
    content = bytearray(good())
    for where, byte in places:
        content[int(where * len(content))] = byte
    if junk:
        where = int(places[0][0] * len(content))
        content[where:where] = junk
    taken_or_refused(opener, place, bytes(content[: None if cut is None else int(cut * len(content))]))


# what the file says

NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 7, 255, 10**4, 10**6, 2**31 - 1, 2**31, 2**62, -(2**63)])
OPERATORS = st.sampled_from([
    "Loop", "If", "Scan", "Conv", "ConvTranspose", "MaxPool", "AveragePool", "Pad", "Tile", "Expand",
    "ConstantOfShape", "Range", "Resize", "NonZero", "Einsum", "Gather", "GatherND", "ScatterND", "Reshape",
    "Flatten", "Transpose", "Concat", "Split", "Slice", "Squeeze", "Unsqueeze", "OneHot", "TopK", "Cast", "Clip",
    "MatMul", "Gemm", "LSTM", "RandomNormal", "BatchNormalization", "Softmax", "ReduceMean", "CumSum", "Identity",
    "Dropout", "QuantizeLinear", "DequantizeLinear", "DepthToSpace", "StringNormalizer", "Optional", "FusedConv",
    "Nothing",
])  # fmt: skip
LOCATIONS = st.sampled_from(["weights.bin", "../weights.bin", "/etc/passwd", "/dev/zero", "", "a\0b", "~/x"])
DIMENSIONS = st.lists(NUMBERS, max_size=5)
Change = Callable[[onnx.ModelProto], object]


def node_of(model: onnx.ModelProto, number: int) -> onnx.NodeProto:
    return model.graph.node[number % len(model.graph.node)]


def change_attribute(model: onnx.ModelProto, node: int, name: str, values: list[int]) -> None:
    chosen = node_of(model, node)
    for at, attribute in reversed(list(enumerate(chosen.attribute))):
        if attribute.name == name:
            del chosen.attribute[at]
    chosen.attribute.append(helper.make_attribute(name, values if len(values) != 1 else values[0], attr_type=None))


def change_tensor(model: onnx.ModelProto, number: int, sizes: list[int], kind: int | None, cut: int | None) -> None:
    tensor = model.graph.initializer[number % len(model.graph.initializer)]
    if kind is None and cut is None:
        del tensor.dims[:]
        tensor.dims.extend(sizes)
    if kind is not None:
        tensor.data_type = kind
    if cut is not None:
        tensor.raw_data = tensor.raw_data[:cut]


def put_elsewhere(model: onnx.ModelProto, number: int, location: str, keys: dict[str, str]) -> None:
    tensor = model.graph.initializer[number % len(model.graph.initializer)]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    for key, value in {"location": location, **keys}.items():
        tensor.external_data.add(key=key, value=value)


def rename(model: onnx.ModelProto, node: int, slot: int, name: str, *, output: bool) -> None:
    """Cycles, dangling names, other types, names twice."""
    chosen = node_of(model, node)
    names = chosen.output if output else chosen.input
    names[slot % len(names)] = name


def reorder(model: onnx.ModelProto, node: int, act: str) -> None:
    nodes = list(model.graph.node)
    at = node % len(nodes)
    changed = {"remove": nodes[:at] + nodes[at + 1 :], "twice": [*nodes, nodes[at]], "reverse": nodes[::-1]}[act]
    del model.graph.node[:]
    model.graph.node.extend(changed)


def change_door(model: onnx.ModelProto, sizes: list[int | str], kind: int, *, output: bool) -> None:
    value = (model.graph.output if output else model.graph.input)[0]
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind, sizes))


def change_operator(model: onnx.ModelProto, node: int, operator: str, domain: str) -> None:
    chosen = node_of(model, node)
    chosen.op_type, chosen.domain = operator, domain


def change_version(model: onnx.ModelProto, opset: int, version: int) -> None:
    model.opset_import[0].version, model.ir_version = opset, version


NAMES = st.sampled_from(["image", "a", "b", "c", "d", "q", "g", "s", "t", "h", "logits", "w1", "head", "rest", "", "x"])
ATTRIBUTES = st.sampled_from([
    "kernel_shape", "pads", "strides", "dilations", "group", "axis", "alpha", "transB", "auto_pad", "perm",
    "ceil_mode", "storage_order",
])  # fmt: skip
NODES = st.integers(0, 12)


def built(change: Callable[..., None], *drawn: st.SearchStrategy[Any], **more: st.SearchStrategy[Any]) -> Any:
    """A change of a model with what is drawn for it."""
    return st.builds(lambda *values, **named: lambda model: change(model, *values, **named), *drawn, **more)


CHANGES = st.one_of(
    built(change_attribute, NODES, ATTRIBUTES, st.lists(NUMBERS, min_size=1, max_size=5)),
    built(change_tensor, NODES, DIMENSIONS, st.none(), st.none()),
    built(change_tensor, NODES, DIMENSIONS, st.integers(0, 30), st.none()),
    built(change_tensor, NODES, DIMENSIONS, st.none(), st.integers(0, 20)),
    built(
        put_elsewhere,
        NODES,
        LOCATIONS,
        st.dictionaries(st.sampled_from(["offset", "length", "checksum"]), NUMBERS.map(str), max_size=2),
    ),
    built(rename, NODES, st.integers(0, 3), NAMES, output=st.booleans()),
    built(reorder, NODES, st.sampled_from(["remove", "twice", "reverse"])),
    built(
        change_door,
        st.lists(st.one_of(NUMBERS, st.sampled_from(["N", "M", ""])), max_size=5),
        st.integers(0, 20),
        output=st.booleans(),
    ),
    built(change_operator, NODES, OPERATORS, st.sampled_from(["", "", "ai.onnx.ml", "com.microsoft", "who"])),
    built(change_version, NUMBERS, NUMBERS),
)


@settings(SEEDED, max_examples=350)
@given(changes=st.lists(CHANGES, min_size=1, max_size=3))
def test_whatever_it_says(opener: Opener, place: Path, changes: list[Change]) -> None:
    model = onnx.ModelProto.FromString(good())
    for change in changes:
        try:
            change(model)
        except (ValueError, TypeError):  # no protocol buffer can hold it
            event("not written")
    taken_or_refused(opener, place, model.SerializeToString())
