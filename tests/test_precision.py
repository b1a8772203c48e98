"""Layers and multiply-accumulates by type, counted by hand; an int8 file with a float layer in it is found out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from rcnas_edge.errors import InputError
from rcnas_edge.measure.rowgraph import graph_of
from rcnas_edge.nets.wrn_rows import WrnConfig, rows
from rcnas_edge.precision import TypeCount, check_precision, counted, layer_types
from rcnas_edge.quantise import fp16_model, int8_model

IMAGE = (3, 8, 8)
CONFIG = WrnConfig((1, 1, 1), (8, 8, 16), (False,) * 3, IMAGE, 10, mean=(0.5,) * 3, std=(0.25,) * 3)
MACS = sum(layer.macs for layer in rows(CONFIG))
LAYERS = sum(layer.kind in ("conv", "linear") for layer in rows(CONFIG))
ALONE = 8 * 8 * 8 + 4 * 4 * 8 + 2 * 2 * 16
"""Values of the batch normalisations before the second and the third stage and at the end, one MAC each in int8."""


def student() -> bytes:
    return graph_of(rows(CONFIG), batch=4).SerializeToString()


def images() -> np.ndarray:
    return np.random.default_rng(0).random((4, *IMAGE), dtype=np.float32)


def optimised(model: bytes, folder: Path) -> bytes:
    """What ONNX Runtime makes of a model on this machine."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "o.onnx"), 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return (folder / "o.onnx").read_bytes()


def graph(nodes, constants, image=("batch", 2, 6, 6)) -> bytes:
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    body = helper.make_graph(
        [
            helper.make_node(kind, read.split(), [made], name=f"the_{made}", **{"domain": "", **more})
            for kind, read, made, more in nodes
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", None])],
        tensors,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=10).SerializeToString()


FILTERS = np.ones((4, 2, 3, 3), np.float32)
ROWS = np.ones((5, 144), np.float32)
SCALE, ZERO, SIGNED = np.float32(0.01), np.uint8(0), np.int8(0)
Q = {"s": SCALE, "z": ZERO, "n": SIGNED, "fq": FILTERS.astype(np.int8), "rq": ROWS.astype(np.int8)}
READ = [("QuantizeLinear", "images s z", "q", {}), ("DequantizeLinear", "q s z", "d", {})]
CODES = ("DequantizeLinear", "fq s n", "f", {})
FLAT = ("Flatten", "c", "h", {})
FLOAT_END = [FLAT, ("Gemm", "h r", "logits", {"transB": 1})]
CONV, GEMM = 4 * 6 * 6 * 2 * 9, 5 * 144  # filters of 2x3x3 on 6x6 pixels; 5 classes of 144 values
PADDED = {"pads": [1] * 4}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            graph([("Conv", "images f", "c", PADDED), *FLOAT_END], {"f": FILTERS, "r": ROWS}),
            {"fp32": TypeCount(2, CONV + GEMM)},
        ),
        (
            graph(
                [("Conv", "images f", "c", {**PADDED, "group": 2}), FLAT, ("MatMul", "h r", "logits", {})],
                {"f": FILTERS[:, :1], "r": ROWS.T.copy()},
            ),
            {"fp32": TypeCount(2, CONV // 2 + GEMM)},
        ),
        (
            graph([*READ, CODES, ("Conv", "d f", "c", PADDED), *FLOAT_END], {**Q, "r": ROWS}),
            {"fp32": TypeCount(1, GEMM), "int8": TypeCount(1, CONV)},
        ),
        (
            graph([CODES, ("Conv", "images f", "c", PADDED), *FLOAT_END], {**Q, "r": ROWS}),
            {"fp32": TypeCount(2, CONV + GEMM)},
        ),
        (
            graph(
                [
                    ("Cast", "images", "half", {"to": TensorProto.FLOAT16}),
                    ("Conv", "half f", "e", PADDED),
                    ("Cast", "e", "c", {"to": TensorProto.FLOAT}),
                    *FLOAT_END,
                ],
                {"f": FILTERS.astype(np.float16), "r": ROWS},
            ),
            {"fp16": TypeCount(1, CONV), "fp32": TypeCount(1, GEMM)},
        ),
        (
            graph(
                [
                    READ[0],
                    ("QLinearConv", "q s z fq s n s z", "k", PADDED),
                    ("DequantizeLinear", "k s z", "c", {}),
                    FLAT,
                    ("QuantizeLinear", "h s z", "g", {}),
                    ("MatMulInteger", "g rt", "i", {}),
                    ("Cast", "i", "logits", {"to": TensorProto.FLOAT}),
                ],
                {**Q, "rt": ROWS.T.astype(np.int8).copy()},
            ),
            {"int8": TypeCount(2, CONV + GEMM)},
        ),
        (
            graph(
                [("Resize", "images  e", "u", {}), ("Conv", "u f", "c", PADDED), FLAT, ("Identity", "h", "logits", {})],
                {"f": FILTERS, "e": np.ones(4, np.float32)},
                ("batch", 2, "high", "wide"),
            ),
            {"fp32": TypeCount(1, 0, ("the_c",))},
        ),
    ],
    ids=["fp32", "groups", "mixed", "weights alone", "fp16", "integer operators", "open shape"],
)
def test_layers_and_macs_are_those_counted_by_hand(model, expected):
    assert counted(model) == expected


def test_every_precision_of_a_student_is_what_its_rows_say():
    int8 = int8_model(student(), [images()])
    signed = int8_model(student(), [images()], scheme="s8s8")
    assert counted(student()) == {"fp32": TypeCount(LAYERS, MACS)}
    assert counted(fp16_model(student())) == {"fp16": TypeCount(LAYERS, MACS)}
    assert counted(signed) == {"int8": TypeCount(LAYERS, MACS)}
    assert counted(int8) == {"int8": TypeCount(LAYERS + 3, MACS + ALONE)}
    for model, precision in [(student(), "fp32"), (fp16_model(student()), "fp16"), (int8, "int8"), (signed, "int8")]:
        check_precision(model, precision)


def test_what_onnx_runtime_made_of_a_file_is_counted_too(tmp_path):
    """Fused and blocked operators on any processor; an int8 layer without quantised output would show as fp32."""
    int8 = int8_model(student(), [images()])
    assert {name: count.layers for name, count in counted(optimised(int8, tmp_path)).items()} == {"int8": LAYERS + 3}
    assert set(counted(optimised(student(), tmp_path))) == {"fp32"}


def test_an_int8_file_with_one_convolution_left_out_fails_the_proof(tmp_path):
    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"images": images()}])

        def get_next(self):
            return next(self.left, None)

    path = tmp_path / "model.onnx"
    quantization.quantize_static(
        onnx.load_model_from_string(student()),
        path,
        Reader(),
        per_channel=True,
        op_types_to_quantize=["Conv", "Gemm"],
        nodes_to_exclude=["stages.1.0.conv1"],
    )
    left_out = next(layer for layer in rows(CONFIG) if layer.name == "stages.1.0.conv1")
    found = counted(path.read_bytes())
    assert found["fp32"] == TypeCount(1, left_out.macs)
    assert found["int8"] == TypeCount(LAYERS - 1, MACS - left_out.macs)
    with pytest.raises(InputError, match=rf"1 of {LAYERS} layers in another type \(Conv 'stages.1.0.conv1' in fp32\)"):
        check_precision(path.read_bytes(), "int8")


def test_a_promise_that_is_not_kept_names_the_first_layers():
    with pytest.raises(InputError, match=rf"{LAYERS} of {LAYERS} .*'stem' in fp32, .* and {LAYERS - 3} more\)"):
        check_precision(student(), "fp16")
    with pytest.raises(InputError, match="has no layer at all"):
        check_precision(graph([("Flatten", "images", "logits", {})], {}), "int8")
    with pytest.raises(InputError, match="one of fp32, fp16, bf16, int8, got 'int7'"):
        check_precision(student(), "int7")
    with pytest.raises(InputError, match="in an ONNX model, this is none"):
        layer_types(b"no model")
