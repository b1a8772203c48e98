"""Bundles of a run: made, made anew and never half made; what a board found comes back into the run's report."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ATTACK, SMOKE

from rcnas_edge import api
from rcnas_edge.board import run as board_run
from rcnas_edge.board.bundle import Bundle
from rcnas_edge.cli import main
from rcnas_edge.errors import InputError, UncheckedError
from rcnas_edge.pipeline import bundling, on_board, shipping
from rcnas_edge.pipeline.board_seen import board_codes, unlike, unmeasured
from rcnas_edge.pipeline.bundling import make_bundle
from rcnas_edge.pipeline.console import Silent
from rcnas_edge.pipeline.here import timed_how
from rcnas_edge.pipeline.job import Compressed, compress, stage, take_in, tell
from rcnas_edge.pipeline.on_board import commanded, import_results, measure_on_boards
from rcnas_edge.pipeline.outcome import budgets_met, exit_code
from rcnas_edge.pipeline.stages import Pipeline
from rcnas_edge.setting import TaskSetting, asked_of

pytestmark = pytest.mark.usefixtures("quick_runs")

BENCH = f"{sys.executable} run.py bench --seconds 0.1s"


class Told(Silent):
    """A console that keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def setting(small_teacher: Path) -> TaskSetting:
    return TaskSetting(
        subset=200, teacher=str(small_teacher), attack=ATTACK, max_macs="70%", max_latency="10ms", evaluations=1,
        judge_epochs=1, epochs=1, finalists=1, batch_size=16, also="none", level="smoke", device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(setting: TaskSetting, tmp_path_factory: pytest.TempPathFactory, quick_runs: None) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("runs") / "a"
    return folder, compress(setting, folder, Silent()).exit_code


@pytest.fixture
def run(finished: tuple[Path, int], tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished[0], tmp_path / "a")
    return tmp_path / "a"


@pytest.fixture(scope="module")
def sent_back(finished: tuple[Path, int], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """results.json of a board, on which everything was run."""
    out = tmp_path_factory.mktemp("board") / "results.json"
    for command in (["selftest"], ["replay"], ["bench", "--seconds", "0.1s"]):
        assert board_run.main(["--bundle", str(finished[0] / "bundle"), *command, "--out", str(out)]) == 0
    return json.loads(out.read_text())


def report_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


# making


def test_compress_ends_in_a_bundle_that_says_what_the_report_says(finished: tuple[Path, int]) -> None:
    folder, _ = finished
    bundle, report = Bundle(folder / "bundle"), report_of(folder)
    assert bundle.wrong() == {}
    assert set(os.listdir(folder / "bundle")) == set(bundle.files) | {"manifest.json"}
    assert sorted([*bundle.files, "manifest.json"]) == report["bundle"]["files"]
    assert report["bundle"]["digest"] == bundle.digest
    (artefact,) = bundle.manifest["artefacts"]
    assert artefact["sha256"] == bundle.files["model.onnx"] == report["artefacts"][0]["sha256"]
    assert artefact["verdict"]["robust"] == report["artefacts"][0]["verdict"]["robust"]
    assert artefact["latency"] == report["artefacts"][0]["latency"]
    assert Compressed(folder, folder, None, True, 0).bundle == bundle.folder  # type: ignore[arg-type]
    assert artefact["built"]["macs"] == report["artefacts"][0]["built"]["macs"], "the proof of its precision"
    assert bundle.manifest["budgets"] == report["budgets"]
    assert bundle.labels == tuple("0123456789")
    assert bundle.shape == (1, 8, 8)
    assert not [path for path in folder.iterdir() if path.name.startswith(".bundle")]
    words = (folder / "bundle" / "README.md").read_text()
    assert report["artefacts"][0]["verdict"]["decision"] in words
    assert "macs on host/fp32/1" in words


def test_the_stored_examples_give_the_verdict_s_own_rates(finished: tuple[Path, int], sent_back: dict) -> None:
    folder, _ = finished
    verdict, replay = report_of(folder)["artefacts"][0]["verdict"], sent_back["replay"][0]
    assert replay["n"] == verdict["n"] == SMOKE["images"]
    assert replay["clean"]["hits"] == verdict["clean"]["hits"]
    assert replay["robust"]["hits"] == verdict["robust"]["hits"] < verdict["clean"]["hits"]
    assert replay["host"]["same"] == replay["n"] + replay["points"]
    arrays = Bundle(folder / "bundle").arrays("replay.npz")
    assert np.abs(arrays["points"] - arrays["images"][arrays["of"]]).max() <= 0.03 + 1e-6
    assert len({point.tobytes() for point in arrays["points"]}) == len(arrays["points"])


def test_a_bundle_is_made_anew_when_it_or_a_stage_changed(
    run: Path, setting: TaskSetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, digest = stamps(run / "bundle"), Bundle(run / "bundle").digest
    stage(setting, run, Silent(), make_bundle)
    assert stamps(run / "bundle") == before
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"x")):
        damage(run / "bundle" / "model.onnx")
        stage(setting, run, Silent(), make_bundle)
        assert Bundle(run / "bundle").digest == digest, "the same stages give the same bytes"
        assert Bundle(run / "bundle").wrong() == {}
    (run / "verdict.onnx-fp32.json").unlink()
    stage(setting, run, Silent(), make_bundle)
    assert "replay.npz" not in os.listdir(run / "bundle"), "nothing was attacked, so there is nothing to replay"
    assert Bundle(run / "bundle").manifest["artefacts"][0]["verdict"] is None
    monkeypatch.setattr(bundling, "program", lambda module: "another program\n")
    stage(setting, run, Silent(), make_bundle)
    assert (run / "bundle" / "run.py").read_text() == "another program\n"


@pytest.mark.parametrize("moment", range(6))
def test_a_kill_at_any_moment_leaves_a_run_that_resumes(
    run: Path, setting: TaskSetting, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """The old bundle is whole until the new one is, and the same command makes the new one."""
    digest = Bundle(run / "bundle").digest
    (run / "bundle" / "README.md").write_text("changed")
    calls = 0

    def killed(function):
        def call(*given, **named):
            nonlocal calls
            calls += 1
            if calls > moment:
                raise KeyboardInterrupt
            return function(*given, **named)

        return call

    with monkeypatch.context() as patched:
        for place, name in ((shutil, "copyfile"), (bundling, "write_arrays"), (bundling, "readme"), (os, "replace")):
            patched.setattr(place, name, killed(getattr(place, name)))
        with pytest.raises(KeyboardInterrupt):
            stage(setting, run, Silent(), make_bundle)
    stage(setting, run, Silent(), make_bundle)
    assert Bundle(run / "bundle").digest == digest
    assert Bundle(run / "bundle").wrong() == {}
    assert not [path for path in run.iterdir() if path.name.startswith(".bundle")]


# results of a board


def test_results_of_a_board_come_back_into_the_report(
    run: Path, sent_back: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text(json.dumps(sent_back))
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--out", str(run), "--import", str(tmp_path / "results.json"), "--name", "pi5"])
    report = report_of(run)
    assert (
        ended.value.code
        == {"robust": 0, "not robust": 4, "inconclusive": 5}[report["artefacts"][0]["verdict"]["decision"]]
    )
    told = capsys.readouterr().out
    assert "replay agrees (adversarial" in told
    assert "no attack was run on the board" in told
    (board,) = report["boards"]
    assert (board["name"], board["target"], board["source"], board["files_whole"]) == ("pi5", None, "imported", True)
    (row,) = board["files"]
    assert row["replay"]["decision"] == "replay agrees"
    assert row["replay"]["robust"]["hits"] == report["artefacts"][0]["verdict"]["robust"]["hits"]
    assert row["replay"]["same"]["value"] == 1
    assert row["latency"]["p50_ms"] == sent_back["bench"][0]["p50_ms"]
    assert row["as_expected"] is True
    assert report["budgets"][0]["basis"] == "measured", "it is none of the run's devices, so no budget is about it"
    page = (run / "report.html").read_text()
    assert "replay agrees" in page
    assert "It is transfer" in page


def test_a_board_that_answers_otherwise_fails_the_run(run: Path, setting: TaskSetting, sent_back: dict) -> None:
    worse = json.loads(json.dumps(sent_back))
    entry = worse["replay"][0]
    entry["right"] = "00" * 5 + entry["right"][10:]
    (run.parent / "results.json").write_text(json.dumps(worse))
    told = Told()
    assert stage(setting, run, told, lambda pipeline: take_in(pipeline, run.parent / "results.json")) == 4
    assert any("replay fails" in line for line in told.lines)
    (board,) = report_of(run)["boards"]
    assert "accuracy lost against the host" in board["files"][0]["replay"]["reasons"][0]
    assert stage(setting, run, Silent(), board_codes) == [4], "the run knows it from then on"
    (run.parent / "results.json").write_text(json.dumps(sent_back))
    stage(setting, run, Silent(), lambda pipeline: take_in(pipeline, run.parent / "results.json"))
    assert stage(setting, run, Silent(), board_codes) == [0], (
        "the same board again, in the place of what it said before"
    )


@pytest.mark.parametrize("damaged", [False, True])
def test_a_replay_of_a_file_that_failed_its_selftest_does_not_agree(
    run: Path, setting: TaskSetting, sent_back: dict, damaged: bool
) -> None:
    failed = json.loads(json.dumps(sent_back))
    if damaged:
        failed["selftest"]["wrong"] = {"model.onnx": "changed"}
    else:
        failed["selftest"]["outputs"][0]["passed"] = False
    (run.parent / "results.json").write_text(json.dumps(failed))
    stage(setting, run, Silent(), lambda pipeline: take_in(pipeline, run.parent / "results.json"))
    assert stage(setting, run, Silent(), board_codes) == [5]


def test_the_latency_of_a_board_decides_the_budgets_of_its_device(
    run: Path, setting: TaskSetting, sent_back: dict
) -> None:
    slow = json.loads(json.dumps(sent_back))
    slow["bench"][0]["p50_ms"] = 11.5
    (run.parent / "results.json").write_text(json.dumps(slow))
    results = run.parent / "results.json"
    with pytest.raises(InputError, match=r"one of the run's devices \(host\), got 'pi5'"):
        stage(setting, run, Silent(), lambda pipeline: take_in(pipeline, results, device="pi5"))
    assert stage(setting, run, Silent(), lambda pipeline: take_in(pipeline, results, device="host")) == 3
    latency = next(row for row in report_of(run)["budgets"] if row["name"] == "latency")
    assert (latency["measured"], latency["met"]) == (11.5, False)
    assert latency["basis"].startswith("measured on host")
    assert Bundle(run / "bundle").manifest["budgets"] == report_of(run)["budgets"]


def test_a_limit_in_per_cent_of_a_teacher_who_was_not_on_the_board_is_told(
    run: Path, setting: TaskSetting, sent_back: dict
) -> None:
    (run.parent / "results.json").write_text(json.dumps(sent_back))

    def work(pipeline: Pipeline) -> list[str]:
        import_results(pipeline, run.parent / "results.json", device="host")
        assert unlike(pipeline) == [], "10 ms are 10 ms anywhere"
        bench = pipeline.opened.bench
        budgets = tuple(
            replace(one, asked="60%", relative=True) if one.quantity == "latency" else one for one in bench.budgets
        )
        with pytest.MonkeyPatch.context() as patched:
            how = timed_how(bench, pipeline.opened.task.teacher.digest)
            patched.setattr(shipping, "timed_how", lambda *_: how)  # the file was timed under the other limit
            patched.setitem(vars(bench), "budgets", budgets)
            return unlike(pipeline)

    (sentence,) = stage(setting, run, Silent(), work)
    assert "60% on host/fp32/1 is of a teacher whose latency was that of this machine" in sentence


def test_results_of_other_files_or_examples_are_refused(run: Path, setting: TaskSetting, sent_back: dict) -> None:
    results = run.parent / "results.json"

    def refused(change) -> str:
        content = json.loads(json.dumps(sent_back))
        change(content)
        results.write_text(json.dumps(content))
        with pytest.raises(InputError) as error:
            stage(setting, run, Silent(), lambda pipeline: take_in(pipeline, results))
        assert not (run / "boards").exists()
        return str(error.value)

    assert "that ran there is another one" in refused(lambda found: found["bench"][0].update(of_sha256="0" * 64))
    assert "other stored examples" in refused(lambda found: found["bundle"].update(replay="0" * 64))
    assert "results of a kit" in refused(lambda found: found.update(kit={}))


def test_a_kit_s_import_says_where_a_bundle_s_results_go(sent_back: dict, tmp_path: Path) -> None:
    from rcnas_edge.kit.recorded import import_results

    (tmp_path / "results.json").write_text(json.dumps(sent_back))
    with pytest.raises(InputError, match="results of a bundle: 'rcnas-edge verify --out RUN --import"):
        import_results(tmp_path / "results.json", "pi5", tmp_path)


# --measure-command


def test_a_command_measures_the_board_and_a_missed_budget_is_exit_code_3(run: Path, setting: TaskSetting) -> None:
    asked, told = replace(setting, measure_command=f"host={BENCH}"), Told()

    def measure(pipeline: Pipeline) -> bool:
        measure_on_boards(pipeline)
        tell(pipeline)
        return budgets_met(pipeline)

    assert stage(asked, run, told, measure), "within 10 ms"
    (board,) = report_of(run)["boards"]
    assert (board["target"], board["source"]) == ("host/fp32/1", BENCH)
    assert not (run / "bundle" / "results.json").exists()
    before = (run / "boards" / "host.json").stat().st_mtime_ns
    assert stage(asked, run, Silent(), measure)
    assert (run / "boards" / "host.json").stat().st_mtime_ns == before, "what was measured is not measured again"
    assert any(line.startswith("measuring on host") for line in told.lines)

    slow = (
        "import json, sys; v = json.load(sys.stdin); v['bench'][0]['p50_ms'] = 12.0; print('hi'); print(json.dumps(v))"
    )
    command = f'{BENCH} | {sys.executable} -c "{slow}"'
    assert compress(replace(setting, measure_command=command), run, Silent()).exit_code == 3
    latency = next(row for row in report_of(run)["budgets"] if row["name"] == "latency")
    assert (latency["measured"], latency["met"]) == (12.0, False)
    stage(setting, run, Silent(), tell)
    latency = next(row for row in report_of(run)["budgets"] if row["name"] == "latency")
    assert latency["basis"] == "measured", "without the command this machine's own latency counts again"


def test_a_command_that_only_times_a_board_leaves_its_failed_replay(
    run: Path, setting: TaskSetting, sent_back: dict
) -> None:
    worse = json.loads(json.dumps(sent_back))
    worse["replay"][0]["right"] = "00" * 5 + worse["replay"][0]["right"][10:]
    (run.parent / "results.json").write_text(json.dumps(worse))

    def work(pipeline: Pipeline) -> list[int]:
        import_results(pipeline, run.parent / "results.json", name="host", device="host")
        measure_on_boards(pipeline)
        return board_codes(pipeline)

    untimed = {**sent_back, "bench": [], "replay": [], "selftest": None}
    (run.parent / "untimed.json").write_text(json.dumps(untimed))
    nothing = replace(setting, measure_command=f"cat {run.parent}/untimed.json; true")
    assert stage(nothing, run, Silent(), work) == [4]
    assert json.loads((run / "boards" / "host.json").read_text())["source"] == "imported", "nothing was kept"
    (run.parent / "timed.json").write_text(json.dumps({**untimed, "bench": sent_back["bench"]}))
    timed = replace(setting, measure_command=f"cat {run.parent}/timed.json")
    assert stage(timed, run, Silent(), work) == [4]
    assert stage(timed, run, Silent(), unmeasured) == []


def test_the_slowest_board_of_a_target_decides(run: Path, setting: TaskSetting, sent_back: dict) -> None:
    (run.parent / "timed.json").write_text(json.dumps(sent_back))
    asked = replace(setting, measure_command=f"cat {run.parent}/timed.json")

    def work(pipeline: Pipeline) -> list[tuple[str, float, list[str]]]:
        measure_on_boards(pipeline)
        boards, found = pipeline.shipping.boards, []
        for name, took in (("a", 11.0), ("z", 12.0), ("zz", 0.001)):
            values = {**sent_back, "bench": [{**sent_back["bench"][0], "p50_ms": took}]}
            target = boards.keep(name, pipeline.opened.task.targets[0], "imported", values).target
            assert target is not None
            board, benched = boards.timings(pipeline.shipping.export())[target]
            found.append((board.name, benched.timing.p50_ms, unmeasured(pipeline)))
        return found

    assert stage(asked, run, Silent(), work) == [("a", 11.0, []), ("z", 12.0, []), ("z", 12.0, [])]


def test_a_command_that_fails_is_one_sentence_and_exit_code_5(run: Path, setting: TaskSetting) -> None:
    told = Told()
    asked = replace(setting, measure_command="echo no route to host >&2; exit 255")
    assert compress(asked, run, told).exit_code != 0
    (line,) = [line for line in told.lines if line.startswith("not measured on host")]
    assert "exit code 255, it said: no route to host" in line
    assert any("no route to host" in sentence for sentence in report_of(run)["not_checked"])
    (sentence,) = stage(asked, run, Silent(), unmeasured)
    assert "was to be measured by --measure-command" in sentence
    assert exit_code([], met=True, boards=[5]) == 5
    stage(asked, run, Silent(), tell)
    assert any("was to be measured by --measure-command" in sentence for sentence in report_of(run)["not_checked"])


def test_commands_that_say_nothing_or_never_end_are_told(finished: tuple[Path, int], tmp_path: Path) -> None:
    bundle = finished[0] / "bundle"
    with pytest.raises(UncheckedError, match=r"it did neither \(exit code 0\)"):
        commanded("true", bundle)
    with pytest.raises(UncheckedError, match=r"has 0\.5 s, it took longer and was ended"):
        commanded(f"touch {tmp_path}/begun; sleep 60; touch {tmp_path}/ended", bundle, seconds=0.5)
    assert (tmp_path / "begun").exists()
    assert not (tmp_path / "ended").exists()
    with pytest.raises(InputError, match=r"the command's results: results has .*, there is no machine"):
        commanded("""echo '{"results": 9, "bundle": 0}'""", bundle)
    shown, _ = commanded(f"{sys.executable} run.py selftest > /dev/null; echo done", bundle)
    assert shown.whole is True, "results.json in the folder counts too"
    assert not (bundle / on_board.RESULTS).exists()


def test_what_a_command_started_is_ended_though_the_shell_is_gone(finished: tuple[Path, int], tmp_path: Path) -> None:
    with pytest.raises(UncheckedError, match=r"has 0\.5 s"):
        commanded(f"sleep 60 & echo $! > {tmp_path}/child", finished[0] / "bundle", seconds=0.5)
    child = int((tmp_path / "child").read_text())
    until = time.monotonic() + 5
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(process: int) -> bool:
    """Whether it does anything still: one that ended and that nobody asked for yet does not."""
    status = Path(f"/proc/{process}/status")
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_task_file_never_brings_a_command_for_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tmp_path / "theirs.toml"
    theirs.write_text(TaskSetting(measure_command=f"touch {tmp_path}/ran").to_toml())
    with pytest.raises(SystemExit) as ended:
        main(["compress", str(theirs), "--out", str(tmp_path / "a")])
    assert ended.value.code == InputError.exit_code
    assert "give --measure-command itself" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(InputError, match="holds no command for the shell"):
        api.compress(tmp_path / "a", theirs)
    assert not (tmp_path / "a").exists()
    assert asked_of(theirs, {"measure_command": "mine"}).measure_commands == ((None, "mine"),)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("host=", "got an empty one"),
        ("a\nb", "the one without a name has several"),
        ("host=a\nhost=b", "host has several"),
    ],
)
def test_commands_that_cannot_be_are_refused(given: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        TaskSetting(measure_command=given)


def test_commands_name_their_device() -> None:
    two = TaskSetting(profile="host, raspberry-pi-5", measure_command="raspberry-pi-5=ssh pi a=b\nA=1 run")
    assert two.measure_commands == (("raspberry-pi-5", "ssh pi a=b"), (None, "A=1 run"))
    assert TaskSetting.from_dict({"measure_command": ["x=1 y", "host=z"]}).measure_commands == (
        (None, "x=1 y"),
        ("host", "z"),
    )
    own = TaskSetting(profile="host, raspberry-pi-5", measure_command="raspberry-pi-5=ssh pi").for_each()
    assert {name: one.measure_command for name, one in own.items()} == {"host": None, "raspberry-pi-5": "ssh pi"}
    with pytest.raises(InputError, match="each --measure-command names its device"):
        two.for_each()
