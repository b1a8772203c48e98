"""Rounding in training is the rounding of the int8 file; afterwards the network is a plain one, and no worse."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from rcnas_edge.attacks import Threat
from rcnas_edge.calibrating import Calibration, calibration_images
from rcnas_edge.data import Dataset, load_dataset
from rcnas_edge.errors import InputError
from rcnas_edge.quantise import int8_model
from rcnas_edge.teacher import open_teacher
from rcnas_edge.train.fit import fit
from rcnas_edge.train.qat import Reach, fake_quantised, fine_tune_quantised
from rcnas_edge.train.recipe import recipe

THREAT = Threat.parse("linf:0.1:3")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("digits", subset=320)


def small(data: Dataset) -> nn.Module:
    """A convolution, a normalisation and two linear layers on digits."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 32),
        nn.ReLU(),
        nn.Linear(32, data.classes),
    )


def test_a_fake_quantised_convolution_is_the_integer_one_by_hand():
    """One filter 1x2x2 on one image 1x2x2: with steps 1/255 and 3/127 the codes are whole numbers."""
    convolution = nn.Conv2d(1, 1, 2, bias=True)
    weights = torch.tensor([[[[3.0, -1.0], [0.4, 0.0]]]])
    with torch.no_grad():
        convolution.weight.copy_(weights)
        convolution.bias.fill_(0.25)
    image = torch.tensor([[[[0.101, 1.0], [0.503, 0.2]]]])
    with fake_quantised(convolution, [np.array([[[[0.0, 1.0], [0.3, 0.2]]]], np.float32)]):
        found = convolution(image).item()
    # inputs 25.8 -> 26, 255, 128.3 -> 128, 51; weights 127, -42.33 -> -42, 16.93 -> 17, 0
    assert found == pytest.approx((26 * 127 - 255 * 42 + 128 * 17) * (1 / 255) * (3 / 127) + 0.25, rel=1e-6)


def test_a_reach_holds_zero_exactly_and_values_out_of_it_are_clipped_and_teach_nothing():
    assert Reach.of(0.5, 2.0) == Reach(2 / 255, 0)
    assert Reach.of(-1.0, 1.55) == Reach(2.55 / 255, 100)
    assert Reach.of(-2.0, -1.0) == Reach(2 / 255, 255)
    assert Reach.of(0.0, 0.0).step == 1.0
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.5, -1.0]]))
    values = torch.tensor([[0.5, 7.0, -3.0]], requires_grad=True)
    with fake_quantised(layer, [np.array([[-1.0, 0.0, 1.55]], np.float32)]):
        answer = layer(values)
    assert answer.item() == pytest.approx(0.5 + 1.55 * 64 / 127 + 1.0, rel=1e-6)
    answer.backward()
    np.testing.assert_allclose(values.grad, [[1.0, 0.0, 0.0]], rtol=1e-6)  # straight through, and not from outside


def test_the_network_in_training_answers_as_its_int8_file():
    """Linear, ReLU, linear: here the file rounds nothing that training does not, so both are one function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    points = torch.randn(64, 6).numpy()
    constants = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    body = helper.make_graph(
        [
            helper.make_node("Gemm", ["images", "0.weight", "0.bias"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "2.weight", "2.bias"], ["logits"], transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    graph = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    file = int8_model(graph.SerializeToString(), [points])
    expected = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"images": points})[0]
    with torch.no_grad(), fake_quantised(model, [points]):
        rounding = model(torch.from_numpy(points)).numpy()
    with torch.no_grad():
        plain = model(torch.from_numpy(points)).numpy()
    # a hidden value on the border between two codes may fall to either side: a tenth of what rounding does
    assert np.abs(rounding - expected).mean() < 0.1 * np.abs(rounding - plain).mean()
    assert np.median(np.abs(rounding - expected)) < 1e-5


def test_codes_are_exact_in_bfloat16():
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -126 / 127]]))
    with fake_quantised(layer, [np.array([[0.0, 1.0]], np.float32)]), torch.autocast("cpu", dtype=torch.bfloat16):
        answer = layer(torch.tensor([[253 / 255, 254 / 255]]))
    # 253 * 127 - 254 * 126 = 127 exactly; multiples of the step would be rounded to 8 bits before they are multiplied
    assert answer.item() == pytest.approx(127 / 127 / 255, rel=2**-8)


def test_afterwards_the_network_is_plain_whatever_happened(data):
    model = small(data).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    batches = [data.train.floats()[:16]]
    with fake_quantised(model, batches):
        assert [type(module) for module in model.modules()] != kinds
        assert list(model.state_dict()) == list(before)
    with pytest.raises(ZeroDivisionError), fake_quantised(model, batches):
        _ = 1 / 0
    assert [type(module) for module in model.modules()] == kinds
    assert model.training
    assert all(module.training for module in model.modules())
    assert not any(hasattr(module, "reach") for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"layers nn\.Conv2d or nn\.Linear"), fake_quantised(nn.ReLU(), batches):
        pass
    with pytest.raises(InputError, match="got no images"), fake_quantised(model, []):
        pass


def test_fine_tuning_gets_back_what_coarse_rounding_took(data):
    """Ranges 200 times too wide leave two or three codes of what a layer reads; the network learns to live with it."""
    model = small(data)
    plain = recipe("pgd-at", examples=len(data.train), epochs=8, batch_size=32, attack_steps=2)
    fit(model, data, THREAT, plain)
    names = list(model.state_dict())
    wide = Calibration(np.float32(200) * data.train.floats()[:64], clean=64)
    done = fine_tune_quantised(model, data, THREAT, plain, epochs=4, calibration=wide, learning_rate=0.02)
    assert done.kept
    assert done.fitted.best.clean > done.clean_before + 0.3
    assert done.fitted.best.robust > done.robust_before + 0.2
    assert {epoch.attack for epoch in done.fitted.history} == {"pgd-2"}
    assert list(model.state_dict()) == names
    assert not model.training


def test_fine_tuning_that_does_harm_is_taken_back(data):
    teacher = open_teacher(None, None, load_dataset("digits")).model
    model = small(data)
    plain = recipe("rslad", examples=len(data.train), epochs=4, batch_size=32, attack_steps=1)
    fit(model, data, THREAT, plain, teacher=teacher)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibration = calibration_images(model, data, THREAT, count=32)
    backwards = plain.with_(weight_decay=30.0)
    done = fine_tune_quantised(
        model, data, THREAT, backwards, epochs=1, calibration=calibration, teacher=teacher, learning_rate=0.1
    )
    assert not done.kept
    assert done.robust_before > done.fitted.best.robust
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# Calibration images --------------------------------------------------------------------------------------------------


def test_calibration_images_are_half_clean_half_adversarial_and_of_the_training_split(data):
    model = small(data).train()
    found = calibration_images(model, data, THREAT, count=21, seed=3)
    assert found.images.shape == (21, *data.image)
    assert found.facts() == {"clean": 11, "adversarial": 10, "threat": "linf:0.1:3"}
    train = data.train.floats()
    apart = np.abs(found.images[:, None] - train[None]).max(axis=(2, 3, 4))
    assert np.array_equal(apart[:11].min(axis=1), np.zeros(11))
    nearest = apart[11:].min(axis=1)
    assert (nearest > 0).all()
    assert nearest.max() <= 0.1 + 1e-6
    assert len(set(apart.argmin(axis=1))) == 21
    assert all(module.training for module in model.modules())
    again = calibration_images(model, data, THREAT, count=21, seed=3)
    assert np.array_equal(found.images, again.images)
    assert not np.array_equal(found.images, calibration_images(model, data, THREAT, count=21, seed=4).images)
    assert sum(len(batch) for batch in found.batches()) == 21


def test_the_attacked_half_is_attacked(data):
    """Untrained, but with gradients: the loss on the attacked half is above that of the same images as they were."""
    model = small(data).eval()
    found = calibration_images(model, data, THREAT, count=64)
    index = np.random.default_rng(0).permutation(len(data.train))[:64]
    split = data.train.take(index)
    labels = torch.from_numpy(split.labels)
    with torch.no_grad():
        losses = [
            nn.functional.cross_entropy(model(torch.from_numpy(images)), labels, reduction="none").numpy()
            for images in (split.floats(), found.images)
        ]
    assert np.array_equal(losses[0][: found.clean], losses[1][: found.clean])
    assert (losses[1] > losses[0])[found.clean :].all()


def test_a_calibration_that_is_none_is_refused(data):
    with pytest.raises(InputError, match=r"at least 2 images.*got 1"):
        calibration_images(small(data), data, THREAT, count=1)
    with pytest.raises(InputError, match=r"float32 \(N, C, H, W\), got float64"):
        Calibration(np.zeros((2, 1, 8, 8)), clean=1)
    with pytest.raises(InputError, match="0 to all are clean, got 3"):
        Calibration(np.zeros((2, 1, 8, 8), np.float32), clean=3)
