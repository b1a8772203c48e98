"""The judge that trains: what it scores, what it remembers, and a training that diverges."""

import sys

import pytest
import torch

from rcnas_edge.errors import DivergedError, TrainingError
from rcnas_edge.search import judge as judging
from rcnas_edge.search.judge import TrainedJudge
from rcnas_edge.setting import TaskSetting
from rcnas_edge.space import Architecture
from rcnas_edge.task import open_task
from rcnas_edge.teacher import open_teacher
from rcnas_edge.train.recipe import recipe


@pytest.fixture(scope="module")
def task():
    return open_task(TaskSetting(subset=200, device="cpu"))


def judge_of(task, cache, **changes):
    return TrainedJudge(
        task, recipe("rslad-fast", epochs=1, batch_size=64, attack_steps=2).with_(**changes), cache=cache
    )


def smallest(task) -> Architecture:
    return Architecture(tuple(len(gene.options) - 1 for gene in task.space.genes))


def test_a_score_is_kept_on_disk_and_a_line_cut_short_is_judged_again(task, tmp_path, monkeypatch):
    first = judge_of(task, tmp_path)
    score = first(smallest(task))
    assert 0 < score.clean <= 1
    assert 0 <= score.robust <= score.clean
    assert first.spent > 0
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text() + '{"network": "cut sh')
    with monkeypatch.context() as patched:
        patched.setattr(judging, "fit", None)  # whoever trains now fails
        again = judge_of(task, tmp_path)
        assert again(smallest(task)) == score
        assert again.spent == 0
    assert path.read_text().count("\n") == 1
    other = judge_of(task, tmp_path, attack_steps=3)
    assert other.digest != first.digest


def test_a_candidate_whose_training_diverges_counts_as_zero_and_the_search_goes_on(task, tmp_path, caplog):
    score = judge_of(task, tmp_path, learning_rate=1e30, clip=1e30)(smallest(task))
    assert (score.robust, score.clean) == (0, 0)
    assert "counts as 0 %" in caplog.text


def test_memory_that_ran_out_is_no_score(task, tmp_path, monkeypatch):
    def full(*_, **__):
        raise TrainingError("a batch must fit into memory")

    monkeypatch.setattr(judging, "fit", full)
    with pytest.raises(TrainingError, match="memory"):
        judge_of(task, tmp_path)(smallest(task))
    assert not issubclass(TrainingError, DivergedError)


def test_a_changed_factory_is_another_teacher(task, tmp_path, monkeypatch):
    """The digest of the user's own classifier covers its code and its weights."""
    monkeypatch.syspath_prepend(str(tmp_path))
    code = "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    digests = []
    for name, text in (("plainly", code), ("doubly", code + "# changed\n"), ("plainly", code)):
        (tmp_path / "own_classifier.py").write_text(text)
        monkeypatch.delitem(sys.modules, "own_classifier", raising=False)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        digests.append((name, open_teacher("own_classifier:make", str(tmp_path / "weights.pt"), task.data).digest))
    assert digests[0] == digests[2]
    assert digests[0][1] != digests[1][1]
