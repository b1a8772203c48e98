"""int8 and fp16 graphs: against layers that are quantised by hand, and against the graph that they are made of."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rcnas_edge.errors import InputError
from rcnas_edge.export import relative_drift
from rcnas_edge.measure.rowgraph import graph_of
from rcnas_edge.nets.wrn_rows import WrnConfig, rows
from rcnas_edge.quantise import _convolve_batchnorms, fp16_model, int8_model

BATCH = 8
IMAGE = (3, 8, 8)
CONFIG = WrnConfig((1, 2, 1), (8, 8, 16), (False, True, False), IMAGE, 10, mean=(0.5,) * 3, std=(0.25,) * 3)
"""Both blocks of the family, with batch normalisations that no convolution absorbs."""


def student() -> bytes:
    """The rows of a student as an ONNX graph with random weights."""
    return graph_of(rows(CONFIG), batch=BATCH).SerializeToString()


def images(seed: int = 0, batch: int = BATCH) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, *IMAGE), dtype=np.float32)


def answers(model: bytes, batch: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def graph(nodes, constants, inputs: tuple[int | str, ...] = ("batch", 2)) -> bytes:
    fed = [helper.make_tensor_value_info("images", TensorProto.FLOAT, inputs)]
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    nodes = [helper.make_node(kind, read.split(), [made], **more) for kind, read, made, more in nodes]
    body = helper.make_graph(nodes, "g", fed, made, tensors)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"threat": "linf:0.1:5"})
    return model.SerializeToString()


WEIGHTS = np.array([[0.5, -1.0], [0.25, 0.1], [-2.0, 3.0]], dtype=np.float32)
BIAS = np.array([0.3, -0.2, 0.05], dtype=np.float32)
LINEAR = graph([("Gemm", "images w b", "logits", {"transB": 1})], {"w": WEIGHTS, "b": BIAS})
POINTS = np.array([[-0.5, 0.1], [0.2, 1.0], [0.77, -0.33], [0.0, 0.4]], dtype=np.float32)


def test_a_linear_layer_in_u8s8_is_the_one_quantised_by_hand():
    scale, zero = (1.0 - -0.5) / 255, 85  # the range [-0.5, 1] in 255 steps; zero is step 0.5 / scale = 85
    fine = np.abs(WEIGHTS).max(axis=1) / 127  # a scale for each class
    codes = np.clip(np.round(POINTS / np.float32(scale)) + zero, 0, 255) - zero
    weights = np.round(WEIGHTS / fine[:, None])
    bias = np.round(BIAS / (scale * fine))
    expected = (codes @ weights.T + bias) * scale * fine
    np.testing.assert_allclose(answers(int8_model(LINEAR, [POINTS]), POINTS), expected, rtol=1e-5, atol=1e-6)


def test_a_linear_layer_in_s8s8_has_no_zero_point_and_a_bias_in_float():
    scale = 1.0 / 127
    fine = np.abs(WEIGHTS).max(axis=1) / 127
    codes = np.clip(np.round(POINTS / np.float32(scale)), -128, 127)
    expected = codes @ np.round(WEIGHTS / fine[:, None]).T * scale * fine + BIAS
    model = int8_model(LINEAR, [POINTS], scheme="s8s8")
    np.testing.assert_allclose(answers(model, POINTS), expected, rtol=1e-5, atol=1e-6)
    constants = {tensor.name: tensor for tensor in onnx.load_model_from_string(model).graph.initializer}
    assert not [name for name, tensor in constants.items() if tensor.data_type == TensorProto.INT32]
    zeros = [numpy_helper.to_array(tensor) for name, tensor in constants.items() if "zero_point" in name]
    assert len(zeros) == 2
    assert not any(np.any(values) for values in zeros)


def behind(model: bytes, layer: str) -> set[str]:
    """The operators of everything that reads, at last, from a node."""
    nodes = onnx.load_model_from_string(model).graph.node
    reached = {name for node in nodes if node.name == layer for name in node.output}
    found = set()
    for node in nodes:
        if reached.intersection(node.input):
            reached.update(node.output)
            found.add(node.op_type)
    return found


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_logits_are_never_quantised_whatever_stands_between_them_and_the_last_layer(scheme):
    filters = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    pooled = graph(
        [
            ("Conv", "images w", "c", {"name": "first", "pads": [1] * 4}),
            ("Relu", "c", "r", {}),
            ("Conv", "r v", "d", {"name": "last"}),
            ("GlobalAveragePool", "d", "p", {}),
            ("Flatten", "p", "logits", {}),
        ],
        {"w": filters, "v": filters[:, :, :1, :1].repeat(2, axis=1)[:, :4]},
        ("batch", *IMAGE),
    )
    model = int8_model(pooled, [images()], scheme=scheme)
    assert behind(model, "last") == {"GlobalAveragePool", "Flatten"}
    assert "QuantizeLinear" in behind(model, "first")
    student_int8 = int8_model(student(), [images()], scheme=scheme)
    assert behind(student_int8, "classifier") == {"Identity"}
    assert np.unique(answers(student_int8, images())).size > 10 * BATCH / 2  # a staircase of 256 steps has fewer


@pytest.mark.parametrize(
    "end",
    [
        [("Gemm", "r w", "logits", {"transB": 1})],
        [("Gemm", "r w", "g", {"transB": 1}), ("Relu", "g", "logits", {})],
        [("Gemm", "r w", "g", {"transB": 1}), ("Mul", "g t", "m", {}), ("Softmax", "m", "logits", {})],
        [("Gemm", "r w", "g", {"transB": 1}), ("Gemm", "r v", "h", {"transB": 1}), ("Add", "g h", "logits", {})],
    ],
    ids=["layer", "relu", "temperature and softmax", "sum of two"],
)
@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_no_ending_of_a_network_is_quantised(end, scheme):
    body = [("Gemm", "images u", "i", {"transB": 1}), ("Relu", "i", "r", {})]
    weights = {
        name: np.random.default_rng(seed).normal(size=(2, 2)).astype(np.float32) for seed, name in enumerate("uwv")
    }
    points = np.random.default_rng(0).random((64, 2), dtype=np.float32)
    made = int8_model(graph([*body, *end], {**weights, "t": np.float32(7)}), [points], scheme=scheme)
    makers = {name: node for node in onnx.load_model_from_string(made).graph.node for name in node.output}
    chain = [makers["logits"]]
    while chain[0].op_type not in ("Gemm", "Add"):
        chain.insert(0, makers[chain[0].input[0]])
    whole = [kind for kind, *_ in end]
    assert [node.op_type for node in chain] == (["Add"] if "Add" in whole else whole)
    if chain[0].op_type == "Gemm":
        assert {makers[name].op_type for name in chain[0].input[:2]} == {"DequantizeLinear"}
    expected = answers(graph([*body, *end], {**weights, "t": np.float32(7)}), points)
    assert 0 < relative_drift(expected, answers(made, points)).mean() < 0.02


def test_nothing_between_layers_is_float_on_onnx_runtime(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "o.onnx"), 3
    onnxruntime.InferenceSession(int8_model(student(), [images()]), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]
    before = [node.op_type for node in onnx.load_model_from_string(student()).graph.node]
    alone = before.count("BatchNormalization")
    assert alone >= 3
    assert operators.count("QLinearConv") == before.count("Conv") + alone
    assert not {"Conv", "Gemm", "BatchNormalization", "Add", "Mul", "Relu", "Concat"} & set(operators)


def test_a_batch_normalisation_as_a_convolution_answers_the_same():
    proto = onnx.load_model_from_string(student())
    _convolve_batchnorms(proto)
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node)
    onnx.checker.check_model(proto, full_check=True)
    drift = relative_drift(answers(student(), images(1)), answers(proto.SerializeToString(), images(1)))
    assert drift.max() < 1e-6


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_an_int8_student_stays_near_its_network_if_calibration_saw_such_images(scheme):
    expected = answers(student(), images(1))
    seen = [images(seed) for seed in range(2, 18)]
    good = answers(int8_model(student(), seen, scheme=scheme), images(1))
    dark = answers(int8_model(student(), [0.5 + 0.01 * batch for batch in seen], scheme=scheme), images(1))
    assert 0 < np.median(relative_drift(expected, good)) < 0.03
    assert np.median(relative_drift(expected, dark)) > 0.3


def test_the_model_keeps_its_facts_and_no_batch_matters_more_than_another():
    model = graph(
        [
            ("Gemm", "images w b", "h", {"transB": 1}),
            ("Relu", "h", "r", {}),
            ("MatMul", "r v", "logits", {}),
        ],
        {"w": WEIGHTS, "b": BIAS, "v": WEIGHTS},
    )
    made = int8_model(model, [POINTS])
    assert int8_model(model, [POINTS[2:], POINTS[:2]]) == made
    assert int8_model(model, [POINTS[:3]]) == int8_model(model, iter([POINTS[:1], POINTS[1:3], POINTS[:0]]))
    proto = onnx.load_model_from_string(made)
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"threat": "linf:0.1:5"}
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert (proto.graph.input[0].name, proto.graph.output[0].name) == ("images", "logits")
    onnx.checker.check_model(proto, full_check=True)


def test_the_same_model_and_images_give_the_same_bytes_in_any_process():
    code = (
        "import hashlib, tests.test_quantise as t\n"
        "for made in (t.int8_model(t.student(), [t.images()]), t.fp16_model(t.student())):\n"
        "    print(hashlib.sha256(made).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    told = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    here = [hashlib.sha256(made).hexdigest() for made in (int8_model(student(), [images()]), fp16_model(student()))]
    assert told.stdout.split() == here, told.stderr


def test_an_fp16_model_computes_in_half_and_speaks_float32():
    made = fp16_model(student())
    proto = onnx.load_model_from_string(made)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert proto.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    floats = [tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT]
    assert not floats
    drift = relative_drift(answers(student(), images(1)), answers(made, images(1)))
    assert 1e-7 < drift.max() < 1e-2
    before = onnx.load_model_from_string(student()).graph.initializer
    halves = [len(tensor.raw_data) for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    wholes = [len(tensor.raw_data) for tensor in before if tensor.data_type == TensorProto.FLOAT]
    assert 2 * sum(halves) == sum(wholes)


@pytest.mark.parametrize(
    ("model", "batches", "scheme", "words"),
    [
        (LINEAR, [], "u8s8", "calibrated on images, got none"),
        (LINEAR, [POINTS[:0]], "u8s8", "calibrated on images, got none"),
        (LINEAR, [POINTS.astype(np.float64)], "u8s8", r"float32 \('N', 2\) for this model, got float64 \(4, 2\)"),
        (LINEAR, [np.zeros((1, 3), np.float32)], "u8s8", r"got float32 \(1, 3\)"),
        (LINEAR, [POINTS * np.float32(np.nan)], "u8s8", "finite float32"),
        (LINEAR, [POINTS], "u4s4", "one of u8s8, s8s8, got 'u4s4'"),
        (graph([("Relu", "images", "logits", {})], {}), [POINTS], "u8s8", "layers .* with weights of their own"),
        (b"no model", [POINTS], "u8s8", "is an ONNX model, these 8 bytes are none"),
    ],
    ids=["none", "empty", "double", "shape", "nan", "scheme", "no layer", "no model"],
)
def test_what_cannot_be_quantised_is_one_sentence(model, batches, scheme, words, capfd):
    with pytest.raises(InputError, match=words) as caught:
        int8_model(model, batches, scheme=scheme)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_model_without_float_weights_has_no_fp16_form():
    with pytest.raises(InputError, match="has weights in float32"):
        fp16_model(graph([("Relu", "images", "logits", {})], {}))


def test_a_normalisation_of_vectors_stays_one():
    made = np.random.default_rng(0)
    drawn = {"w": made.normal(size=(8, 2)), "v": made.normal(size=(3, 8)), "mean": np.zeros(8)}
    drawn |= dict.fromkeys(("k", "b", "var"), np.ones(8))
    constants = {name: value.astype(np.float32) for name, value in drawn.items()}
    nodes = [
        ("Gemm", "images w", "a", {"transB": 1}),
        ("Relu", "a", "c", {}),
        ("BatchNormalization", "c k b mean var", "d", {}),
        ("Gemm", "d v", "logits", {"transB": 1}),
    ]
    floats = graph(nodes, constants)
    whole = int8_model(floats, [POINTS])
    assert "BatchNormalization" in {node.op_type for node in onnx.load_model_from_string(whole).graph.node}
    expected = answers(floats, POINTS)
    np.testing.assert_allclose(answers(whole, POINTS), expected, atol=0.05 * float(np.abs(expected).max()))
