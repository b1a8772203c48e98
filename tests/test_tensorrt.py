"""Real TensorRT engines are built from real networks; running them is tested on a double of the runtime's API."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import platform
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rcnas_edge_exporters import tensorrt as ours
from rcnas_edge_exporters.onnx import OnnxExporter
from rcnas_edge_exporters.tensorrt_engine import Engine, inspected
from torch import nn

from rcnas_edge.calibrating import Calibration
from rcnas_edge.errors import InputError, MissingPackage, UncheckedError
from rcnas_edge.export import exporter, facts, read_artefact, read_built, sidecar, weights_digest
from rcnas_edge.nets.wrn import WideResNet
from rcnas_edge.nets.wrn_rows import WrnConfig, rows
from rcnas_edge.pipeline import beside
from rcnas_edge.pipeline import opened as opening
from rcnas_edge.pipeline.beside import Beside
from rcnas_edge.pipeline.console import Silent
from rcnas_edge.pipeline.outcome import _beside, exit_code
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.shipping import Shipping
from rcnas_edge.report import report
from rcnas_edge.setting import TaskSetting

IMAGE = (1, 8, 8)
LABELS = facts(labels="0123456789", threat="linf:0.1:5")
WHEELS = (sys.platform == "linux" and platform.machine() == "x86_64") or sys.platform == "win32"
builds = pytest.mark.skipif(not WHEELS, reason="tensorrt-rtx has no wheel for this machine")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """The tests say the same on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.fixture
def spied(monkeypatch) -> dict[str, Any]:
    """What TensorRT itself is told: flags of the network, batch profiles, flags of the builder."""
    trt, seen = ours.builder(), {"profiles": []}
    create, build, add = (
        trt.Builder.create_network,
        trt.Builder.build_serialized_network,
        trt.IBuilderConfig.add_optimization_profile,
    )

    def create_network(self, flags=0):
        seen["network_flags"] = flags
        return create(self, flags)

    def build_serialized_network(self, network, config):
        seen["tf32"] = config.get_flag(trt.BuilderFlag.TF32)
        seen["strongly_typed"] = network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return build(self, network, config)

    def add_optimization_profile(self, profile):
        seen["profiles"].append([tuple(shape) for shape in profile.get_shape("images")])
        return add(self, profile)

    monkeypatch.setattr(trt.Builder, "create_network", create_network)
    monkeypatch.setattr(trt.Builder, "build_serialized_network", build_serialized_network)
    monkeypatch.setattr(trt.IBuilderConfig, "add_optimization_profile", add_optimization_profile)
    return seen


def hide(monkeypatch) -> None:
    """As if neither package were installed."""
    for name in ours.BUILDERS:
        monkeypatch.setitem(sys.modules, name, None)


# Building ------------------------------------------------------------------------------------------------------------


@builds
def test_an_engine_of_a_student_is_one_file_that_says_what_it_is(tmp_path, spied):
    torch.manual_seed(0)
    config = WrnConfig((1, 1, 1), (8, 8, 16), (False, True, False), IMAGE, 10, mean=(0.3,), std=(0.4,))
    model = WideResNet(config)
    artefact = exporter("tensorrt").export(model, tmp_path / "model.engine", image=IMAGE, metadata=LABELS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.engine", "model.engine.json"]
    serialised = artefact.path.read_bytes()
    assert serialised[1:4] == b"trt"  # tensorrt_rtx writes vtrt, tensorrt ftrt
    parameters = sum(weights.numel() for weights in model.parameters())
    assert 4 * parameters < len(serialised) == artefact.bytes < 4 * parameters + 10_000_000
    assert artefact.sha256 == hashlib.sha256(serialised).hexdigest()
    assert read_artefact(artefact.path) == artefact
    assert (artefact.format, artefact.precision) == ("tensorrt", "fp32")

    trt = ours.builder()
    assert spied["network_flags"] == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert spied["strongly_typed"] is True
    assert spied["tf32"] is False
    assert spied["profiles"] == [[(1, 1, 8, 8), (1, 1, 8, 8), (16, 1, 8, 8)]]

    built = read_built(artefact.path)
    assert built["builder"] == f"{trt.__name__} {trt.__version__}"
    assert built["batch"] == {"min": 1, "opt": 1, "max": 16}
    assert (built["strongly_typed"], built["tf32"], built["warnings"]) == (True, False, [])
    assert built["macs"] == {"float32": sum(layer.macs for layer in rows(config))}
    assert set(built["layers"]) <= {"float32", "int64"}  # integers are the shapes of what a robust block splits
    assert built["not_checked"] == "no NVIDIA GPU"
    said = json.loads(sidecar(artefact.path).read_text())["metadata"]
    assert json.loads(said["labels"]) == list("0123456789")
    assert (said["threat"], said["input_range"], said["image"]) == ("linf:0.1:5", "[0, 1]", "[1, 8, 8]")
    assert said["digest"] == weights_digest(model)
    assert json.loads(said["versions"])[trt.__name__] == trt.__version__


@builds
@pytest.mark.parametrize(("precision", "kind"), [("fp16", "float16"), ("int8", "int8")])
def test_an_engine_in_another_precision_multiplies_in_it_alone(tmp_path, spied, precision, kind):
    torch.manual_seed(0)
    config = WrnConfig((1, 1, 1), (8, 8, 16), (False, True, False), IMAGE, 10, mean=(0.3,), std=(0.4,))
    model = WideResNet(config).eval()
    calibration = Calibration(torch.rand(24, *IMAGE).numpy(), clean=12, threat="linf:0.1:5")
    artefact = exporter("tensorrt").export(
        model,
        tmp_path / "model.engine",
        image=IMAGE,
        metadata=LABELS,
        precision=precision,
        calibration=calibration,
    )
    assert (artefact.precision, spied["strongly_typed"]) == (precision, True)
    built = read_built(artefact.path)
    assert built["macs"] == {kind: sum(layer.macs for layer in rows(config))}
    assert 0 < built["graph_drift"] < 0.1
    assert built["not_checked"] == "no NVIDIA GPU"
    assert json.loads(sidecar(artefact.path).read_text())["metadata"]["precision"] == precision
    if precision == "int8":
        assert built["scheme"] == "s8s8"
        assert built["calibration"] == {"clean": 12, "adversarial": 12, "threat": "linf:0.1:5"}


@builds
def test_an_engine_that_is_not_in_the_precision_asked_for_is_not_written(tmp_path):
    path = tmp_path / "model.engine"
    with pytest.raises(InputError, match=r"in int8 multiplies in it alone, .* in \{'float16': 2304, 'float32': 4608\}"):
        exporter("tensorrt").build(GRAPHS["mixed"][0], path, metadata={}, precision="int8")
    with pytest.raises(InputError, match="one of fp32, fp16, int8, got 'int4'"):
        exporter("tensorrt").export(nn.Flatten(), path, image=IMAGE, metadata={}, precision="int4")
    with pytest.raises(InputError, match="calibrated on images, got none"):
        exporter("tensorrt").export(nn.Flatten(), path, image=IMAGE, metadata={}, precision="int8")
    assert not list(tmp_path.iterdir())


def graph(nodes, constants=(), kind=TensorProto.FLOAT, batch: str | int = "batch") -> bytes:
    values = [helper.make_tensor_value_info("images", kind, [batch, *IMAGE])]
    answers = [helper.make_tensor_value_info("logits", kind, None)]
    made = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("acme", 1)]
    return helper.make_model(
        helper.make_graph(nodes, "g", values, answers, made), opset_imports=opsets, ir_version=10
    ).SerializeToString()


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], **{"name": f"the_{output}", **attributes})


CONV = {"pads": [1, 1, 1, 1]}
MACS = 4 * 8 * 8 * 9  # four filters 1x3x3 on 8x8
QUANTISED = [
    node("QuantizeLinear", "images s z", "q"),
    node("DequantizeLinear", "q s z", "d"),
    node("DequantizeLinear", "wq ws wz", "w", axis=0),
    node("Conv", "d w", "logits", **CONV),
]
SCALES = {"s": np.float32(0.01), "z": np.int8(0), "wq": np.ones((4, 1, 3, 3), np.int8)}
SCALES |= {"ws": np.full(4, 0.01, np.float32), "wz": np.zeros(4, np.int8)}
GRAPHS = {
    "fp32": (
        graph([node("Conv", "images w", "logits", **CONV)], {"w": np.ones((4, 1, 3, 3), np.float32)}),
        {"float32": MACS},
        {"float32": 1},
    ),
    "fp16": (
        graph(
            [node("Conv", "images w", "c", **CONV), node("Relu", "c", "logits")],
            {"w": np.ones((4, 1, 3, 3), np.float16)},
            TensorProto.FLOAT16,
        ),
        {"float16": MACS},
        {"float16": 2},
    ),
    "mixed": (
        graph(
            [
                node("Cast", "images", "h", to=TensorProto.FLOAT16),
                node("Conv", "h w", "c", **CONV),
                node("Cast", "c", "f", to=TensorProto.FLOAT),
                node("Conv", "f v", "logits", **CONV, group=2),
            ],
            {"w": np.ones((4, 1, 3, 3), np.float16), "v": np.ones((4, 2, 3, 3), np.float32)},
        ),
        {"float16": MACS, "float32": 2 * MACS},
        {"float16": 2, "float32": 2},
    ),
    "int8": (graph(QUANTISED, SCALES), {"int8": MACS}, {"float32": 2, "int8": 2}),
}
"""Precision -> a graph, its multiply-accumulates for one image and its layers, by the type they compute in."""


@builds
@pytest.mark.parametrize("precision", GRAPHS)
def test_the_types_of_the_graph_are_those_of_the_network(precision):
    serialised, macs, layers = GRAPHS[precision]
    built = ours.build_engine(ours.builder(), serialised, ours.BATCH)
    assert built.proof.precision == precision
    assert built.proof.macs == macs
    assert built.proof.layers == layers
    assert built.proof.uncounted == ()
    assert built.serialised[1:4] == b"trt"


@builds
@pytest.mark.parametrize(
    ("serialised", "words"),
    [
        (graph([node("Relu", "images", "r"), node("Det", "r", "logits")]), r"'Det' \(node the_logits\) it does not"),
        (graph([node("Twirl", "images", "logits", domain="acme")]), r"'Twirl' \(node the_logits\).*Plugin not found"),
        (graph([node("Twirl", "images", "logits", domain="acme", name="")]), r"'Twirl' \(node number 0\)"),
        (
            graph(
                [node("Cast", "images", "h", to=TensorProto.FLOAT16), node("Conv", "h w", "logits")],
                {"w": np.ones((4, 1, 3, 3), np.float32)},
            ),
            r"'Conv' \(node the_logits\).*`kernel` must be of same type",
        ),
        (graph([node("Relu", "images", "logits")], batch=2), r"free batch, got inputs \[\(2, 1, 8, 8\)\]"),
        (b"no graph", "built from an ONNX graph, this is none"),
    ],
    ids=["unsupported", "foreign", "unnamed", "two types", "frozen batch", "no graph"],
)
def test_a_graph_that_cannot_become_an_engine_is_one_sentence_and_no_file(serialised, words, tmp_path, capfd):
    with pytest.raises(InputError, match=words) as caught:
        ours.TensorRtExporter().build(serialised, tmp_path / "model.engine", metadata={})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_without_either_package_the_sentence_says_what_to_install(monkeypatch, tmp_path):
    hide(monkeypatch)
    words = r"needs the package 'tensorrt-rtx', which is not installed: pip install tensorrt-rtx .*, or tensorrt"
    for use in (
        exporter("tensorrt").settings,
        lambda: exporter("tensorrt").export(nn.Flatten(), tmp_path / "a.engine", image=IMAGE, metadata={}),
    ):
        with pytest.raises(MissingPackage, match=words):
            use()


@pytest.mark.parametrize(("gpu", "found"), [(False, "tensorrt_rtx"), (True, "tensorrt")])
def test_tensorrt_is_taken_where_there_is_a_gpu_to_build_for(monkeypatch, gpu, found):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    for name in ours.BUILDERS:
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__name__=name, __version__="1"))
    assert ours.builder().__name__ == found
    monkeypatch.setitem(sys.modules, found, None)
    assert ours.builder().__name__ != found


def test_a_package_that_does_not_load_is_named(monkeypatch):
    def broken(name):
        raise OSError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(InputError, match=r"tensorrt_rtx is there and does not load \(libnvinfer"):
        ours.builder()


def test_a_builder_that_wants_a_gpu_says_so():
    class Refusing:
        def __init__(self, log):
            raise TypeError("factory function returned nullptr")

    trt = SimpleNamespace(__name__="tensorrt", Builder=Refusing, ILogger=double().ILogger)
    with pytest.raises(InputError, match=r"tensorrt builds engines where there is an NVIDIA GPU.*tensorrt-rtx"):
        ours.build_engine(trt, b"", ours.BATCH)


# Running, on a double ------------------------------------------------------------------------------------------------

WEIGHTS = np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32)


def double(*, loads: bool = True, runs: bool = True) -> Any:
    """TensorRT's runtime in small, on the host's memory: an engine whose logits are images @ WEIGHTS."""

    class ILogger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3)

    class Context:
        def __init__(self):
            self.addresses, self.batches = {}, []

        def set_input_shape(self, name, shape):
            self.shape = shape
            return name == "images" and 1 <= shape[0] <= 16

        def set_tensor_address(self, name, address):
            self.addresses[name] = address
            return True

        def execute_async_v3(self, stream_handle):
            def memory(name, count):
                floats = (ctypes.c_float * count).from_address(self.addresses[name])
                return np.ctypeslib.as_array(floats)

            batch = self.shape[0]
            images = memory("images", batch * 64).reshape(batch, 64)
            memory("logits", batch * 10)[:] = (images @ WEIGHTS).reshape(-1)
            self.batches.append(batch)
            return runs and stream_handle == 0

    class Loaded:
        num_io_tensors = 2
        context = Context()
        get_tensor_name = staticmethod(lambda index: ("logits", "images")[index])
        get_tensor_mode = staticmethod(lambda name: {"images": "in", "logits": "out"}[name])
        get_tensor_profile_shape = staticmethod(lambda name, index: [(1, *IMAGE), (1, *IMAGE), (16, *IMAGE)])
        get_tensor_shape = staticmethod(lambda name: (-1, 10))

        def create_execution_context(self):
            return self.context

        def create_engine_inspector(self):
            return SimpleNamespace(get_engine_information=lambda form: json.dumps(TOLD))

    class Runtime:
        def __init__(self, log):
            self.log = log

        def deserialize_cuda_engine(self, serialised):
            if not loads:
                self.log.log(1, "Engine is for\nother devices.")
            return Loaded() if loads else None

    modes = SimpleNamespace(INPUT="in", OUTPUT="out")
    return SimpleNamespace(
        ILogger=ILogger, Runtime=Runtime, TensorIOMode=modes, LayerInformationFormat=SimpleNamespace(JSON="json")
    )


TOLD = {
    "Layers": [
        {"Name": "a", "Outputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}]},
        {"Name": "b", "Outputs": [{"Name": "y", "Format/Datatype": "Float"}]},
        {"Name": "c", "Outputs": [{"Name": "y", "Format/Datatype": "BFloat16"}]},
        {"Name": "d", "Outputs": [{"Name": "y", "Format/Datatype": "Half"}]},
        {"Name": "e", "Outputs": [{"Name": "y", "Format/Datatype": "Int8"}]},
        {"Name": "f", "Outputs": []},
        "a name alone",
    ]
}


def test_images_go_through_the_engine_in_parts_that_it_takes():
    engine = Engine(double(), b"", device="cpu")
    images = np.random.default_rng(1).random((37, *IMAGE), dtype=np.float32)
    logits = engine(images)
    np.testing.assert_allclose(logits, images.reshape(37, 64) @ WEIGHTS, atol=1e-5)
    assert engine.context.batches == [16, 16, 5]
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(engine(images[::2].astype(np.float64)), engine(np.ascontiguousarray(images[::2])))
    assert engine(images[:0]).shape == (0, 10)
    assert engine.layers() == inspected(TOLD)


def test_an_engine_that_does_not_load_or_run_here_is_unchecked():
    with pytest.raises(UncheckedError, match="does not load the engine: Engine is for other devices"):
        Engine(double(loads=False), b"", device="cpu")
    with pytest.raises(UncheckedError, match=r"does not run images \(1, 1, 8, 8\)"):
        Engine(double(runs=False), b"", device="cpu")(np.zeros((1, *IMAGE), dtype=np.float32))


def test_the_inspector_is_read_by_data_type():
    assert inspected(TOLD) == {"bfloat16": 1, "float16": 2, "float32": 1, "int8": 1, "not told": 2}


# The stage -----------------------------------------------------------------------------------------------------------


class Remembering(Silent):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


class Stage(SimpleNamespace):
    """The stage on a linear network, without a search, a training or a verification."""

    def __init__(self, folder, *, also="auto", weights="w", model=None):
        console = Remembering()
        model = model or nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        data = SimpleNamespace(image=IMAGE, class_names=tuple("0123456789"))
        opened = SimpleNamespace(
            setting=TaskSetting(also=also),
            run=Run(folder),
            console=console,
            task=SimpleNamespace(data=data, threat="linf:0.1:5"),
            bench=SimpleNamespace(profiles={}),
        )
        checkpoint = SimpleNamespace(sha256=weights, build=lambda: (model, None))
        shipping = Shipping(opened, SimpleNamespace(trained_for=lambda precision: checkpoint))
        self.attacked = []
        verifying = SimpleNamespace(
            verify=lambda artefact, again: self.attacked.append(artefact.path.name) or SimpleNamespace(summary=str),
            known_verdict=lambda artefact: None,
        )
        super().__init__(opened=opened, said=console.said, stage=Beside(opened, shipping, verifying))

    def export(self):
        self.stage.export()
        return self


def files(folder) -> dict[str, tuple[int, str]]:
    paths = sorted((folder / "artefacts").glob("*"))
    return {path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths}


@builds
def test_an_engine_is_built_once_and_again_for_another_network_or_setting_only(tmp_path, monkeypatch):
    first = Stage(tmp_path, also="tensorrt")
    first.stage.check()
    first.export()
    before = files(tmp_path)
    assert sorted(before) == ["also.tensorrt-fp32.json", "model.engine", "model.engine.json"]
    assert first.said == [f"exported model.engine: {(tmp_path / 'artefacts/model.engine').stat().st_size} bytes"]
    assert Stage(tmp_path).export().said == []
    assert files(tmp_path) == before
    with monkeypatch.context() as context:  # what was built where the package was stays
        hide(context)
        again = Stage(tmp_path, also="tensorrt")
        again.stage.check()
        assert again.export().said == []
    assert files(tmp_path) == before
    assert len(Stage(tmp_path, weights="other").export().said) == 1
    monkeypatch.setattr(ours, "BATCH", {"min": 1, "opt": 4, "max": 32})
    assert len(Stage(tmp_path, weights="other").export().said) == 1
    assert read_built(tmp_path / "artefacts" / "model.engine")["batch"]["max"] == 32
    (tmp_path / "artefacts" / "model.engine").write_bytes(b"vtrt")
    with pytest.raises(InputError, match="changed after the export"):
        Stage(tmp_path, weights="other").export()


def test_a_format_of_the_artefacts_suffix_has_a_file_of_its_own(tmp_path, monkeypatch):
    class Half(OnnxExporter):
        format = "onnx-half"

    for module in (beside, opening):
        monkeypatch.setattr(module, "exporter", lambda name: Half())
    artefact = tmp_path / "artefacts" / "model.onnx"
    artefact.parent.mkdir()
    artefact.write_bytes(b"what ships")
    for _ in range(2):
        Stage(tmp_path, also="onnx-half").export()
    assert artefact.read_bytes() == b"what ships"
    assert read_artefact(artefact.with_name("model.onnx-half.onnx")).format == "onnx-half"


@builds
def test_without_a_gpu_the_report_says_not_checked(tmp_path):
    stage = Stage(tmp_path).export()
    stage.stage.verify()
    assert stage.said[1:] == ["model.engine: not checked: no NVIDIA GPU"]
    assert stage.attacked == []
    (made,) = stage.stage.made()
    told = _beside(SimpleNamespace(opened=stage.opened), made, verified=True)
    values = {"task": {}, "seed": 0, "artefacts": [told], "not_checked": stage.stage.not_checked()}
    content = report(json.loads(json.dumps(values)))
    (artefact,) = content["artefacts"]
    assert artefact["path"] == "artefacts/model.engine"
    assert artefact["latency"] is None
    assert (artefact["verdict"]["decision"], artefact["verdict"]["reasons"]) == ("not checked", ["no NVIDIA GPU"])
    assert artefact["built"]["macs"] == {"float32": 640}
    assert content["not_checked"] == [
        "model.engine: not checked: no NVIDIA GPU (it was built, neither timed nor attacked)"
    ]
    assert exit_code(stage.stage.verdicts(), met=True) == 0
    assert _beside(SimpleNamespace(opened=stage.opened), made, verified=False)["verdict"] is None


@builds
def test_with_a_gpu_the_engine_is_compared_timed_and_attacked(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()

    class OnDouble:
        provider = "double"

        def __call__(self, images):
            with torch.no_grad():
                return model(torch.from_numpy(images)).numpy() + shift

        def layers(self):
            return {"float32": 2}

    shift = 0.0
    monkeypatch.setattr(ours, "missing_gpu", lambda: None)
    monkeypatch.setattr(ours, "load", lambda trt, serialised: OnDouble())
    stage = Stage(tmp_path, model=model).export()
    built = read_built(tmp_path / "artefacts" / "model.engine")
    assert built["inspected_layers"] == {"float32": 2}
    assert 0 <= built["relative_drift"] < 1e-6
    assert built["not_checked"] is None
    stage.stage.verify()
    assert stage.attacked == ["model.engine"]
    (made,) = stage.stage.made()
    assert made.unchecked is None
    assert made.timing is not None
    assert made.timing.provider == "double"
    assert 0 < made.timing.p50_ms <= made.timing.p95_ms
    assert made.timing.runtime.startswith("tensorrt")
    assert stage.stage.not_checked() == []
    shift = 1.0
    with pytest.raises(InputError, match=r"model\.engine drifts by"):
        Stage(tmp_path / "b", also="tensorrt", model=model).export()
    assert not list((tmp_path / "b").rglob("model.engine*"))


def test_without_the_package_the_run_goes_on_unless_it_was_asked_for(tmp_path, monkeypatch):
    hide(monkeypatch)
    stage = Stage(tmp_path)
    stage.stage.check()
    stage.export()
    assert len(stage.said) == 1
    assert "pip install tensorrt-rtx" in stage.said[0]
    assert stage.stage.not_checked() == stage.said
    assert stage.stage.made() == []
    asked = Stage(tmp_path / "b", also="tensorrt")
    with pytest.raises(MissingPackage, match="pip install tensorrt-rtx"):
        asked.stage.check()
    with pytest.raises(MissingPackage, match="pip install tensorrt-rtx"):
        asked.export()
    assert Stage(tmp_path / "c", also="none").export().stage.not_checked() == []


@builds
def test_a_network_that_cannot_be_built_is_a_sentence_unless_it_was_asked_for(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise InputError("'Det' is no operator of TensorRT")

    monkeypatch.setattr(ours, "build_engine", refuse)
    stage = Stage(tmp_path).export()
    assert stage.said == ["tensorrt-fp32: no file was written: 'Det' is no operator of TensorRT"]
    assert stage.stage.not_checked() == stage.said
    with pytest.raises(InputError, match="Det"):
        Stage(tmp_path, also="tensorrt").export()


@pytest.mark.parametrize(
    ("also", "words"),
    [("onnx", "beside --format, got 'onnx' for both"), ("tensort", "no plugin of exporters is called 'tensort'")],
)
def test_a_format_that_cannot_be_beside_is_told_before_anything_is_spent(also, words, tmp_path):
    with pytest.raises(InputError, match=words):
        Stage(tmp_path, also=also).stage.check()
