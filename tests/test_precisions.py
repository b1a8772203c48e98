"""A run in several precisions: which file is which, what each was attacked with, and which of them decides."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from conftest import ATTACK

from rcnas_edge.errors import InputError, UncheckedError
from rcnas_edge.pipeline import verifying
from rcnas_edge.pipeline.console import Silent
from rcnas_edge.pipeline.job import compress, stage
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.stages import Pipeline
from rcnas_edge.precision import counted
from rcnas_edge.setting import TaskSetting

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def setting(small_teacher) -> TaskSetting:
    return TaskSetting(
        subset=300,
        teacher=str(small_teacher),
        attack=ATTACK,
        precision="fp32,int8",
        target_precision="int8",
        qat_epochs=1,
        max_size="70%",
        evaluations=2,
        finalists=1,
        judge_epochs=1,
        epochs=2,
        batch_size=16,
        also="none",
        level="smoke",
        device="cpu",
    )


@pytest.fixture(scope="module")
def finished(setting, tmp_path_factory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("runs") / "a"
    return folder, compress(setting, folder, Silent()).exit_code


def verdict_of(folder: Path, precision: str) -> dict:
    return json.loads((folder / f"verdict.onnx-{precision}.json").read_text())["verdict"]


def test_the_target_precision_is_the_file_that_ships_and_the_other_lies_beside(finished):
    folder, _ = finished
    files = {name: (folder / "artefacts" / name).read_bytes() for name in ("model.onnx", "model.fp32.onnx")}
    kinds = {name: {kind for kind, count in counted(file).items() if count.layers} for name, file in files.items()}
    assert kinds == {"model.onnx": {"int8"}, "model.fp32.onnx": {"fp32"}}
    report = json.loads((folder / "report.json").read_text())
    assert [artefact["precision"] for artefact in report["artefacts"]] == ["int8", "fp32"]
    assert all(artefact["latency"]["p50_ms"] > 0 for artefact in report["artefacts"])
    (size,) = report["budgets"]
    assert size["measured"] == len(files["model.onnx"])
    assert size["measured"] == pytest.approx(size["predicted"], rel=0.15), "a file of 20 kB is mostly names"


def test_int8_is_fine_tuned_apart_and_fp32_is_of_the_trained_weights(finished):
    folder, _ = finished
    told = [
        json.loads((folder / "artefacts" / f"{name}.json").read_text()) for name in ("model.onnx", "model.fp32.onnx")
    ]
    digests = [sidecar["metadata"]["digest"] for sidecar in told]
    kept = json.loads((folder / "checkpoint-int8" / "recipe.json").read_text())["kept"]
    assert (digests[0] != digests[1]) == kept
    assert not list((folder / "checkpoint-int8").glob("state*"))


def test_each_file_is_attacked_as_it_is_and_with_what_was_found_for_the_other(finished):
    folder, _ = finished
    verdicts = {precision: verdict_of(folder, precision) for precision in ("int8", "fp32")}
    sources = {precision: {row["source"] for row in verdict["attacks"]} for precision, verdict in verdicts.items()}
    assert sources["int8"] >= {"re-import", "checkpoint", "artefact", "model.fp32.onnx"}
    assert sources["fp32"] >= {"checkpoint", "artefact", "model.onnx"}
    assert verdicts["int8"]["evasion"] is not None


@pytest.mark.parametrize(("precision", "file"), [("int8", "model.onnx"), ("fp32", "model.fp32.onnx")])
def test_the_rates_are_the_worst_over_the_points_of_both_files(finished, precision, file):
    """Recomputed from the saved points by a session of ours."""
    folder, _ = finished
    session = onnxruntime.InferenceSession(str(folder / "artefacts" / file))
    robust = None
    for saved in ("int8", "fp32"):
        arrays = np.load(folder / f"verdict.onnx-{saved}.npz")
        for name in ["images", *(name for name in arrays.files if name.startswith("points/"))]:
            right = session.run(None, {"images": arrays[name]})[0].argmax(1) == arrays["labels"]
            robust = right if robust is None else robust & right
    assert robust is not None
    assert int(robust.sum()) == verdict_of(folder, precision)["robust"]["hits"]


def test_the_target_precision_alone_decides(finished, setting):
    folder, code = finished
    expected = {"robust": 0, "not robust": 4, "inconclusive": 5}[verdict_of(folder, "int8")["decision"]]
    assert code == expected
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json") if path.name != "report.json"}
    assert compress(setting, folder, Silent()).exit_code == code
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing is done again"


def test_another_gate_or_level_makes_the_verdicts_of_all_files_anew(finished, setting, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(finished[0], folder)
    asked = replace(setting, min_robust=0.01)
    assert stage(asked, folder, Silent(), lambda pipeline: pipeline.verify()).gates.min_robust == 0.01
    assert verdict_of(folder, "fp32")["gates"]["min_robust"] == 0.01
    assert "model.onnx" in {row["source"] for row in verdict_of(folder, "fp32")["attacks"]}


def test_an_attack_that_failed_is_tried_again(finished, setting, tmp_path, monkeypatch):
    folder = tmp_path / "d"
    shutil.copytree(finished[0], folder)
    (folder / "verdict.onnx-fp32.json").unlink()

    def fail(*arguments, **options):
        raise UncheckedError("no memory")

    with monkeypatch.context() as context:
        context.setattr(verifying, "verify", fail)
        stage(setting, folder, Silent(), lambda pipeline: pipeline.beside.verify())
    told = Pipeline(setting, Run(folder), Silent()).beside.not_checked()
    assert told == ["model.fp32.onnx: not checked: no memory (it was built, timed, not attacked)"]
    stage(setting, folder, Silent(), lambda pipeline: pipeline.beside.verify())
    assert stage(setting, folder, Silent(), lambda pipeline: pipeline.beside.not_checked()) == []
    assert (folder / "verdict.onnx-fp32.json").is_file()


def test_fp16_has_no_verdict_from_a_cpu_as_the_artefact_either(finished, setting):
    pipeline = Pipeline(setting, Run(finished[0]), Silent())
    half = replace(pipeline.shipping.export(), precision="fp16")
    with pytest.raises(UncheckedError, match="a CPU computes fp16 in fp32"):
        pipeline.verifying.verify(half)


def test_fp16_is_written_and_not_checked_on_a_cpu(finished, setting, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(finished[0], folder)
    asked = replace(setting, precision="fp32,int8,fp16")
    stage(asked, folder, Silent(), lambda pipeline: pipeline.export())
    file = folder / "artefacts" / "model.fp16.onnx"
    assert {kind for kind, count in counted(file.read_bytes()).items() if count.layers} == {"fp16"}
    told = stage(asked, folder, Silent(), lambda pipeline: pipeline.beside.not_checked())
    assert [text for text in told if text.startswith("model.fp16.onnx: not checked: a CPU computes fp16 in fp32")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "fp16"}, "measured in fp32 or int8, --target-precision is fp16"),
        ({"precision": "fp32"}, "was made for .*int8.* and this task has .*fp32"),
    ],
)
def test_what_cannot_be_is_one_sentence(finished, setting, change, words):
    with pytest.raises(InputError, match=words):
        compress(replace(setting, target_precision=None, qat_epochs=0, **change), finished[0], Silent())
