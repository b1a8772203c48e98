"""What a run leaves in report.json: where its cost lies, why it failed, what to try, and what a later report keeps."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rcnas_edge.errors import BudgetError, TrainingError, UncheckedError
from rcnas_edge.pipeline.console import Silent
from rcnas_edge.pipeline.job import compress, stage, tell
from rcnas_edge.pipeline.outcome import _fill_seconds, advice
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.stages import Pipeline
from rcnas_edge.setting import TaskSetting

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def setting(small_teacher: Path) -> TaskSetting:
    return TaskSetting(
        subset=100, teacher=str(small_teacher), max_macs="70%", evaluations=1, judge_epochs=1, epochs=1, finalists=1,
        level="smoke", device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def failed(setting: TaskSetting, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TaskSetting]:
    """A run that ended because 1 % of the teacher's MACs cannot be met."""
    folder, asked = tmp_path_factory.mktemp("failed") / "a", replace(setting, max_macs="1%")
    with pytest.raises(BudgetError):
        compress(asked, folder, Silent())
    return folder, asked


def told(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_a_failed_run_says_what_ended_it_and_which_budget_to_raise_to_what(failed: tuple[Path, TaskSetting]) -> None:
    found = told(failed[0])
    assert "none does: the cheapest has" in found["failed"]
    assert found["not_checked"] is None, "nothing was there to check"
    (budget,) = found["budgets"]
    first, *rest = found["advice"]
    amount = re.fullmatch(r"Raise --max-macs from 1% to ([\d.]+) k MACs \(1 MAC = 2 FLOPs\) or more: .*", first)
    assert amount is not None
    assert float(amount[1]) * 1e3 == pytest.approx(budget["cheapest"], rel=1e-3)
    assert any("--dry-run" in line for line in rest)
    html = (failed[0] / "report.html").read_text(encoding="utf-8")
    for words in (
        "What ended it",
        "What to try",
        "Raise --max-macs from 1%",
        "the cheapest network found, and what was allowed",
    ):
        assert words.lower() in html.lower()


def test_a_report_that_is_written_again_still_knows_why_the_run_failed(failed: tuple[Path, TaskSetting]) -> None:
    folder, asked = failed
    before = told(folder)
    stage(asked, folder, Silent(), tell)
    assert told(folder) == before
    (folder / "report.json").write_text("{")
    stage(asked, folder, Silent(), tell)
    assert told(folder)["failed"] is None, "a damaged report is made anew from the stages"


def test_a_search_leaves_the_cost_of_its_student_kernel_by_kernel(setting: TaskSetting, tmp_path: Path) -> None:
    stage(setting, tmp_path / "a", Silent(), lambda pipeline: (pipeline.search(), tell(pipeline)))
    found = told(tmp_path / "a")
    (cost,) = found["cost"].values()
    layers = found["architecture"]["layers"]
    assert sum(layer["macs"] for layer in layers) == cost["macs"]
    assert sum(layer["params"] for layer in layers) == cost["params"]
    assert sum(layer["latency_ms"] for layer in layers) == pytest.approx(cost["latency"])
    assert [layers[0]["name"], layers[-1]["name"]] == ["normalize", "overhead"]


def test_advice_follows_what_failed(setting: TaskSetting, tmp_path: Path) -> None:
    pipeline = Pipeline(replace(setting, learning_rate=0.07, batch_size=48), Run(tmp_path / "a"), Silent())
    on_training = " ".join(advice(pipeline, TrainingError("the loss is not a number")))
    assert "--learning-rate (it was 0.07)" in on_training
    assert "--batch-size (it was 48)" in on_training
    assert "same command again" in " ".join(advice(pipeline, UncheckedError("logits are not finite")))
    on_measured = " ".join(advice(pipeline, BudgetError("none of the recommended networks keeps it")))
    assert "more than 1 --evaluations" in on_measured, "each budget can be met, so the search did not find it"


def test_stages_that_were_read_back_keep_the_time_of_their_record() -> None:
    values = {
        "search": {"seconds": 40.04},
        "training": {"seconds": 12.0},
        "artefacts": [{"verdict": None}, {"verdict": {"seconds": 30.0}}],
        "seconds": {"search": 0.0, "export": 3.0, "verify": 31.5, "all": 34.5},
    }
    _fill_seconds(values)
    assert values["seconds"] == {"search": 40.0, "export": 3.0, "verify": 31.5, "train": 12.0, "all": 86.5}
    empty: dict = {"seconds": {}}
    _fill_seconds(empty)
    assert empty == {"seconds": {}}
