"""A re-imported file answers as the file does, at any batch and precision, and has the gradient it should have."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from test_reimport_operators import IMAGE as SMALL
from test_reimport_operators import file_of, session_of
from torch import nn

from rcnas_edge.errors import InputError
from rcnas_edge.export import exporter, facts, relative_drift
from rcnas_edge.nets import family
from rcnas_edge.nets.wrn_rows import WrnConfig
from rcnas_edge.quantise import fp16_model, int8_model
from rcnas_edge.reimport import agreement, reimport

IMAGE = (3, 16, 16)
FRAME = {"image": IMAGE, "classes": 10, "mean": (0.45, 0.5, 0.4), "std": (0.25,) * 3}
NETWORKS = {
    "wrn": ("wrn", WrnConfig((1, 1, 1), (8, 16, 16), (False, False, False), **FRAME)),
    "robustresnet": ("wrn", WrnConfig((1, 2, 1), (8, 16, 16), (True, True, True), **FRAME)),
    "resnet": ("resnet", replace(family("resnet").network("resnet-18", **FRAME), widths=(8, 8, 16, 16))),
    "resnet-bottleneck": (
        "resnet",
        replace(family("resnet").network("resnet-50", **FRAME), depths=(1, 1, 1, 1), widths=(4, 8, 8, 8)),
    ),
    "mobilenet": ("mobilenet", replace(family("mobilenet").network("mobilenet-v2-0.3", **FRAME), depths=(1,) * 7)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


@cache
def network(name: str) -> nn.Module:
    """One network of each family, with weights and batch-norm statistics of its own."""
    torch.manual_seed(0)
    kind, config = NETWORKS[name]
    model = family(kind).build(config).train()
    with torch.no_grad():
        for _ in range(20):
            model(pictures(32, seed=100))
    return model.eval()


def pictures(count: int, *, seed: int = 0, image: tuple[int, ...] = IMAGE) -> torch.Tensor:
    """Smooth random images in [0, 1]: white noise would give every image the same logits."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, image[0], 4, 4), generator=generator)
    return nn.functional.interpolate(coarse, image[1:], mode="bilinear").clamp(0, 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The file of each network, made when it is asked for."""
    folder = tmp_path_factory.mktemp("files")

    @cache
    def export(name: str) -> bytes:
        path = folder / f"{name}.onnx"
        exporter("onnx").export(network(name), path, image=IMAGE, metadata=facts(labels="0123456789"))
        return path.read_bytes()

    return export


def logits_of(model: bytes, images: torch.Tensor) -> np.ndarray:
    session = session_of(model)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


def gradient_of(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    images = images.clone().requires_grad_()
    nn.functional.cross_entropy(model(images), labels).backward()
    assert images.grad is not None
    return images.grad


# Parity


@every_network
@pytest.mark.parametrize("batch", [1, 5, 16])
def test_our_files_come_back_as_they_are(exported, name, batch):
    images = pictures(batch, seed=batch)
    with torch.no_grad():
        found = reimport(exported(name))(images).numpy()
    expected = logits_of(exported(name), images)
    assert relative_drift(expected, found).max() < 1e-5
    assert agreement(expected, found, quantised=False).fault == ""


@every_network
@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_our_files_in_eight_bits_come_back_as_they_are(exported, name, scheme):
    model = int8_model(exported(name), [pictures(32, seed=seed).numpy() for seed in (1, 2)], scheme=scheme)
    twin, images = reimport(model), pictures(100, seed=3)
    expected = logits_of(model, images)
    with torch.no_grad():
        found = twin(images).numpy()
    told = agreement(expected, found, quantised=True)
    assert twin.quantised
    assert np.ptp(expected, axis=0).max() > 0
    if scheme == "u8s8":
        assert told.fault == "", told
        assert (told.argmax.value, told.within.value) == (1, 1)
    else:  # ONNX Runtime adds up real numbers here, in an order of its own
        assert told.drift <= 1e-2, told
        assert told.within.value >= 0.5, told
    assert np.median(np.abs(expected - found).max(1)) <= 1e-6 * np.abs(expected).max()


class Batches(CalibrationDataReader):
    """Calibration images for ONNX Runtime's quantisation."""

    def __init__(self, images: torch.Tensor) -> None:
        self.left = [{"images": part.numpy()} for part in images.split(32)]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.mark.parametrize("activations", [QuantType.QUInt8, QuantType.QInt8])
def test_the_runtime_s_own_quantisation_comes_back(exported, tmp_path, activations):
    """Everything quantised, logits too: they stand on a grid, and those of nearly every image are the very same."""
    (tmp_path / "model.onnx").write_bytes(exported("wrn"))
    quantize_static(
        tmp_path / "model.onnx",
        tmp_path / "int8.onnx",
        Batches(pictures(64, seed=1)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=activations,
        weight_type=QuantType.QInt8,
    )
    model, images = (tmp_path / "int8.onnx").read_bytes(), pictures(100, seed=3)
    with torch.no_grad():
        found = reimport(model)(images).numpy()
    assert (found == logits_of(model, images)).all(axis=1).mean() >= 0.95


@pytest.mark.parametrize("name", ["wrn", "resnet"])
def test_our_files_in_sixteen_bits_come_back_as_the_cpu_computes_them(exported, name):
    """In 32 bits, casts included: that agrees a hundred times better than rounding the image would."""
    model = fp16_model(exported(name))
    twin, images = reimport(model), pictures(16, seed=3)
    expected = logits_of(model, images)
    with torch.no_grad():
        found, rounded = twin(images).numpy(), twin(images.half().float()).numpy()
    assert twin.half_precision
    assert relative_drift(expected, found).max() < 1e-5
    assert relative_drift(expected, rounded).max() > 2e-5
    assert relative_drift(logits_of(exported(name), images), expected).max() > 2e-5  # the weights are rounded


@pytest.mark.parametrize("name", ["resnet_2b", "resnet_4b"])
def test_published_files_come_back_at_any_batch(name):
    """Their batch is fixed at one; the re-import takes any."""
    path = Path(os.environ.get("RCNAS_DATA", "")) / "models" / f"{name}.onnx"
    if "RCNAS_DATA" not in os.environ or not path.is_file():
        pytest.skip(f"needs models/{name}.onnx in the folder that RCNAS_DATA names")
    twin, images = reimport(path), pictures(7, image=(3, 32, 32))
    assert (twin.batch, twin.image) == (1, (1, 3, 32, 32))
    expected = np.concatenate([logits_of(path.read_bytes(), image[None]) for image in images])
    with torch.no_grad():
        assert agreement(expected, twin(images).numpy(), quantised=False).fault == ""


# Gradients


@every_network
def test_the_gradient_is_the_network_s_own(exported, name):
    images, labels = pictures(4, seed=7), torch.arange(4)
    expected = gradient_of(network(name), images, labels)
    found = gradient_of(reimport(exported(name)), images, labels)
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def eight_bits(zero: int = 3, scale: float = 0.5, kind: type = np.uint8) -> bytes:
    """x to 8 bits and back, times two."""
    constants = {"s": np.float32(scale), "z": np.array(zero, dtype=kind), "two": np.float32(2)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Mul", ["d", "two"], ["y"]),
    ]
    return file_of(nodes, constants, image=(1, 1, 6))


def test_rounding_and_its_gradient_by_hand():
    """Scale 1/2, zero point 3: half to even, and what is below -1.5 or above 126 is cut off and has no gradient."""
    images = torch.tensor([-1.6, -1.5, 0.24, 0.25, 0.75, 126.1]).reshape(1, 1, 1, 6).requires_grad_()
    logits = reimport(eight_bits())(images)
    assert logits.flatten().tolist() == [-3.0, -3.0, 0.0, 0.0, 2.0, 252.0]
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.flatten().tolist() == [0, 2, 2, 2, 2, 0]


def test_signed_numbers_reach_from_minus_128_to_127():
    images = torch.tensor([-64.2, -64.0, 0.26, 63.5, 63.6, 1e9]).reshape(1, 1, 1, 6).requires_grad_()
    logits = reimport(eight_bits(0, kind=np.int8))(images)
    assert logits.flatten().tolist() == [-128.0, -128.0, 1.0, 127.0, 127.0, 127.0]
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert gradient.flatten().tolist() == [0, 2, 2, 2, 0, 0]


def test_without_a_straight_through_gradient_there_is_none(exported):
    images = torch.rand(1, 1, 1, 6)
    naive = reimport(eight_bits(), straight_through=False)
    assert torch.equal(naive(images), reimport(eight_bits())(images))
    images.requires_grad_()
    assert not torch.autograd.grad(naive(images).sum(), images)[0].any()
    model = int8_model(exported("wrn"), [pictures(32).numpy()], scheme="u8s8")
    assert not gradient_of(reimport(model, straight_through=False), pictures(4), torch.arange(4)).any()


def test_the_gradient_of_a_quantised_network_points_where_the_network_s_own_does(exported):
    model = int8_model(exported("wrn"), [pictures(32, seed=seed).numpy() for seed in (1, 2)], scheme="u8s8")
    images, labels = pictures(8, seed=7), torch.arange(8)
    found = gradient_of(reimport(model), images, labels).flatten(1)
    expected = gradient_of(network("wrn"), images, labels).flatten(1)
    assert nn.functional.cosine_similarity(found, expected).min() > 0.8


def quantised_layer(operator: str, *, activations: type, bias: bool) -> bytes:
    """Images and weights (with a zero point, per channel) in 8 bits, an integer bias, and the result in 8 bits."""
    draw = np.random.default_rng(5)
    shape = (4, 3, 3, 3) if operator == "Conv" else (4, 75) if operator == "Gemm" else (75, 4)
    axis = 1 if operator == "MatMul" else 0
    scales = np.linspace(0.01, 0.02, 4, dtype=np.float32)
    zeros = {"z": np.array(7, dtype=activations), "wz": np.zeros(4, dtype=np.int8)}
    constants = {
        **zeros,
        "s": np.float32(0.05),
        "w": draw.integers(-127, 128, shape).astype(np.int8),
        "ws": scales,
        "b": draw.integers(-500, 500, 4).astype(np.int32),
        "bs": np.float32(0.05) * scales,
        "ys": np.float32(0.13),
    }
    rows = ["flat"] if operator != "Conv" else ["d"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=axis),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"], axis=0),
        helper.make_node("Flatten", ["d"], ["flat"]),
        helper.make_node(
            operator, [*rows, "wd", *(["bd"] if bias else [])], ["sum"], **({"transB": 1} if operator == "Gemm" else {})
        ),
        helper.make_node("QuantizeLinear", ["sum", "ys", "z"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "z"], ["y"]),
    ]
    return file_of(nodes, constants, image=(3, 5, 5))


@pytest.mark.parametrize(("operator", "bias"), [("Conv", True), ("Conv", False), ("Gemm", True), ("MatMul", False)])
@pytest.mark.parametrize("activations", [np.uint8, np.int8])
def test_a_quantised_layer_gives_the_runtime_s_very_numbers(operator, bias, activations):
    """Signed ones the runtime adds up in real numbers on most processors: a few sums fall to the other side there."""
    model = quantised_layer(operator, activations=activations, bias=bias)
    images = torch.from_numpy(np.random.default_rng(6).normal(2, 3, (200, 3, 5, 5)).astype(np.float32))
    with torch.no_grad():
        found = reimport(model)(images).numpy()
    assert len(np.unique(found)) > 50
    other = (found != logits_of(model, images)).mean()
    assert other == 0 if activations is np.uint8 else other < 2e-3


# The module


def test_it_is_a_module_without_parameters_that_can_be_copied(exported):
    twin = reimport(int8_model(exported("wrn"), [pictures(32).numpy()], scheme="u8s8"))
    assert not list(twin.parameters())
    assert not twin.training
    assert sum(buffer.numel() for buffer in twin.buffers()) > 1000
    images = pictures(2)
    other = copy.deepcopy(twin)
    for buffer in other.buffers():
        buffer.zero_()
    assert not torch.equal(other(images), twin(images))
    other.load_state_dict(twin.state_dict())
    assert torch.equal(other(images), twin(images))


def test_a_computation_that_is_constant_is_done_once(exported):
    twin = reimport(int8_model(exported("wrn"), [pictures(32).numpy()], scheme="u8s8"))
    per_layer = [step.node for step in twin.steps if step.node.operator == "Conv"]
    dequantised = [step.node for step in twin.steps if step.node.operator == "DequantizeLinear"]
    assert per_layer
    assert not any(node.inputs[0] in twin.stored for node in dequantised)


# Agreement


def test_agreement_is_by_the_size_of_the_logits_or_the_range_of_those_that_round():
    file = np.array([[4.0, -4.0], [1.0, 2.0]])
    assert agreement(file, file + 3.9e-4, quantised=False).fault == ""
    told = agreement(file, file + 4.1e-4, quantised=False)
    assert told.drift == pytest.approx(4.1e-4 / 4)
    assert told.fault.startswith("the re-imported network is not the file: logits differ by up to 0.0001 of their size")
    assert agreement(file, file + 7.9e-3, quantised=True).within.hits == 2
    assert agreement(file, file + 7.9e-3, quantised=True).fault == ""
    assert "0.001 is allowed" in agreement(file, file + 8.1e-3, quantised=True).fault


def test_a_file_that_rounds_agrees_in_every_class_and_every_logit():
    """One image of a hundred beyond a thousandth of the range, or within it and in another class, is a fault."""
    file = np.tile([0.0, 1.0], (100, 1))
    file[0] = 0.5, 0.5004
    for drift, quantised, fine in ((9e-4, True, False), (2e-4, True, True), (9e-5, False, True), (9e-4, False, False)):
        twin = file.copy()
        twin[0, 0] += drift
        assert (agreement(file, twin, quantised=quantised).fault == "") is fine, (drift, quantised)
    far = file.copy()
    far[1, 0] += 1.1e-3
    assert agreement(file, far, quantised=True).fault


def test_the_share_of_equal_classes_is_told():
    file = np.tile([0.0, 1.0], (100, 1))
    twin = file.copy()
    twin[0] = 1.0, 0.0
    told = agreement(file, twin, quantised=True)
    assert (told.argmax.hits, told.within.hits) == (99, 99)
    assert "99 % of 100 inputs get the same class" in told.fault


def test_logits_that_are_no_numbers_agree_with_nothing():
    file = np.ones((2, 3))
    assert agreement(file, np.full((2, 3), np.nan), quantised=False).fault
    assert agreement(file, np.full((2, 3), np.nan), quantised=True).fault


# What is refused


def with_graph(change) -> onnx.ModelProto:
    proto = onnx.load_model_from_string(file_of([helper.make_node("Relu", ["x"], ["y"])]))
    change(proto)
    return proto


def add_input(proto):
    proto.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", 1]))


def add_output(proto):
    proto.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SMALL]))


def add_external(proto):
    tensor = numpy_helper.from_array(np.zeros(4, dtype=np.float32), "big")
    tensor.data_location = TensorProto.EXTERNAL
    proto.graph.initializer.append(tensor)


def age(proto):
    proto.opset_import[0].version = 6


def flat(proto):
    del proto.graph.input[0].type.tensor_type.shape.dim[2:]


def bytes_in(proto):
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def ignore(proto):
    proto.graph.node[0].input[0] = "c"
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(4, dtype=np.float32), "c"))


def strange(proto):
    proto.graph.node[0].domain = "my.lab"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (add_input, "a classifier has one input, net.onnx has 2: x, mask"),
        (add_output, "a classifier has one output, net.onnx has 2: y, x"),
        (add_external, "net.onnx keeps 'big' in another file: save it as one file"),
        (age, "has ONNX opset 7 or later, net.onnx has 6"),
        (flat, "images of four dimensions, the input of net.onnx has another shape"),
        (bytes_in, "images of real numbers, net.onnx takes UINT8"),
        (ignore, "a classifier's output depends on the image, that of net.onnx does not"),
        (strange, r"the operator my.lab.Relu \(node 'y'\) is not supported"),
    ],
)
def test_a_file_that_is_no_such_classifier_is_refused(change, words):
    with pytest.raises(InputError, match=words):
        reimport(with_graph(change), name="net.onnx")


def test_what_is_no_onnx_file_is_refused(tmp_path):
    (tmp_path / "noise.onnx").write_bytes(b"\x00 not a model")
    with pytest.raises(InputError, match=r"noise.onnx must be an ONNX file, it is not|it has none"):
        reimport(tmp_path / "noise.onnx")
    with pytest.raises(InputError, match=r"gone.onnx must be an ONNX file that can be read, it is not: No such file"):
        reimport(tmp_path / "gone.onnx")


def test_sixteen_bits_of_integers_are_refused():
    constants = {"s": np.float32(0.5), "z": np.array(3, dtype=np.uint16)}
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])]
    with pytest.raises(InputError, match="holds UINT16"):
        reimport(file_of(nodes, constants, opset=21))
