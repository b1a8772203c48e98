"""The whole path on a small teacher: what it leaves behind, what it refuses, and that a killed run resumes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ATTACK, SMOKE
from torch import nn

from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.pipeline.console import Silent
from rcnas_edge.pipeline.job import compress, dry_run, stage
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.stages import Pipeline
from rcnas_edge.setting import TaskSetting
from rcnas_edge.task import open_task

pytestmark = pytest.mark.usefixtures("quick_runs")

PROGRAM = f"""
from dataclasses import replace
from rcnas_edge.verify import LEVELS
LEVELS["smoke"] = replace(LEVELS["smoke"], **{SMOKE})
from rcnas_edge.cli import main
main()
"""
"""The command line in a process of its own, where the level smoke is as small as in the tests."""


class Remembering(Silent):
    """A console that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text):
        self.said.append(text)

    def table(self, title, columns, rows):
        self.said += [title, *(" | ".join(row) for row in rows)]


@pytest.fixture(scope="module")
def setting(small_teacher) -> TaskSetting:
    return TaskSetting(
        subset=300,
        teacher=str(small_teacher),
        attack=ATTACK,
        max_macs="70%",
        evaluations=4,
        judge_epochs=1,
        epochs=2,
        batch_size=16,
        level="smoke",
        device="cpu",
    )


@pytest.fixture(scope="module")
def finished(setting, tmp_path_factory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("runs") / "a"
    return folder, compress(setting, folder, Silent()).exit_code


def test_a_run_leaves_every_file_of_the_sentence(finished):
    folder, code = finished
    for name in [
        "task.toml",
        "search.json",
        "architecture.json",
        "checkpoint/weights.safetensors",
        "checkpoint/recipe.json",
        "checkpoint/history.csv",
        "artefacts/model.onnx",
        "artefacts/model.onnx.json",
        "verdict.onnx-fp32.json",
        "verdict.onnx-fp32.npz",
        "report.json",
        "report.html",
    ]:
        assert (folder / name).is_file(), name
    assert not list(folder.rglob("*.part"))
    assert not list(folder.rglob("state*"))
    report = json.loads((folder / "report.json").read_text())
    assert code in (0, 4, 5)
    assert report["budgets"][0]["met"] is True
    assert report["budgets"][0]["measured"] <= 0.7 * report["budgets"][0]["teacher"]
    assert report["search"]["evaluations"] == 4
    assert sum(candidate["chosen"] for candidate in report["search"]["candidates"]) == 1
    assert report["artefacts"][0]["verdict"]["n"] == SMOKE["images"]
    assert report["failed"] is None


def test_the_rates_can_be_recomputed_from_the_saved_arrays(finished):
    """The file that ships answers as the verdict says, on the adversarial examples that were saved."""
    folder, _ = finished
    verdict = json.loads((folder / "verdict.onnx-fp32.json").read_text())["verdict"]
    session = onnxruntime.InferenceSession(str(folder / "artefacts" / "model.onnx"))
    arrays = np.load(folder / "verdict.onnx-fp32.npz")
    test = open_task(Run(folder).setting()).data.test
    images, labels = test.floats()[arrays["indices"]], test.labels[arrays["indices"]]

    def right(points):
        return session.run(None, {session.get_inputs()[0].name: points})[0].argmax(1) == labels

    clean = right(images)
    assert int(clean.sum()) == verdict["clean"]["hits"]
    adversarial = [arrays[name] for name in arrays.files if name.startswith("points/")]
    assert len(adversarial) >= 4
    assert max(np.abs(points - images).max() for points in adversarial) <= 0.03 + 1e-6
    robust = np.logical_and.reduce([clean, *map(right, adversarial)])
    assert int(robust.sum()) == verdict["robust"]["hits"]
    assert 0 < verdict["robust"]["hits"] < verdict["clean"]["hits"]


def test_a_finished_run_is_not_done_again(finished, setting):
    folder, code = finished
    before = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "report" not in path.name
    }
    assert compress(setting, folder, Silent()).exit_code == code
    assert {path: path.stat().st_mtime_ns for path in before} | {folder / "task.toml": 0} == before | {
        folder / "task.toml": 0
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed = 0 and this task has 1"),
        ({"attack": "linf:0.05:10"}, "attack = 'linf:0.03:5'"),
        ({"max_macs": "60%"}, "budgets"),
        ({"epochs": 3}, "recipe"),
        ({"evaluations": 5}, "evaluations = 4"),
    ],
)
def test_another_task_in_the_same_folder_is_refused(finished, setting, change, words):
    folder, _ = finished
    with pytest.raises(InputError, match=words):
        compress(replace(setting, **change), folder, Silent())
    assert Run(folder).setting() == setting


def test_a_gate_that_cannot_be_passed_is_exit_code_4(finished, setting, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(finished[0], folder)
    verdict = stage(replace(setting, min_robust=1.0), folder, Silent(), lambda pipeline: pipeline.verify())
    assert verdict.exit_code == 4
    assert verdict.decision != "robust"


def test_a_budget_that_cannot_be_met_is_told_before_any_training(setting, tmp_path):
    console = Remembering()
    with pytest.raises(BudgetError, match="macs"):
        compress(replace(setting, max_macs="1%"), tmp_path / "a", console)
    assert not (tmp_path / "a" / "scores").exists()
    assert any("NO" in line for line in console.said)
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert "macs" in report["failed"]
    with pytest.raises(BudgetError, match="macs"):
        compress(replace(setting, max_macs="2%"), tmp_path / "a", console)
    assert Run(tmp_path / "a").setting().max_macs == "2%"  # the task of the report that is there now


def test_a_dry_run_tells_and_leaves_nothing(setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    console = Remembering()
    dry_run(setting, console)
    words = "\n".join(console.said)
    assert "rough estimate" in words
    assert "macs | 70% |" in words
    assert not list(tmp_path.iterdir())


class Own(nn.Module):
    """A classifier that is not of any family of ours."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(64 * 64, 10)

    def forward(self, images):
        return self.head(self.body(images))


def test_the_users_own_classifier_is_the_reference(setting, tmp_path):
    torch.save(Own().state_dict(), tmp_path / "own.pt")
    own = replace(
        setting,
        teacher="tests.test_pipeline:Own",
        weights=str(tmp_path / "own.pt"),
        base="wrn-10-1",
        max_macs="50%",
        evaluations=2,
    )
    pipeline = Pipeline(own, Run(tmp_path / "a"), Silent())
    assert pipeline.opened.bench.teacher_cost.macs == 64 * (9 * 64 + 9 * 64 * 64) + 64 * 64 * 10
    assert pipeline.opened.bench.teacher_cost.params == sum(parameter.numel() for parameter in Own().parameters())
    assert pipeline.opened.bench.teacher_cost.latency > 0
    picked = pipeline.search()
    assert picked["network"]["classes"] == 10
    assert not pipeline.opened.task.inherits


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": "tests.test_pipeline:Nobody", "weights": "x"}, "Nobody"),
        ({"teacher": "tests.test_pipeline:Own"}, "needs --weights"),
        ({"teacher": "nowhere"}, "is none of them"),
        ({"dataset": "cifar10", "teacher": None, "data_root": "/nowhere"}, "not whole"),
        ({"attack": "l2:1:10"}, "linf"),
        ({"max_latency": "fast"}, "fast"),
        ({"family": "vit"}, "there are: mobilenet, resnet, wrn"),
        ({"recipe": "tradez"}, "pgd-at, rslad"),
        ({"strategy": "annealing"}, "annealing"),
        ({"level": "total"}, "smoke"),
    ],
)
def test_a_misfit_is_one_sentence(setting, tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        compress(replace(setting, **change), tmp_path / "a", Silent())


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_the_same(setting, finished, tmp_path):
    """kill -9 at moments spread over the run; the same command again gives the same architecture and weights."""
    folder, _ = finished
    killed = tmp_path / "killed"
    Run(killed).folder.mkdir()
    for name in ("profile", "teacher", "measured"):  # what was measured is an input here: only timing differs by nature
        subprocess.run(["cp", "-r", str(folder / name), str(killed / name)], check=True)
    (tmp_path / "task.toml").write_text(setting.to_toml())
    command = [sys.executable, "-c", PROGRAM, "compress", str(tmp_path / "task.toml"), "--out", str(killed)]
    moments = np.random.default_rng(0).uniform(3.0, 9.0, size=4)
    for moment in moments:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    for name in ("search.json", "architecture.json"):
        first, second = (json.loads((run / name).read_text()) for run in (folder, killed))
        assert first["depends"] == second["depends"]
        for key in ("recommended", "picks", "network"):
            assert first.get(key) == second.get(key)
    weights = "checkpoint/weights.safetensors"
    assert (folder / weights).read_bytes() == (killed / weights).read_bytes()


def test_ctrl_c_is_130_and_resumable(setting, finished, tmp_path):
    (tmp_path / "task.toml").write_text(setting.to_toml())
    command = [
        sys.executable,
        "-m",
        "rcnas_edge",
        "compress",
        str(tmp_path / "task.toml"),
        "--out",
        str(tmp_path / "a"),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores Ctrl-C, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "a" / ".lock").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # Python ends by the signal itself, a shell's 130 as well, if what was interrupted ran inside exec() of a text
    assert process.returncode in (130, -signal.SIGINT)
    assert "resumes" in errors
    assert "Traceback" not in errors
