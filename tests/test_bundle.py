"""A bundle on a board: run.py alone in a Python with numpy and onnxruntime, old runtimes, damage, and `deploy.load`."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_doubles import IMAGE, LABELS, bare_python, known_examples, network, small_bundle
from PIL import Image

from rcnas_edge import deploy
from rcnas_edge.board import run as board_run
from rcnas_edge.board.bundle import BLANK, Bundle, numbers_of, sealed
from rcnas_edge.board.checks import rate, still_right
from rcnas_edge.board.words import Refused
from rcnas_edge.bundle.program import program
from rcnas_edge.cli import main
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import Rate

QUICK = ("--seconds", "0.2s")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare_python(tmp_path_factory.mktemp("board") / "venv")


def ran(python: Path, bundle: Path, *arguments: str, code: int = 0) -> tuple[dict, str]:
    """results.json and the words of run.py, run as on a board, in a folder of its own."""
    command = [str(python), "-I", str(bundle / "run.py"), *arguments]
    done = subprocess.run(command, cwd=bundle.parent, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    written = json.loads((bundle.parent / "results.json").read_text()) if code != 2 else {}
    assert code == 2 or json.loads(done.stdout) == written, "where no terminal reads it, it is printed too"
    return written, done.stderr


def rewritten(bundle: Path, change) -> None:
    """The manifest with its values changed, sealed anew as one that was made so."""
    values = json.loads((bundle / "manifest.json").read_text())
    change(values)
    text = json.dumps({**values, "digest": BLANK})
    (bundle / "manifest.json").write_text(text.replace(BLANK, sealed(text), 1))


# the one file


def test_run_py_is_one_file_of_old_python_that_imports_nothing_of_ours(tmp_path: Path) -> None:
    text = program("run")
    assert text == program("run")
    tree = ast.parse(text, feature_version=(3, 9))
    named = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            named.add((node.module or ".").split(".")[0])
        if isinstance(node, ast.Call):
            assert not any(word.arg == "strict" for word in node.keywords), "zip(strict=) is of Python 3.10"
    assert named <= set(sys.stdlib_module_names) | {"numpy", "onnxruntime", "PIL"}
    tops = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(tops) == len(set(tops))
    for name in ("time_runs", "Timing", "open_session", "Bundle", "images_of", "main"):
        assert name in tops
    assert "class Kit" not in text, "only what run.py needs is taken of the kit's file"
    code = "import symtable, sys; symtable.symtable(open(sys.argv[1]).read(), 'run.py', 'exec')"
    (tmp_path / "run.py").write_text(text)
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path / "run.py")], check=True)


def test_every_name_that_run_py_uses_is_in_it() -> None:
    import builtins

    tree = ast.parse(program("run"))
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert used - bound - set(dir(builtins)) - {"__file__"} == set()


def test_the_statistics_are_those_of_the_package() -> None:
    generator = np.random.default_rng(0)
    for share in (0.0, 0.03, 0.5, 1.0):
        flags = generator.random(137) < share
        assert rate(flags) == pytest.approx(Rate.of(flags).to_dict())
    right, of = np.array([True, True, False, True]), np.array([0, 1, 1, 2, 3])
    assert still_right(right, np.array([True, True, False, True, True]), of).tolist() == [True, False, False, True]
    assert numbers_of("1.15.0rc1") == (1, 15, 0) < numbers_of("1.15.1") < numbers_of("1.100")


# the commands, on a board with numpy and onnxruntime alone


def test_every_command_runs_with_numpy_and_onnxruntime_alone(bundle: Path, board: Path, tmp_path: Path) -> None:
    import onnxruntime

    found, told = ran(board, bundle, "selftest")
    assert found["selftest"]["files"] == 7
    assert found["selftest"]["wrong"] == {}
    assert [one["file"] for one in found["selftest"]["outputs"]] == ["model.onnx", "other.onnx"]
    for one in found["selftest"]["outputs"]:
        assert (one["drift"], one["same"], one["n"], one["passed"]) == (pytest.approx(0, abs=1e-6), 8, 8, True)
    assert f"onnxruntime {onnxruntime.__version__}; it was checked with 1.0" in told

    found, told = ran(board, bundle, "replay")
    entry, other = found["replay"]
    assert (entry["n"], entry["points"]) == (20, 25)
    assert entry["clean"] == pytest.approx(Rate(20, 20).to_dict())
    assert entry["robust"] == pytest.approx(Rate(15, 20).to_dict()), "every fourth image has a point that fools it"
    assert entry["host"]["same"] == 45
    assert entry["right"] == "fffff0"
    assert other["clean"]["hits"] < 20
    assert other["host"]["same"] == 45
    assert "no attack was run here" in told
    assert found["selftest"] is not None, "each command adds to what is there"

    found, told = ran(board, bundle, "bench", "--model", "other.onnx", *QUICK)
    (timed,) = found["bench"]
    assert timed["file"] == "other.onnx"
    assert 0 < timed["low_ms"] <= timed["p50_ms"] <= timed["p95_ms"]
    assert timed["sessions"] == 3
    found, _ = ran(board, bundle, "bench", "--model", "other.onnx", *QUICK)
    assert len(found["bench"]) == 1, "the second timing is in the place of the first"
    _, told = ran(board, bundle, "bench", *QUICK, "--max-latency", "1us", code=3)
    assert "is above the 0.001 ms" in told

    pixels = np.random.default_rng(5).integers(0, 256, (4, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.stack([pixels, pixels.T]))
    found, told = ran(board, bundle, "predict", str(tmp_path / "a.png"), str(tmp_path / "b.npy"))
    expected = deploy.load(bundle).predict(pixels)
    first, second, third = found["predict"]
    assert first["best"][0]["label"] == second["best"][0]["label"] == expected.labels[0]
    assert first["best"][0]["probability"] == pytest.approx(expected.probabilities.max(), abs=1e-5)
    assert third["place"] == 1
    assert f"b.npy[1]: {third['best'][0]['label']}" in told


def test_what_is_missing_on_the_board_is_one_sentence(bundle: Path, board: Path, tmp_path: Path) -> None:
    _, told = ran(board, bundle, "build-engine", code=2)
    assert told.startswith("error: --runtime tensorrt needs the package tensorrt")
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff")
    assert "without Pillow only .npy and PNG" in ran(board, bundle, "predict", str(tmp_path / "a.jpg"), code=2)[1]
    (tmp_path / "results.json").write_text('{"results": 1, "kit": {}}')
    assert "it would be lost" in ran(board, bundle, "selftest", code=2)[1]
    (tmp_path / "results.json").unlink()
    blocked = "import sys; sys.modules['onnxruntime'] = None; import runpy; sys.argv = ['run.py', 'selftest']; "
    command = [str(board), "-I", "-c", blocked + f"runpy.run_path({str(bundle / 'run.py')!r}, run_name='__main__')"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs onnxruntime, which does not load" in done.stderr


def test_results_of_another_bundle_begin_anew(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.json"
    assert board_run.main(["--bundle", str(bundle), "selftest", "--out", str(out)]) == 0
    rewritten(bundle, lambda values: values.update(network="another"))
    capsys.readouterr()
    assert board_run.main(["--bundle", str(bundle), "predict", str(_image(tmp_path)), "--out", str(out)]) == 0
    assert "begins anew" in capsys.readouterr().err
    assert json.loads(out.read_text())["selftest"] is None


def _image(folder: Path) -> Path:
    np.save(folder / "image.npy", np.zeros(IMAGE, dtype=np.float32))
    return folder / "image.npy"


def oldest_onnxruntime() -> str | None:
    """The oldest release that installs on this Python, by its index; None where there is none at hand."""
    command = [sys.executable, "-m", "pip", "index", "versions", "onnxruntime"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    versions = re.search(r"Available versions: (.*)", told)
    return versions[1].split(", ")[-1].strip() if versions else None


@pytest.mark.slow
def test_a_bundle_of_opset_17_runs_on_the_oldest_onnxruntime(tmp_path: Path) -> None:
    oldest = oldest_onnxruntime()
    if oldest is None:
        pytest.skip("no package index")
    packages = tmp_path / "packages"
    wanted = [f"onnxruntime=={oldest}", "numpy<2" if sys.version_info < (3, 13) else "numpy"]
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), *wanted]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("the package index gives no packages")
    for opset in (17, 18):
        made = small_bundle(tmp_path / f"{opset}", opset=opset)
        boot = f"import sys, runpy; sys.path.insert(0, {str(packages)!r}); sys.argv = sys.argv[1:]; "
        command = [sys.executable, "-I", "-S", "-c", boot + "runpy.run_path(sys.argv[0], run_name='__main__')"]
        for name in ("selftest", "replay"):
            done = subprocess.run([*command, str(made / "run.py"), name], cwd=tmp_path, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert found["selftest"]["outputs"][0]["runtime"] == f"onnxruntime {oldest}"
        assert found["replay"][0]["host"]["same"] == 45
        (tmp_path / "results.json").unlink()


# damage


def test_a_flipped_byte_of_any_file_is_caught_and_named(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(bundle.iterdir()):
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            out = bundle.parent / "results.json"
            assert board_run.main(["--bundle", str(bundle), "selftest", "--out", str(out)]) == 2, (path, place)
            assert path.name in capsys.readouterr().err
        path.unlink()
        assert board_run.main(["--bundle", str(bundle), "selftest", "--out", str(out)]) == 2
        assert path.name in capsys.readouterr().err
        path.write_bytes(whole)
    assert Bundle(bundle).wrong() == {}


def test_a_swapped_file_is_named_with_the_one_in_its_place(bundle: Path) -> None:
    shutil.copy(bundle / "other.onnx", bundle / "model.onnx")
    with pytest.raises(InputError, match=r"model\.onnx is not as it was made, it is other\.onnx"):
        deploy.load(bundle)
    with pytest.raises(InputError, match=r"it is other\.onnx"):
        deploy.load(bundle / "model.onnx")
    assert deploy.load(bundle, model="other.onnx").predict(np.zeros(IMAGE)).labels[0] in LABELS


def test_a_runtime_of_another_version_is_named(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def older(values: dict) -> None:
        values["artefacts"][0]["runtime"] = {"version": "99.1", "least": "99.0"}

    def engine(values: dict) -> None:
        values["artefacts"][1] |= {"format": "tensorrt", "runtime": {"version": "tensorrt 1.2.3", "least": None}}

    rewritten(bundle, older)
    with pytest.raises(InputError, match=r"\(opset 18\) needs onnxruntime 99\.0 or later, here is [\d.]+: install"):
        deploy.load(bundle)
    rewritten(bundle, engine)
    with pytest.raises(InputError, match="needs the package tensorrt, which does not load"):
        deploy.load(bundle, model="other.onnx")


def test_manifests_that_are_none_are_one_sentence(bundle: Path, tmp_path: Path) -> None:
    def refused(folder: Path = bundle) -> str:
        with pytest.raises(Refused) as error:
            Bundle(folder)
        return str(error.value)

    assert "has none that can be read" in refused(tmp_path / "nothing")
    rewritten(bundle, lambda values: values.update(bundle=2))
    assert "bundles of version 1, got 2" in refused()
    rewritten(bundle, lambda values: values.update(bundle=1, files={**values["files"], "../secret": "0"}))
    assert "files lie in its own folder" in refused()
    for key in ("files", "artefacts", "input", "labels", "threads", "digest"):
        text = json.loads((bundle / "manifest.json").read_text())
        del text[key]
        (tmp_path / key).mkdir()
        (tmp_path / key / "manifest.json").write_text(json.dumps(text))
        assert "is damaged" in refused(tmp_path / key)
    (bundle / "manifest.json").write_text("{")
    assert "is damaged" in refused()


def test_a_file_that_answers_otherwise_fails_its_selftest(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on other arithmetic: the files are whole, and the answers are not those that were given for them."""
    reference = Bundle(bundle).arrays("reference.npz")
    reference["logits/model.onnx"] *= 1.01
    np.savez(bundle / "reference.npz", **reference)
    import hashlib

    digest = hashlib.sha256((bundle / "reference.npz").read_bytes()).hexdigest()
    rewritten(bundle, lambda values: values["files"].update({"reference.npz": digest}))
    out = tmp_path / "results.json"
    assert board_run.main(["--bundle", str(bundle), "selftest", "--out", str(out)]) == 5
    assert "OTHERWISE than expected (at most 0.001)" in capsys.readouterr().err
    first, second = json.loads(out.read_text())["selftest"]["outputs"]
    assert first["drift"] == pytest.approx(0.01 / 1.01, rel=1e-3)
    assert (first["passed"], second["passed"]) == (False, True)


# in Python, and by the command line


def test_deploy_loads_a_bundle_without_torch(bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (4, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    classifier = deploy.load(bundle)
    assert (classifier.image, classifier.labels) == (IMAGE, LABELS)
    assert classifier.facts["threat"] == "linf:0.1:10"
    of_path = classifier.predict([tmp_path / "image.png", str(tmp_path / "image.png"), Image.fromarray(pixels)])
    of_array = classifier.predict(pixels[None, None].astype(np.float32) / 255)
    np.testing.assert_allclose(of_path.probabilities, np.repeat(of_array.probabilities, 3, axis=0))
    assert of_path.labels == of_array.labels * 3
    import torch

    with torch.no_grad():
        expected = network(0)(torch.from_numpy(pixels[None, None].astype(np.float32) / 255)).softmax(1).numpy()
    np.testing.assert_allclose(of_array.probabilities, expected, atol=1e-6)
    Image.fromarray(np.zeros((9, 9), dtype=np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="images have 4 x 4 pixels"):
        classifier.predict(tmp_path / "large.png")
    rewritten(bundle, lambda values: values["input"].update(resize="fit"))
    assert len(deploy.load(bundle).predict(tmp_path / "large.png")) == 1
    code = (
        "import sys; from rcnas_edge import deploy; deploy.load(sys.argv[1]).predict(sys.argv[2]); "
        "print([name for name in ('torch', 'onnx', 'sklearn', 'click') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(bundle), str(tmp_path / "image.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["selftest"], 0),
        (["replay", "--model", "model.onnx"], 0),
        (["bench", "--seconds", "0.1s", "--threads", "1"], 0),
        (["bench", "--seconds", "0.1s", "--max-latency", "1us"], 3),
        (["bench", "--max-latency", "fast"], 2),
        (["selftest", "--model", "none.onnx"], 2),
    ],
)
def test_the_command_line_runs_what_run_py_runs(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([arguments[0], str(made), *arguments[1:]])
    assert ended.value.code == code


def test_the_command_line_predicts(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(made), str(_image(tmp_path)), "--out", str(tmp_path / "r.json")])
    assert ended.value.code == 0
    assert re.search(r"image\.npy: (cat|dog|eel) [\d.]+ %", capsys.readouterr().err)


def test_the_doubles_are_as_they_say(made: Path) -> None:
    arrays = Bundle(made).arrays("replay.npz")
    ask = deploy.load(made).run
    again = known_examples(ask)
    np.testing.assert_array_equal(arrays["points"], again.points)
    assert (ask(arrays["images"]).argmax(1) == arrays["labels"]).all()
