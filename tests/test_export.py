"""An exported file answers as the network does, is the same to the byte, and says nothing of the machine."""

from __future__ import annotations

import hashlib
import json
import logging
import threading

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import rcnas_edge
from rcnas_edge.calibrating import Calibration
from rcnas_edge.errors import InputError
from rcnas_edge.export import (
    Artefact,
    check_steady,
    export_in,
    exporter,
    facts,
    precisions_of,
    read_artefact,
    read_built,
    relative_drift,
    sidecar,
    weights_digest,
)
from rcnas_edge.nets.wrn import WideResNet
from rcnas_edge.nets.wrn_rows import WrnConfig

IMAGE = (1, 8, 8)


def network(robust: bool = True) -> nn.Module:
    """Every kind of layer that the family wrn has: both blocks, both strides; with batch-norm statistics of its own."""
    torch.manual_seed(0)
    frame = {"image": IMAGE, "classes": 10, "mean": (0.3,), "std": (0.4,)}
    model = WideResNet(WrnConfig((1, 1, 1), (8, 8, 16), (False, robust, robust), **frame)).train()
    with torch.no_grad():
        model(torch.rand(32, *IMAGE))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = network()
    path = tmp_path_factory.mktemp("artefacts") / "model.onnx"
    artefact = exporter("onnx").export(
        model, path, image=IMAGE, metadata=facts(labels="0123456789", threat="linf:0.1:5")
    )
    return model, artefact


@pytest.mark.parametrize("batch", [1, 3, 5, 16, 33])
def test_the_file_answers_as_the_network_does_at_any_batch(exported, batch):
    model, artefact = exported
    images = torch.rand(batch, *IMAGE, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        expected = model.eval()(images).numpy()
    logits = exporter("onnx").predict(artefact)(images.numpy())
    assert logits.dtype == np.float32
    assert relative_drift(expected, logits).max() < 1e-5


def test_one_file_ships_and_it_says_what_it_is(exported):
    model, artefact = exported
    assert sorted(path.name for path in artefact.path.parent.iterdir()) == ["model.onnx", "model.onnx.json"]
    proto = onnx.load(artefact.path, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    assert proto.opset_import[0].version == 18
    said = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(said["labels"]) == list("0123456789")
    assert json.loads(said["image"]) == [1, 8, 8]
    assert json.loads(said["input_range"]) == [0, 1]
    assert said["threat"] == "linf:0.1:5"
    assert said["digest"] == weights_digest(model)
    assert json.loads(said["versions"])["torch"] == torch.__version__.split("+")[0]
    assert list(said) == sorted(said)


def test_the_file_holds_no_path_of_this_machine(exported):
    everything = exported[1].path.read_bytes()
    home = str(next(iter(rcnas_edge.__path__)))
    assert home.encode() not in everything
    assert b"stack_trace" not in everything
    assert b".py" not in everything


def test_the_sidecar_names_the_bytes_that_ship(exported):
    artefact = exported[1]
    serialised = artefact.path.read_bytes()
    assert artefact.sha256 == hashlib.sha256(serialised).hexdigest()
    assert artefact.bytes == len(serialised)
    assert read_artefact(artefact.path) == artefact
    assert Artefact.from_dict(json.loads(json.dumps(artefact.to_dict()))) == artefact
    assert json.loads(sidecar(artefact.path).read_text())["path"] == "model.onnx"


def test_the_same_network_gives_the_same_bytes_and_is_left_as_it_was(exported, tmp_path, capfd, caplog):
    model, artefact = exported
    model.train()
    model.stages[1].eval()
    modes = [module.training for module in model.modules()]
    before = weights_digest(model)
    again = exporter("onnx").export(
        model, tmp_path / "again.onnx", image=IMAGE, metadata=facts(labels="0123456789", threat="linf:0.1:5")
    )
    assert again.sha256 == artefact.sha256
    assert [module.training for module in model.modules()] == modes
    assert weights_digest(model) == before
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert logging.root.manager.disable == logging.NOTSET
    model.eval()


def test_opset_17_is_written_and_checked(tmp_path, exported):
    model, _ = exported
    artefact = exporter("onnx").export(model, tmp_path / "old.onnx", image=IMAGE, metadata={}, opset=17)
    proto = onnx.load(artefact.path)
    assert proto.opset_import[0].version == 17
    onnx.checker.check_model(proto, full_check=True)
    with pytest.raises(InputError, match="at least 17, got 16"):
        exporter("onnx").export(model, tmp_path / "older.onnx", image=IMAGE, metadata={}, opset=16)


def test_a_file_that_was_changed_is_not_run(exported, tmp_path):
    artefact = exported[1]
    copy = tmp_path / "model.onnx"
    copy.write_bytes(artefact.path.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match="changed after the export"):
        exporter("onnx").predict(Artefact(copy, "onnx", "fp32", artefact.sha256, artefact.bytes))
    with pytest.raises(InputError, match="is not there"):
        Artefact(tmp_path / "none.onnx", "onnx", "fp32", artefact.sha256, 1).check()


class Branch(nn.Module):
    def forward(self, images):
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


class FrozenBatch(nn.Module):
    def forward(self, images):
        return images.reshape(2, 64)


class Random(nn.Module):
    def forward(self, images):
        return (images + torch.rand_like(images)).flatten(1)


class Foreign(nn.Module):
    def forward(self, images):
        return torch.ops.rcnas_test.reverse(images).flatten(1)


@torch.library.custom_op("rcnas_test::reverse", mutates_args=())
def reverse(images: torch.Tensor) -> torch.Tensor:
    return images.flip(0)


@reverse.register_fake
def _(images):
    return torch.empty_like(images)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Branch(), r"can be traced, 0 \(Branch, line \d+\) cannot: .*branches on the values"),
        (FrozenBatch(), "any batch size, this one fixes it"),
        (Random(), "answers as the network does"),
        (Foreign(), r"'rcnas_test.reverse' \(layer 0\) has none"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_network_that_cannot_be_exported_is_one_sentence_and_no_file(layer, words, tmp_path, capfd):
    path = tmp_path / "out" / "model.onnx"
    with pytest.raises(InputError, match=words) as caught:
        exporter("onnx").export(nn.Sequential(layer), path, image=IMAGE, metadata={})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not path.parent.exists() or not list(path.parent.iterdir())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Flatten(), "one label per class, got 3 for 64 classes"),
        (nn.Linear(8, 10), r"gives logits \(N, classes\), got \(2, 1, 8, 10\)"),
        (nn.Linear(9, 10), r"images it takes, \(1, 8, 8\) it does not: .*mat1 and mat2"),
        (network(robust=False), r"takes images \(1, 8, 8\), got \(3, 8, 8\)"),
    ],
    ids=["labels", "no logits", "other images", "own words"],
)
def test_a_network_that_is_no_classifier_of_these_images_is_refused(model, words, tmp_path):
    image = (3, 8, 8) if isinstance(model, WideResNet) else IMAGE
    with pytest.raises(InputError, match=words):
        exporter("onnx").export(model, tmp_path / "model.onnx", image=image, metadata=facts(labels="abc"))
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_copied_is_refused(tmp_path):
    model = nn.Flatten()
    model.lock = threading.Lock()
    with pytest.raises(InputError, match="can be copied, this one cannot"):
        exporter("onnx").export(model, tmp_path / "model.onnx", image=IMAGE, metadata={})


def test_drift_is_relative_to_the_largest_logit():
    reference = np.array([[1.0, -4.0], [2.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(relative_drift(reference, reference + np.array([[0.0, 0.4], [0.2, 0.0]])), [0.1, 0.05])
    with pytest.raises(InputError, match="one shape"):
        relative_drift(reference, reference[:, :1])


def test_an_unknown_exporter_names_what_there_is():
    with pytest.raises(InputError, match="there are: onnx"):
        exporter("nothing")


# Other precisions ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    images = torch.rand(40, *IMAGE, generator=torch.Generator().manual_seed(7)).numpy()
    return Calibration(images, clean=30, threat="linf:0.1:5")


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize(("precision", "most"), [("fp16", 1e-2), ("int8", 0.1)])
def test_a_file_in_another_precision_says_so_and_how_far_it_drifts(exported, calibration, tmp_path, precision, most):
    model, fp32 = exported
    metadata = facts(labels="0123456789", threat="linf:0.1:5")
    files = [
        export_in(
            exporter("onnx"),
            precision,
            model,
            tmp_path / f"{name}.onnx",
            image=IMAGE,
            metadata=metadata,
            calibration=calibration,
        )
        for name in ("model", "again")
    ]
    assert files[0].sha256 == files[1].sha256 != fp32.sha256
    assert read_artefact(files[0].path).precision == precision
    proto = onnx.load(files[0].path)
    onnx.checker.check_model(proto, full_check=True)
    said = {entry.key: entry.value for entry in proto.metadata_props}
    assert said["precision"] == precision
    assert "onnxruntime" in json.loads(said["versions"])
    assert {key: said[key] for key in ("threat", "digest")} == {"threat": "linf:0.1:5", "digest": weights_digest(model)}

    built, plain = read_built(files[0].path), read_built(fp32.path)
    assert list(built["layers"]) == list(built["macs"]) == [precision]
    assert built["macs"][precision] >= plain["macs"]["fp32"] > 0
    assert sum(exporter("onnx").inspect(files[0]).values()) >= plain["layers"]["fp32"]
    assert built["inspected_layers"] == exporter("onnx").inspect(files[0])
    images = calibration.images[np.linspace(0, 39, 16).round().astype(int)]
    with torch.no_grad():
        drift = relative_drift(model(torch.from_numpy(images)).numpy(), exporter("onnx").predict(files[0])(images))
    assert built["relative_drift"] == pytest.approx(drift.max(), rel=1e-3)
    assert 1e-6 < drift.max() < most
    if precision == "int8":
        assert built["scheme"] == "u8s8"
        assert built["calibration"] == {"clean": 30, "adversarial": 10, "threat": "linf:0.1:5"}


def test_a_precision_that_cannot_be_written_is_refused_before_the_work(exported, tmp_path):
    model, _ = exported
    kind = exporter("onnx")
    with pytest.raises(InputError, match="calibrated on images, got none"):
        kind.export(model, tmp_path / "a.onnx", image=IMAGE, metadata={}, precision="int8")
    with pytest.raises(InputError, match="one of fp32, fp16, int8, got 'int4'"):
        kind.export(model, tmp_path / "a.onnx", image=IMAGE, metadata={}, precision="int4")
    with pytest.raises(InputError, match="format onnx is written in fp32, fp16, int8, got 'int4'"):
        export_in(kind, "int4", model, tmp_path / "a.onnx", image=IMAGE, metadata={})
    assert not list(tmp_path.iterdir())


def test_a_plugin_that_knows_no_precisions_writes_fp32(tmp_path):
    class Old:
        format = "old"

        def export(self, model, path, *, image, metadata, opset):
            return Artefact(path, "old", "fp32", "0" * 64, opset)

    assert precisions_of(Old()) == ("fp32",)
    assert export_in(Old(), "fp32", nn.Flatten(), tmp_path, image=IMAGE, metadata={}, opset=17).bytes == 17
    with pytest.raises(InputError, match="format old is written in fp32, got 'int8'"):
        export_in(Old(), "int8", nn.Flatten(), tmp_path, image=IMAGE, metadata={})


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        (lambda images: images.reshape(len(images), -1) / len(images), "same logits in any batch .* in batches of 1"),
        (lambda images: images.reshape(len(images), -1) / 0, "finite logits"),
        (lambda images: images.reshape(len(images), -1)[:, :3], "logits .* of one shape"),
    ],
    ids=["batch", "infinite", "classes"],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_quantised_file_that_is_not_steady_is_refused(predict, words):
    images = np.random.default_rng(0).random((16, *IMAGE), dtype=np.float32)
    assert check_steady(nn.Flatten(), lambda batch: 2 * batch.reshape(len(batch), -1), images, name="m") <= 1
    with pytest.raises(InputError, match=words):
        check_steady(nn.Flatten(), predict, images, name="m")
