"""The run folder: what is done is not done again, what is another's is refused, one process at a time."""

import subprocess
import sys

import pytest

from rcnas_edge.errors import InputError
from rcnas_edge.pipeline.run import Run
from rcnas_edge.setting import TaskSetting


def test_a_stage_is_done_for_what_it_depends_on(tmp_path):
    run = Run(tmp_path)
    assert run.done("search.json", {"seed": 0}) is None
    run.keep("search.json", {"seed": 0, "base": (1, 2)}, {"found": [3]})
    assert run.done("search.json", {"seed": 0, "base": (1, 2)})["found"] == [3]
    with pytest.raises(InputError, match=r"search\.json was made for seed = 0 and this task has 1"):
        run.done("search.json", {"seed": 1, "base": (1, 2)})
    with pytest.raises(InputError, match="level = None"):
        run.done("search.json", {"seed": 0, "base": (1, 2), "level": "smoke"})
    assert run.done("search.json", {"seed": 0, "base": (1, 2)}) is not None


def test_only_anothers_file_is_dropped(tmp_path):
    run = Run(tmp_path)
    run.keep("verdict.json", {"level": "smoke"}, {})
    run.drop_if_other("verdict.json", {"level": "smoke"})
    assert (tmp_path / "verdict.json").exists()
    run.drop_if_other("verdict.json", {"level": "standard"})
    assert not (tmp_path / "verdict.json").exists()
    (tmp_path / "verdict.json").write_text("[]")
    run.drop_if_other("verdict.json", {"level": "standard"})
    with pytest.raises(InputError, match="stage's file of this version"):
        run.done("verdict.json", {"level": "standard"})


def test_two_runs_at_once_are_refused(tmp_path):
    code = f"""
from pathlib import Path
from rcnas_edge.pipeline.run import Run
with Run(Path({str(tmp_path)!r})).locked():
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="one run at a time"), Run(tmp_path).locked():
            pass
        other.kill()
    with Run(tmp_path).locked():
        pass


def test_a_folder_without_a_run_says_how_to_start_one(tmp_path):
    with pytest.raises(InputError, match="rcnas-edge compress"):
        Run(tmp_path).setting()
    Run(tmp_path).keep_setting(TaskSetting(seed=4))
    assert Run(tmp_path).setting().seed == 4


def test_a_file_in_the_way_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can be written"), Run(tmp_path / "file").locked():
        pass
