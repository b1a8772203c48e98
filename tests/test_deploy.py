"""A shipped file runs with numpy and ONNX Runtime alone, and refuses what it cannot classify."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from rcnas_edge import deploy
from rcnas_edge.errors import InputError
from rcnas_edge.export import exporter, facts

IMAGE, LABELS = (1, 4, 4), ("cat", "dog", "eel")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


@pytest.fixture(scope="module")
def shipped(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    metadata = facts(labels=LABELS, threat="linf:0.1:10", digest="abc")
    return exporter("onnx").export(network, folder / "model.onnx", image=IMAGE, metadata=metadata).path


def test_predicts_labels_and_probabilities_as_the_network_does(network, shipped):
    images = np.random.default_rng(0).random((7, *IMAGE), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).softmax(1).numpy()
    said = deploy.load(shipped).predict(images)
    np.testing.assert_allclose(said.probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1, atol=1e-6)
    assert said.labels == tuple(LABELS[index] for index in expected.argmax(1))
    assert len(said) == 7


def test_a_folder_is_opened_and_says_its_facts(shipped):
    classifier = deploy.load(shipped.parent)
    assert classifier.image == IMAGE
    assert classifier.labels == LABELS
    assert classifier.facts["threat"] == "linf:0.1:10"
    assert classifier.facts["digest"] == "abc"


def test_an_empty_batch_and_float64_pixels_are_fine(shipped):
    classifier = deploy.load(shipped)
    assert len(classifier.predict(np.zeros((0, *IMAGE), dtype=np.float32))) == 0
    ones = np.ones((1, *IMAGE))
    assert classifier.predict(ones).labels == classifier.predict(ones.astype(np.float32)).labels


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            np.zeros((2, 3, 4, 4), dtype=np.float32),
            r"shape \(N, 1, 4, 4\), the array has \(2, 3, 4, 4\): bring it to 4 x 4",
        ),
        (np.zeros((2, *IMAGE), dtype=np.int64), r"8-bit integers \(uint8\) or floats in \[0, 1\], the array has int64"),
        (np.full((2, *IMAGE), 255.0, dtype=np.float32), r"in \[0, 1\], the array has 255 to 255: divide"),
        (np.full((2, *IMAGE), -0.5, dtype=np.float32), r"in \[0, 1\], the array has -0.5"),
        (np.full((2, *IMAGE), np.nan, dtype=np.float32), r"in \[0, 1\], the array has nan"),
    ],
)
def test_images_it_cannot_classify_are_refused_with_a_sentence(shipped, images, words):
    with pytest.raises(InputError, match=words):
        deploy.load(shipped).predict(images)


def test_a_file_that_was_changed_after_the_export_is_refused(shipped, tmp_path):
    copy = tmp_path / "model.onnx"
    changed = onnx.load(shipped)
    changed.producer_name = "somebody else"
    onnx.save(changed, copy)
    assert deploy.load(copy).labels == LABELS  # without a sidecar nothing is claimed about the bytes
    sidecar = shipped.with_name("model.onnx.json")
    (tmp_path / "model.onnx.json").write_text(sidecar.read_text())
    with pytest.raises(InputError, match="by sha256, it is not"):
        deploy.load(copy)


def test_files_that_are_no_shipped_network_are_refused(tmp_path, shipped):
    with pytest.raises(InputError, match="is not there"):
        deploy.load(tmp_path / "nothing.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match="must be an ONNX file"):
        deploy.load(tmp_path / "text.onnx")
    with pytest.raises(InputError, match="at least one thread"):
        deploy.load(shipped, threads=0)


def test_a_model_of_another_origin_lacks_labels(tmp_path, network):
    path = exporter("onnx").export(network, tmp_path / "bare.onnx", image=IMAGE, metadata={}).path
    with pytest.raises(InputError, match="says its labels"):
        deploy.load(path)


def test_never_imports_torch(shipped):
    script = """
import json, sys
import numpy as np
from rcnas_edge import deploy
said = deploy.load(sys.argv[1]).predict(np.zeros((2, 1, 4, 4), dtype=np.float32))
heavy = [name for name in ("torch", "torchattacks", "onnx", "sklearn", "safetensors") if name in sys.modules]
print(json.dumps({"labels": said.labels, "heavy": heavy}))
"""
    done = subprocess.run([sys.executable, "-c", script, str(shipped)], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["heavy"] == []
    assert len(said["labels"]) == 2
    assert done.stderr == ""
