"""A full disk, a folder that cannot be written, a signal, a second run: each is one sentence, and the run resumes.

Kills at random moments, and a disk that is really full: `tests/benchmarks/kill_and_resume.py`.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ATTACK

from rcnas_edge.cli import main
from rcnas_edge.pipeline.run import Run
from rcnas_edge.setting import TaskSetting

LIMITED = """
import resource, sys
from pathlib import Path
import torch
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from rcnas_edge.checkpoint import write_json, write_state
from rcnas_edge.verify.keeping import Keeping, Spent

def points(array):
    array[:] = 1
    return Spent()

folder = Path(sys.argv[1])
WRITES = {
    "weights": lambda: write_state(folder / "w.safetensors", {"w": torch.zeros(1_000_000)}, {}),
    "values": lambda: write_json(folder / "v.json", ["x" * 1_000_000]),
    "points": lambda: Keeping(folder).made("apgd", (1_000_000,), points),
}
for name, write in WRITES.items():
    try:
        write()
    except OSError as error:
        print(name, error.errno)
print(*sorted(path.name for path in folder.rglob("*")))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind here")
def test_a_file_that_the_system_refuses_is_an_error_of_the_system_and_leaves_nothing(tmp_path: Path) -> None:
    """Whichever library writes it: also where it would be a signal (a map of a sparse file) or another exception."""
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True)
    assert done.stderr == ""
    expected = [f"{name} {errno.EFBIG}" for name in ("weights", "values", "points")]
    assert done.stdout.splitlines() == [*expected, ""]


@pytest.fixture(scope="module")
def setting(small_teacher: Path) -> TaskSetting:
    return TaskSetting(
        subset=150,
        teacher=str(small_teacher),
        attack=ATTACK,
        max_macs="70%",
        evaluations=2,
        judge_epochs=1,
        finalists=1,
        epochs=1,
        batch_size=16,
        level="smoke",
        device="cpu",
        also="none",
    )


OF_RUNS = ("search.json", "architecture.json", "artefacts/model.onnx", "verdict.onnx-fp32.json", "report.json")


class Full:
    """`os.replace` on a disk that is full, or cannot be written, when a file of a new kind is put into place.

    Of one kind are files of one suffix in one folder; each of OF_RUNS is a kind of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.replace = folder, os.replace
        self.refused: list[str] = []

    def __call__(self, source: Path, path: Path) -> None:
        if self.folder in Path(path).parents and self.kind(path) not in self.refused:
            self.refused.append(self.kind(path))
            number = errno.EROFS if len(self.refused) % 2 else errno.ENOSPC
            raise OSError(number, os.strerror(number), str(path))
        self.replace(source, path)

    def kind(self, path: Path) -> str:
        name = Path(path).relative_to(self.folder)
        return name.as_posix() if name.as_posix() in OF_RUNS else f"{name.parent}/*{name.suffix}"


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_every_kind_of_file_is_refused_once_and_the_run_resumes(
    setting: TaskSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command, again after every refusal, comes to what an unbroken run comes to."""
    task = tmp_path / "task.toml"
    task.write_text(setting.to_toml())
    full = Full(tmp_path / "full")
    monkeypatch.setattr(os, "replace", full)
    code, ends = 2, 0
    while code == 2:
        before = len(full.refused)
        with pytest.raises(SystemExit) as ended:
            main(["compress", str(task), "--out", str(tmp_path / "full")])
        code, errors = ended.value.code, capsys.readouterr().err
        assert "Traceback" not in errors
        assert not list((tmp_path / "full").rglob("*.part"))
        if code == 2:
            ends += 1
            assert len(full.refused) == before + 1
            last = errors.splitlines()[-1]
            assert last.startswith("error: the file system refused: ")
            assert last.endswith("; the same command resumes")
    assert code in (0, 4, 5)
    assert ends == len(full.refused)
    assert set(full.refused) >= {
        *OF_RUNS,
        "./*.toml",
        "./*.npz",
        "./*.html",
        "checkpoint/*.safetensors",
        "measured/*.json",
    }

    for name in ("profile", "teacher/cost.json", "measured"):  # what a clock says is an input here
        (tmp_path / "whole" / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(tmp_path / "full" / name), str(tmp_path / "whole" / name)], check=True)
    with pytest.raises(SystemExit) as ended:
        main(["compress", str(task), "--out", str(tmp_path / "whole")])
    assert ended.value.code == code
    for name in ("checkpoint/weights.safetensors", "artefacts/model.onnx"):
        assert (tmp_path / "full" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    first, second = (json.loads((tmp_path / run / "architecture.json").read_text()) for run in ("full", "whole"))
    assert first == second


def test_a_folder_that_cannot_be_written_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even by root: /proc makes no folders."""
    if not Path("/proc/self").is_dir():
        pytest.skip("no /proc here")
    with pytest.raises(SystemExit) as ended:
        main(["compress", "--out", "/proc/rcnas-edge-run"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --out is a folder that can be written, /proc/rcnas-edge-run is not: ")


def test_a_second_run_in_the_same_folder_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run(tmp_path).locked(), pytest.raises(SystemExit) as ended:
        main(["compress", "--out", str(tmp_path)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: one run at a time works in a folder, another process holds {tmp_path}: wait for it or take another "
        "--out"
    )
    assert os.listdir(tmp_path) == [".lock"]


def test_sigterm_is_130_and_resumable(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rcnas_edge", "compress", "--out", str(tmp_path / "a"), "--evaluations", "50"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "a" / ".lock").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted: the same command resumes"
    assert "Traceback" not in errors
    with Run(tmp_path / "a").locked():  # nobody holds it any more
        pass


def test_an_interrupt_in_the_midst_of_an_exec_is_130_too(tmp_path: Path) -> None:
    """Dataclasses, torch and others execute code that they write; CPython takes such an interrupt for unhandled."""
    (tmp_path / "interrupted.py").write_text(
        "from rcnas_edge import cli\n"
        "cli.cli.main = lambda **settings: exec('raise KeyboardInterrupt')\n"
        "cli.main(['compress'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "interrupted: the same command resumes\n")


def test_what_killed_processes_left_half_written_goes(tmp_path: Path) -> None:
    """Of processes that live, and of other files, nothing."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lives = os.getppid()
    names = [f".search.json.{dead.pid}.part", f"checkpoint/.w.safetensors.{dead.pid}.part", f".x.{os.getpid()}.part"]
    stays = [f".y.{lives}.part", "search.json", "a.part"]
    (tmp_path / "checkpoint").mkdir()
    for name in (*names, *stays):
        (tmp_path / name).write_text("")
    with Run(tmp_path).locked():
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*stays, ".lock"}
