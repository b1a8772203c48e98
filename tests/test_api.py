"""The ways in beside the command line: the Python function, TensorBoard's log, completion in the shell, types."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import ATTACK

import rcnas_edge
from rcnas_edge.cli import cli
from rcnas_edge.errors import InputError
from rcnas_edge.pipeline.console import Silent
from rcnas_edge.setting import TaskSetting
from rcnas_edge.tensorboard import TensorboardConsole

pytestmark = pytest.mark.usefixtures("quick_runs")

QUICK = {
    "subset": 300,
    "attack": ATTACK,
    "max_macs": "70%",
    "strategy": "random",
    "evaluations": 2,
    "finalists": 1,
    "judge_epochs": 1,
    "epochs": 2,
    "batch_size": 16,
    "level": "smoke",
    "also": "none",
    "device": "cpu",
}


class Numbers(Silent):
    """A console that keeps the numbers over steps."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int, dict[str, float]]] = []

    def record(self, stage, step, values):
        self.kept.append((stage, step, dict(values)))


@pytest.fixture(scope="module")
def compressed(small_teacher, tmp_path_factory):
    """A run by the Python function from a task file, with one of its values overridden, and the numbers of it."""
    folder = tmp_path_factory.mktemp("api")
    task = TaskSetting.from_dict({**QUICK, "teacher": str(small_teacher), "epochs": 9})
    (folder / "task.toml").write_text(task.to_toml().replace("batch_size", "batch-size"))
    console = TensorboardConsole(numbers := Numbers(), folder / "run")
    run = rcnas_edge.compress(str(folder / "run"), folder / "task.toml", console=console, epochs=2)
    return run, numbers.kept


def test_the_python_function_gives_what_the_files_say(compressed):
    run, _ = compressed
    report = run.report
    assert report["task"]["epochs"] == 2
    assert report["task"]["batch_size"] == 16
    assert run.artefact == run.folder / report["artefacts"][0]["path"]
    assert run.artefact.is_file()
    assert run.verdict.to_dict() == report["artefacts"][0]["verdict"]
    assert run.met is all(budget["met"] for budget in report["budgets"])
    assert run.exit_code == (run.verdict.exit_code if run.met else 3)


def test_the_same_call_again_takes_a_setting_too_and_does_nothing_anew(compressed):
    run, _ = compressed
    before = run.artefact.stat().st_mtime_ns
    numbers = Numbers()
    setting = TaskSetting.from_dict(run.report["task"])
    again = rcnas_edge.compress(run.folder, setting, console=numbers)
    assert (again.exit_code, again.verdict) == (run.exit_code, run.verdict)
    assert run.artefact.stat().st_mtime_ns == before
    assert numbers.kept == []


def test_tensorboard_reads_every_number_that_was_told(compressed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, told = compressed
    assert [(stage, step) for stage, step, _ in told] == [("search", 1), ("search", 2), ("train", 1), ("train", 2)]
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    expected = {(f"{stage}/{name}", step): value for stage, step, found in told for name, value in found.items()}
    kept = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    assert kept == pytest.approx(expected, rel=1e-6)
    assert {"search/robust", "search/latency", "train/loss", "train/robust"} <= {tag for tag, _ in kept}
    best = max(
        candidate["score"]["robust"] for candidate in run.report["search"]["candidates"] if candidate["feasible"]
    )
    assert kept["search/best_within_budgets", 2] == pytest.approx(best)


def test_an_option_that_there_is_not_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"'max_mac'.*'max_macs'"):
        rcnas_edge.compress("somewhere", max_mac="40%")
    assert not os.path.exists("somewhere")


def test_without_tensorboard_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["teacher", "--out", "runs/a", "--log", "tensorboard"])
    assert isinstance(result.exception, InputError)
    assert "pip install 'rcnas-edge[tensorboard]'" in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_the_package_shows_its_public_names_and_loads_nothing_until_one_is_asked_for():
    code = "import sys, rcnas_edge; print(*dir(rcnas_edge)); print(sum(name.startswith(('torch', 'click', 'numpy', "
    code += "'rcnas_edge.')) for name in sys.modules)); print(callable(rcnas_edge.compress))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, loaded, callable_ = done.stdout.splitlines()
    assert {"Compressed", "RcnasError", "TaskSetting", "TerminalConsole", "compress"} <= set(names.split())
    assert (loaded, callable_) == ("0", "True")
    with pytest.raises(AttributeError, match="compres"):
        _ = rcnas_edge.compres


@pytest.mark.parametrize(
    ("words", "expected"),
    [(["comp"], "compress"), (["compress", "--max-l"], "--max-latency"), (["profile", ""], "show")],
)
def test_the_shell_completes_commands_and_flags(words, expected):
    asked = " ".join(["rcnas-edge", *words])
    done = subprocess.run(
        [sys.executable, "-m", "rcnas_edge"],
        env={**os.environ, "_RCNAS_EDGE_COMPLETE": "bash_complete", "COMP_WORDS": asked, "COMP_CWORD": str(len(words))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"plain,{expected}" in done.stdout.splitlines(), done.stderr
