"""Kits: what is in them, what a board makes of them, and the profile that comes of it; an oracle with known times."""

from __future__ import annotations

import ast
import errno
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from kit_doubles import NEEDED, OVERHEAD, SCALE, WHOLE, KnownBoard, known_ms, measured, network, small_kit

from rcnas_edge.board import layout
from rcnas_edge.board import measure as board
from rcnas_edge.bundle.program import program
from rcnas_edge.cli import main
from rcnas_edge.errors import InputError
from rcnas_edge.kit import make_kit, planned, rows_digest, whole_networks
from rcnas_edge.kit.recorded import import_results, profile_of, summary
from rcnas_edge.kit.results import read_results
from rcnas_edge.measure import measure_profile, runtime_here
from rcnas_edge.measure.planning import timed_part
from rcnas_edge.measure.rowgraph import Pattern, graph_of
from rcnas_edge.measure.specimen import specimen
from rcnas_edge.measure.timing import layout_probe, open_session
from rcnas_edge.pipeline.here import TIMED
from rcnas_edge.profile import Target, load_profile, machine, read_profile
from rcnas_edge.profile.fusion import kernels


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_kit(tmp_path_factory.mktemp("kit"))


# what is packed


def test_a_kit_holds_the_plan_of_every_layout_and_each_model_once(kit: Path) -> None:
    archive = zipfile.ZipFile(kit)
    manifest = json.loads(archive.read("manifest.json"))
    named = {file for pair in manifest["pairs"].values() for file in (pair["one"], pair["many"])}
    named |= {entry["file"] for entry in manifest["networks"].values()} | {manifest["reference"], manifest["probe"]}
    beside = {"manifest.json", "measure.py", "measure_tensorrt.py", "__main__.py", "README.txt"}
    assert len(archive.namelist()) == len(set(archive.namelist()))
    assert set(archive.namelist()) == named | beside
    assert named == set(manifest["files"])
    assert set(manifest["plans"]) == set(TIMED)
    for runtime, names in manifest["plans"].items():
        assert names == [" ".join(map(str, kernel)) for kernel in planned(NEEDED, runtime)]
        assert set(names) <= set(manifest["pairs"])
    shared = set.intersection(*(set(names) for names in manifest["plans"].values()))
    assert any(name.startswith("linear") for name in shared)
    roles = [entry["about"]["role"] for entry in manifest["networks"].values()]
    assert (roles.count("fit"), roles.count("check")) == (6, 12)
    assert archive.read("measure.py").decode() == program("measure")


def test_one_plan_gives_one_zip_and_a_small_one(kit: Path, tmp_path: Path) -> None:
    assert small_kit(tmp_path).read_bytes() == kit.read_bytes()
    wide = graph_of(specimen(("conv", "plain", 3, 1, 1, 8, 8, 256, 256), 4), draws=Pattern()).SerializeToString()
    assert len(wide) > 9e6
    with zipfile.ZipFile(tmp_path / "wide.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("wide.onnx", wide)
    assert (tmp_path / "wide.zip").stat().st_size < len(wide) / 200


def test_a_pattern_makes_ordinary_weights_of_which_no_two_are_equal() -> None:
    kernel = ("conv", "plain", 3, 1, 1, 8, 8, 24, 40)
    model = graph_of(specimen(kernel, 17), draws=Pattern())
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if "weight" in tensor.name]
    assert len(weights) == 17
    assert len({array.tobytes() for array in weights}) == 17
    assert all(np.abs(array).min() > 1e-6 and np.abs(array).max() < 1 for array in weights)
    assert 0.5 < np.std(weights[0]) / np.sqrt(2 / (24 * 9)) < 1.5
    session = open_session(model.SerializeToString(), 1)
    (out,) = session.run(None, {"images": np.random.default_rng(0).random((1, 24, 8, 8), dtype=np.float32)})
    assert np.isfinite(out).all()
    assert out.std() > 0


def test_the_runtime_makes_the_same_graph_of_a_pattern(tmp_path: Path) -> None:
    for layers in (specimen(("conv", "plain", 1, 2, 1, 8, 8, 16, 16), 6), NEEDED[3]):
        found = []
        for draws in (None, Pattern()):
            open_session(graph_of(layers, draws=draws).SerializeToString(), 1, optimised=tmp_path / "graph.onnx")
            found.append([node.op_type for node in onnx.load(str(tmp_path / "graph.onnx")).graph.node])
        assert found[0] == found[1]


def test_a_family_s_kit_has_a_hundred_networks_of_which_no_two_are_equal() -> None:
    from rcnas_edge.pipeline.covering import spaces

    found = whole_networks(spaces("all", None, "3x32x32", 10), 102)
    assert len(found) == len(set(found.values())) == 102
    assert {name.split(" ")[1].split("-")[0] for name in found} == {"mobilenet", "resnet", "wrn"}


# the protocol, with an oracle


@pytest.mark.parametrize("runtime", TIMED)
def test_known_times_are_found_again(kit: Path, tmp_path: Path, runtime: str) -> None:
    out = tmp_path / "results.json"
    assert measured(kit, KnownBoard(kit, runtime), out, threads=(1, 2)) == 0
    profile, _ = import_results(out, "known", tmp_path)
    assert profile.runtime == runtime
    for row in profile.rows:
        assert row.ms == pytest.approx(known_ms(row.kernel, row.threads), rel=1e-3), row
    assert {row.kernel for row in profile.rows} == set(planned(NEEDED, runtime))
    for threads in (1, 2):
        setting = f"fp32/{threads}"
        assert profile.scale[setting] == pytest.approx(SCALE, rel=1e-3)
        assert profile.overhead_ms[setting] == pytest.approx(OVERHEAD, rel=0.02)
        checked = profile.validation[f"{setting}/8x8"]
        assert (checked["n"], checked["within_5"]) == (12, 1.0)
        assert checked["worst"] < 2e-3
        assert checked["spearman"] > 0.99
        for layers in WHOLE.values():
            expected = OVERHEAD + SCALE * sum(known_ms(kernel, threads) for kernel, _ in kernels(layers, runtime))
            found, share = profile.latency(layers, Target("known", "fp32", threads))
            assert found == pytest.approx(expected, rel=2e-3)
            assert share == pytest.approx(1)
    assert read_profile(tmp_path / "known.toml") == profile


def test_a_killed_measurement_goes_on_and_a_slower_clock_changes_nothing(kit: Path, tmp_path: Path) -> None:
    out, begun = tmp_path / "results.json", KnownBoard(kit, "onnxruntime")
    opened = 0

    def interrupt() -> None:
        nonlocal opened
        opened += 1
        if opened == 20:
            raise KeyboardInterrupt

    begun.after = interrupt
    with pytest.raises(KeyboardInterrupt):
        measured(kit, begun, out)
    half = json.loads(out.read_text())["threads"]["1"]
    assert 0 < len(half["pairs"]) < 15
    slower = KnownBoard(kit, "onnxruntime", slowness=1.5)
    assert measured(kit, slower, out) == 0
    whole = json.loads(out.read_text())["threads"]["1"]
    assert whole["pace_ms"] == half["pace_ms"]
    assert {name: whole["pairs"][name] for name in half["pairs"]} == half["pairs"]
    assert not whole["stable"]  # the references before and after
    profile = profile_of(read_results(out), "known")
    for row in profile.rows:
        assert row.ms == pytest.approx(known_ms(row.kernel, 1), rel=1e-3), row
    assert profile.scale["fp32/1"] == pytest.approx(SCALE, rel=1e-3)


def test_further_passes_are_kept_and_their_median_counts(kit: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    runtime = KnownBoard(kit, "onnxruntime")
    measured(kit, runtime, out)
    assert measured(kit, runtime, out, passes=3) == 0
    content = json.loads(out.read_text())
    times = content["threads"]["1"]["pairs"]
    assert {len(samples) for samples in times.values()} == {3}
    name = next(iter(times))
    before = read_results(out).settings[0]
    times[name][0] *= 100  # one outlier
    out.write_text(json.dumps(content))
    assert read_results(out).settings[0].parts == pytest.approx(before.parts)
    assert before.passes == 3
    assert {len(times) for times in content["threads"]["1"]["networks"].values()} == {3}
    assert profile_of(read_results(out), "known").provenance[-1]["passes"] == 3


def test_a_budget_that_is_spent_leaves_the_rest(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))
    runtime = KnownBoard(kit, "onnxruntime")
    opened = board.Kit(kit)
    start = {
        "results": 1,
        "kit": {},
        "runtime": "onnxruntime",
        "machine": {},
        "pairs": {},
        "networks": {},
        "threads": {},
    }
    results = board.Results(tmp_path / "results.json", start)
    left = board.measure(opened, runtime, results, "onnxruntime", (1,), 100.0)
    state = results.content["threads"]["1"]
    assert left > 0
    assert state["pairs"]
    assert state["networks"], "a fifth of the time is for whole networks"
    plan = len(opened.manifest["plans"]["onnxruntime"])
    assert left == plan - len(state["pairs"]) + len(opened.manifest["networks"]) - len(state["networks"])


def test_a_large_kernel_is_timed_by_a_part(kit: Path, tmp_path: Path) -> None:
    kernel = ("conv", "blocked", 3, 1, 1, 4, 4, 512, 512)
    _, share = timed_part(kernel)
    assert share > 1
    out = tmp_path / "results.json"
    measured(kit, KnownBoard(kit, "onnxruntime-nchwc16"), out)
    content = json.loads(out.read_text())
    name = " ".join(map(str, kernel))
    content["pairs"][name] = {"copies": 2, "rows": rows_digest(kernel, 2)}
    content["threads"]["1"]["pairs"][name] = [3.0]
    out.write_text(json.dumps(content))
    (found,) = [row.ms for row in profile_of(read_results(out), "known").rows if row.kernel == kernel]
    # each copy comes with a sum of the part's output in this layout, which is a kernel of no own or one with a row
    assert found == pytest.approx(share * 1.5, rel=0.05)


# the layout, the machine


def test_the_layout_is_read_from_bytes_as_onnx_reads_it(tmp_path: Path) -> None:
    open_session(layout_probe(), 1, optimised=tmp_path / "graph.onnx")
    graph = onnx.load(str(tmp_path / "graph.onnx")).graph
    shapes = {constant.name: list(constant.dims) for constant in graph.initializer}
    blocks = [
        shapes[node.input[1]][0]
        for node in graph.node
        if (node.domain, node.op_type) == ("com.microsoft.nchwc", "Conv") and shapes[node.input[1]][2:] == [3, 3]
    ]
    assert board.block_of(layout_probe()) == (blocks[0] if blocks else 0)
    tensor = onnx.helper.make_tensor("weights", onnx.TensorProto.FLOAT, [300, 2, 1], [0.0] * 600).SerializeToString()
    assert layout._shape(tensor) == (b"weights", [300, 2, 1])


def test_the_board_names_the_machine_as_the_package_does() -> None:
    found = board.machine(board.OnnxRuntime().version)
    assert {key: found[key] for key in machine()} == machine()


# the board: a Python that has numpy and onnxruntime and nothing else of ours


@pytest.fixture(scope="module")
def board_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in ("numpy", "onnxruntime"):
        there = Path(find_spec(name).origin).parent  # type: ignore[union-attr, arg-type]
        for path in (there, there.with_name(f"{name}.libs")):
            if path.is_dir():
                (packages / path.name).symlink_to(path)
    python = folder / "bin" / "python"
    code = "import importlib.util as u; print([n for n in ('torch', 'onnx', 'rcnas_edge', 'numpy') if u.find_spec(n)])"
    told = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert ast.literal_eval(told) == ["numpy"]
    return python


def test_the_whole_round_trip(kit: Path, board_python: Path, tmp_path: Path) -> None:
    small, out = small_kit(tmp_path, 2), tmp_path / "results.json"
    command = [str(board_python), "-I", str(small), "--out", str(out)]
    running = subprocess.Popen(
        [*command, "--passes", "1000"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and running.poll() is None:
        if out.is_file() and json.loads(out.read_text())["threads"].get("1", {}).get("pairs"):
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert running.returncode == -signal.SIGKILL, running.stdout.read()  # type: ignore[union-attr]
    killed = json.loads(out.read_text())["threads"]["1"]["pairs"]
    done = subprocess.run([*command, "--passes", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is complete" in done.stdout
    whole = json.loads(out.read_text())["threads"]["1"]["pairs"]
    assert all(whole[name][: len(times)] == times for name, times in killed.items())
    assert {name for name in whole if len(whole[name]) >= 2} == set(whole)

    model = tmp_path / "model.onnx"
    model.write_bytes(graph_of(NEEDED[1]).SerializeToString())
    timed = subprocess.run(
        [*command, "--model", str(model), "--seconds", "0.5"], capture_output=True, text=True, check=False
    )
    assert timed.returncode == 0, timed.stdout + timed.stderr
    assert "p50" in timed.stdout

    profile, path = import_results(out, "board", tmp_path)
    assert path == tmp_path / "board.toml"
    assert profile.runtime == runtime_here()
    (entry, *_) = [entry for entry in profile.provenance if entry["complete"]]
    assert {key: entry[key] for key in machine()} == machine()
    here = measure_profile("host", NEEDED[:2], path=tmp_path / "host.toml", budget_seconds=60)
    for layers in NEEDED[:2]:
        (there, share), (ours, _) = (found.latency(layers, Target()) for found in (profile, here))
        assert 0.5 < there / ours < 2
        assert share > 0.9
    p50 = read_results(out).models[0]["p50_ms"]
    assert 0.4 < profile.latency(NEEDED[1], Target())[0] / p50 < 2.5
    assert any("rows;" in line for line in summary(profile, path))


def test_a_board_without_onnxruntime_is_told_so(kit: Path, board_python: Path, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules['onnxruntime'] = None; sys.path.insert(0, {str(kit)!r}); import measure; "
        f"sys.exit(measure.main(['--out', {str(tmp_path / 'r.json')!r}]))"
    )
    done = subprocess.run([board_python, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs onnxruntime" in done.stderr
    assert "Traceback" not in done.stderr


def test_measure_is_one_file_of_old_python() -> None:
    tree = ast.parse(program("measure"), feature_version=(3, 9))
    named = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named.add((node.module or ".").split(".")[0])
    assert named <= set(sys.stdlib_module_names) | {"numpy", "onnxruntime"}
    calls = {ast.unparse(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "zip" not in calls or not any(word.arg == "strict" for word in calls["zip"].keywords)  # of 3.10
    assert "hashlib.file_digest" not in calls  # of 3.11


# what goes wrong on the board


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert board.main(list(arguments)) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ")
    assert "\n" not in told
    return told


def test_what_is_wrong_is_one_sentence(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--kit", str(kit), "--out", str(tmp_path / "results.json")]
    assert "is not there: name it by --kit" in refused(capsys, "--kit", str(tmp_path / "none.zip"))
    assert "has none that can be read" in refused(capsys, "--kit", str(tmp_path))
    assert "as 90s, 10min or 1h, got 'soon'" in refused(capsys, *out, "--budget", "soon")
    assert "cores of this machine, as 1,2, got '0'" in refused(capsys, *out, "--threads", "0")
    assert "cores of this machine" in refused(capsys, *out, "--threads", "9999")
    assert "cannot be read" in refused(capsys, *out, "--model", str(tmp_path / "none.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"none")
    assert "needs a model that ONNX Runtime loads" in refused(capsys, *out, "--model", str(tmp_path / "bad.onnx"))
    nowhere = str(tmp_path / "none" / "results.json")
    assert "cannot be written" in refused(capsys, "--kit", str(kit), "--out", nowhere)
    (tmp_path / "results.json").write_text("{")
    assert "move it away" in refused(capsys, *out)


def test_results_of_another_kit_are_not_gone_on_with(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    measured(kit, KnownBoard(kit, "onnxruntime"), out)
    assert "holds results of another" in refused(capsys, "--kit", str(kit), "--out", str(out))


def test_files_are_checked(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert board.main(["--kit", str(kit), "--check"]) == 0
    assert "as they were packed" in capsys.readouterr().out
    zipfile.ZipFile(kit).extractall(tmp_path)
    assert board.main(["--kit", str(tmp_path), "--check"]) == 0
    broken = next((tmp_path / "models").iterdir())
    broken.write_bytes(broken.read_bytes()[:-1] + b"?")
    assert f"{broken.name} is not as it was packed" in refused(capsys, "--kit", str(tmp_path), "--check")
    broken.unlink()
    assert f"{broken.name} cannot be read" in refused(capsys, "--kit", str(tmp_path), "--check")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(kit.read_bytes()[:-100])
    assert "copy it again" in refused(capsys, "--kit", str(cut), "--check")


def test_a_full_disk_is_one_sentence_and_keeps_the_last_results(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "results.json"
    results = board.Results(out, {"results": 1})
    results.save()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    results.content["more"] = 1
    with pytest.raises(board.Refused, match=r"No space left on device\): make room"):
        results.save()
    assert json.loads(out.read_text()) == {"results": 1}


def test_a_model_that_does_not_run_stops_no_other(kit: Path, tmp_path: Path) -> None:
    runtime, opened = KnownBoard(kit, "onnxruntime"), 0

    def fail() -> None:
        nonlocal opened
        opened += 1
        if opened == 6:
            raise board.Refused("out of memory")

    runtime.after = fail
    out = tmp_path / "results.json"
    assert measured(kit, runtime, out) == 0
    assert list(json.loads(out.read_text())["threads"]["1"]["failed"].values()) == ["Refused: out of memory"]
    assert profile_of(read_results(out), "known").rows


# the commands


def test_the_commands_say_what_they_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rcnas_edge import kit as kits

    monkeypatch.setattr(kits, "NETWORKS", 4)
    out = tmp_path / "kit.zip"
    with pytest.raises(SystemExit) as ended:
        main(["profile", "kit", "--family", "wrn", "--base", "wrn-10-1", "--image", "1x8x8", "--out", str(out)])
    assert not ended.value.code
    told = capsys.readouterr().out
    assert "4 whole networks" in told
    assert "python3 kit.zip" in told
    assert board.Kit(out).check().startswith("all ")

    monkeypatch.setenv("RCNAS_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "results.json"
    known = small_kit(tmp_path / "known")
    measured(known, KnownBoard(known, "onnxruntime"), results)
    with pytest.raises(SystemExit) as ended:
        main(["profile", "import", str(results), "--name", "pi5"])
    assert not ended.value.code
    told = capsys.readouterr().out
    assert "100 % within 5 %" in told
    assert "Spearman" in told
    assert load_profile("pi5").latency(network((8, 8, 8)), Target("pi5"))[1] == pytest.approx(1)


def test_names_threads_and_files_that_cannot_be_are_refused(kit: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    measured(kit, KnownBoard(kit, "onnxruntime"), out)
    with pytest.raises(InputError, match="'host' is the machine that a profile is used on"):
        import_results(out, "host", tmp_path)
    with pytest.raises(InputError, match="the name of a profile"):
        import_results(out, "../pi5", tmp_path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        import_results(tmp_path / "none.json", "pi5", tmp_path)
    with pytest.raises(InputError, match="--image is channels x height x width"):
        make_kit(tmp_path / "kit.zip", "wrn", None, "32x32", 10, (1,), lambda share, text: None)
    content = json.loads(out.read_text())
    content["threads"]["1"]["pairs"] = {}
    out.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"has none: let measure\.py run longer"):
        import_results(out, "pi5", tmp_path)


# TensorRT, on a stand-in: there is no GPU where this is tested


class FakeCuda:
    """libcudart without a GPU: what is allocated, copied, freed and waited for."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.sizes, self.freed, self.waits = fails, [], 0, 0  # type: ignore[var-annotated]

    def cudaStreamCreate(self, stream: object) -> int:
        stream._obj.value = 7  # type: ignore[attr-defined]
        return 0

    def cudaMalloc(self, room: object, size: object) -> int:
        self.sizes.append(size.value)  # type: ignore[attr-defined]
        room._obj.value = 4096 * len(self.sizes)  # type: ignore[attr-defined]
        return 2 if self.fails == "memory" else 0

    def cudaMemcpy(self, room: object, source: object, size: object, kind: int) -> int:
        assert kind == 1
        return 0

    def cudaFree(self, room: object) -> int:
        self.freed += 1
        return 0

    def cudaStreamSynchronize(self, stream: object) -> int:
        self.waits += 1
        return 0


class FakeEngine:
    """A deserialised engine with one image and its logits, which is its own execution context."""

    num_io_tensors = 2

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}
        self.runs = 0

    def create_execution_context(self) -> FakeEngine:
        return self

    def get_tensor_name(self, place: int) -> str:
        return ("logits", "images")[place]

    def get_tensor_mode(self, name: str) -> object:
        import tensorrt_rtx as trt

        return trt.TensorIOMode.INPUT if name == "images" else trt.TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, 1, 8, 8) if name == "images" else (1, 10)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return (name, shape) == ("images", (1, 1, 8, 8))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.runs += 1
        return stream == 7


def test_tensorrt_builds_and_runs_a_model_of_the_kit_on_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from rcnas_edge.board.tensorrt import TensorRt

    cuda, engine = FakeCuda(), FakeEngine()
    held: list[int] = []

    class FakeRuntime:
        def __init__(self, log: object) -> None:
            pass

        def deserialize_cuda_engine(self, serialised: bytes) -> FakeEngine:
            held.append(len(serialised))
            return engine

    monkeypatch.setattr(trt, "Runtime", FakeRuntime)
    runtime = TensorRt("tensorrt-rtx", trt, cuda, board.Refused, board.Runner)
    assert runtime.version.startswith("tensorrt_rtx ")
    assert runtime.name(b"", list(TIMED)) == ("tensorrt-rtx", "onnxruntime")
    runner = runtime.open(graph_of(NEEDED[0], draws=Pattern()).SerializeToString(), 1)  # really built
    assert held[0] > 10_000
    assert (runner.times(5) > 0).all()
    assert (engine.runs, cuda.waits) == (5, 5)
    assert cuda.sizes == [4 * 64, 4 * 10]
    assert engine.addresses == {"images": 4096, "logits": 8192}
    del runner
    assert cuda.freed == 2
    with pytest.raises(board.Refused, match="TensorRT does not read this model"):
        runtime.open(b"none", 1)
    runtime.cuda = FakeCuda(fails="memory")
    with pytest.raises(board.Refused, match="memory for a tensor on the GPU was refused, CUDA error 2"):
        runtime.open(graph_of(NEEDED[0]).SerializeToString(), 1)


def test_tensorrt_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from rcnas_edge.board import tensorrt as board_tensorrt

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(board.Refused, match="--runtime tensorrt needs the package tensorrt"):
        board_tensorrt.open_runtime("tensorrt", board.Refused, board.Runner)
    monkeypatch.setattr(board_tensorrt, "LIBRARIES", ("libnone.so",))
    with pytest.raises(board.Refused, match=r"none of libnone\.so loads: install CUDA"):
        board_tensorrt._cuda(board.Refused)
    ast.parse(Path(board_tensorrt.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
