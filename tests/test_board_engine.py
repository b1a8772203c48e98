"""Engines of a bundle on a stand-in for the GPU, whose memory is the host's and which computes by ONNX Runtime."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_doubles import IMAGE, LABELS, small_bundle

from rcnas_edge import deploy
from rcnas_edge.board import run as board_run
from rcnas_edge.board import tensorrt as board_tensorrt
from rcnas_edge.board.bundle import Bundle
from rcnas_edge.board.engine import build_engine, open_network
from rcnas_edge.board.timing import open_session
from rcnas_edge.board.words import Refused

trt = pytest.importorskip("tensorrt_rtx")
NAME = "built.model.engine"


class HostCuda:
    """libcudart whose device memory is the host's."""

    def __init__(self) -> None:
        self.rooms: dict[int, Any] = {}
        self.fails = ""

    def cudaStreamCreate(self, stream: Any) -> int:
        stream._obj.value = 7
        return 0

    def cudaMalloc(self, room: Any, size: Any) -> int:
        if self.fails == "memory":
            return 2
        made = ctypes.create_string_buffer(size.value)
        room._obj.value = ctypes.addressof(made)
        self.rooms[room._obj.value] = made
        return 0

    def cudaMemcpy(self, to: Any, source: Any, size: Any, kind: int) -> int:
        inside = to.value if kind == 1 else source.value
        assert any(start <= inside < start + len(room) for start, room in self.rooms.items()), (
            "a copy to or from the GPU"
        )
        ctypes.memmove(to, source, size)
        return 0

    def cudaFree(self, room: Any) -> int:
        del self.rooms[room.value]
        return 0

    def cudaStreamSynchronize(self, stream: Any) -> int:
        return 0


class HostEngine:
    """A deserialised engine, and its execution context, that runs an ONNX graph on what lies at its addresses."""

    num_io_tensors = 2

    def __init__(self, graph: bytes) -> None:
        self.session = open_session(graph, 1)
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def create_execution_context(self) -> HostEngine:
        return self

    def get_tensor_name(self, place: int) -> str:
        return ("logits", "images")[place]

    def get_tensor_mode(self, name: str) -> Any:
        return trt.TensorIOMode.INPUT if name == "images" else trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *IMAGE) if name == "images" else (-1, len(LABELS))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert shape[0] <= 16, "the most that an engine takes"
        self.shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        size = int(np.prod(self.shape))
        given = np.frombuffer((ctypes.c_float * size).from_address(self.addresses["images"]), np.float32)
        logits = np.ascontiguousarray(self.session.run(None, {"images": given.reshape(self.shape)})[0])
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)
        return True


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bundle(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy on a machine with the stand-in; engines are really built."""
    shutil.copytree(made, tmp_path / "bundle")
    graph, cuda = (tmp_path / "bundle" / "model.onnx").read_bytes(), HostCuda()

    class HostRuntime:
        def __init__(self, log: Any) -> None:
            pass

        def deserialize_cuda_engine(self, serialised: bytes) -> HostEngine:
            return HostEngine(graph)

    monkeypatch.setattr(trt, "Runtime", HostRuntime)
    monkeypatch.setattr(board_tensorrt, "_cuda", lambda refused: cuda)
    monkeypatch.setattr(HostCuda, "there", cuda, raising=False)
    return tmp_path / "bundle"


def test_an_engine_is_built_strongly_typed_and_says_what_it_computes_in(bundle: Path) -> None:
    about = build_engine(Bundle(bundle), None, "tensorrt-rtx")
    assert (about["file"], about["of"]) == (NAME, "model.onnx")
    assert (about["strongly_typed"], about["tf32"]) == (True, False)
    assert set(about["layers"]) <= {"float", "int64"}
    assert about["layers"]["float"] >= 3
    assert (bundle / NAME).stat().st_size == about["bytes"] > 1000
    assert Bundle(bundle).wrong() == {}, "what is built lies beside the bundle's files"


def test_every_command_runs_on_an_engine(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "results.json"), "--model", NAME]

    def run(*arguments: str) -> int:
        return board_run.main(["--bundle", str(bundle), *arguments])

    assert run("build-engine", "--runtime", "tensorrt-rtx", *out[:2]) == 0
    for command in (["selftest"], ["replay"], ["bench", "--seconds", "0.1s"]):
        assert run(*command, *out) == 0, capsys.readouterr().err
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((40, *IMAGE), dtype=np.float32))
    assert run("predict", str(tmp_path / "images.npy"), *out) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    (output,), (replay,), (timed,) = found["selftest"]["outputs"], found["replay"], found["bench"]
    assert (output["of"], output["passed"]) == ("model.onnx", True)
    assert output["of_sha256"] == Bundle(bundle).files["model.onnx"] != output["sha256"]
    assert output["runtime"] == f"tensorrt_rtx {trt.__version__}"
    assert (replay["robust"]["hits"], replay["host"]["same"]) == (15, 45)
    assert timed["p50_ms"] > 0
    assert len(found["predict"]) == 40
    assert found["engines"][0]["file"] == NAME
    assert not HostCuda.there.rooms, "all memory of the GPU is given back"  # type: ignore[attr-defined]


def test_an_engine_of_another_version_or_network_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_engine(Bundle(bundle), None, "tensorrt-rtx")
    about = json.loads((bundle / f"{NAME}.json").read_text())

    def refused(**change: Any) -> str:
        (bundle / f"{NAME}.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(Refused) as error:
            open_network(Bundle(bundle), NAME, None)
        return str(error.value)

    told = refused(runtime={"version": "tensorrt_rtx 0.1", "least": None})
    assert f"was built by tensorrt_rtx 0.1, here is tensorrt_rtx {trt.__version__}: install that version" in told
    assert "is not the engine that was built here" in refused(sha256="0" * 64)
    assert "is not the engine that was built here" in refused(of_sha256="0" * 64)
    assert "was built by 'magic'" in refused(runtime={"version": "magic 1", "least": None})
    (bundle / f"{NAME}.json").unlink()
    with pytest.raises(Refused, match="build it"):
        open_network(Bundle(bundle), NAME, None)
    monkeypatch.delattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    with pytest.raises(Refused, match="built by TensorRT 10 or later"):
        build_engine(Bundle(bundle), None, "tensorrt-rtx")


def test_a_gpu_that_refuses_is_one_sentence(bundle: Path) -> None:
    build_engine(Bundle(bundle), None, "tensorrt-rtx")
    HostCuda.there.fails = "memory"  # type: ignore[attr-defined]
    with pytest.raises(Refused, match="memory for a tensor on the GPU was refused, CUDA error 2"):
        open_network(Bundle(bundle), NAME, None)
    HostCuda.there.fails = ""  # type: ignore[attr-defined]
    assert open_network(Bundle(bundle), NAME, None)(np.zeros((33, *IMAGE), np.float32)).shape == (33, len(LABELS))
    assert deploy.load(bundle, model="other.onnx").predict(np.zeros(IMAGE)).classes.shape == (1,), "without the GPU"
