"""The core of the benchmarks of real training, on digits and a network of seconds: cells, arms, pruning, statistics."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import judge_agreement
import real_search
import real_setting
import versatility
import width_latency

from rcnas_edge.agent import write_agent
from rcnas_edge.errors import InputError
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.scaling import by_rule

TINY = [
    *("--dataset", "digits", "--network", "wrn-10-1", "--train", "64", "--held-out", "20", "--teacher-epochs", "1"),
    *("--epochs", "1", "--test", "12", "--attack-steps", "2", "--square-queries", "4", "--attack", "linf:0.05:4"),
    *("--device", "cpu", "--agent", "none"),
]
BUDGET = "60%"
NO_CHECK = ("--teacher-images", "0", "--check-images", "0")


def asked(folder: Path) -> argparse.Namespace:
    return real_setting.arguments("").parse_args(["--work", str(folder), *TINY])


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return real_setting.RealSetting(asked(tmp_path_factory.mktemp("work")))


def test_a_cell_is_computed_once(tmp_path):
    cells, calls = real_setting.Cells(tmp_path), []
    for _ in range(2):
        found = cells.get("kind", {"a": 1}, lambda: calls.append(1) or {"value": 0.5})
        assert found == {"value": 0.5}
    cells.get("kind", {"a": 2}, lambda: {"value": 1.0})
    assert len(calls) == 1
    assert cells.made == {"kind": 2}


def test_what_was_done_is_not_done_again_by_another_run(setting):
    judge = real_setting.CellJudge(setting, epochs=1)
    first = setting.searched("random", judge, budget=BUDGET, seed=0, evaluations=2)
    trained = setting.trained(setting.student(_picks(first)), epochs=1, seed=0)
    flags = setting.headline(trained)
    again = real_setting.RealSetting(setting.asked)
    assert (
        again.searched("random", real_setting.CellJudge(again, epochs=1), budget=BUDGET, seed=0, evaluations=2) == first
    )
    repeated = again.trained(again.student(_picks(first)), epochs=1, seed=0)
    assert np.array_equal(again.headline(repeated)["robust"], flags["robust"])
    assert again.cells.made == {}
    images = torch.from_numpy(setting.data.test.floats()[:4])
    with torch.no_grad():
        assert torch.equal(trained.load()(images), repeated.load()(images))


def test_a_training_that_was_cut_ends_in_the_same_cell(setting, tmp_path, monkeypatch):
    """Killed after the training and before its weights were written: the next run has its state, and the same end."""
    other = real_setting.RealSetting(asked(tmp_path))
    other.__dict__["teacher_folder"] = setting.teacher_folder
    student = other.student(other.task.space and real_search.scaled(other, BUDGET))
    with monkeypatch.context() as patched:
        patched.setattr(real_setting, "write_state", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            other.trained(student, epochs=1, seed=0)
    assert not list((tmp_path / "student").glob("*.json"))
    resumed = other.trained(student, epochs=1, seed=0)
    whole = setting.trained(student, epochs=1, seed=0)
    assert resumed.seconds is None
    assert (resumed.digest, resumed.robust, resumed.clean) == (whole.digest, whole.robust, whole.clean)
    ours, theirs = resumed.load().state_dict(), whole.load().state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_every_search_judges_equally_many_networks_within_the_budget(setting):
    judge, bench = real_setting.CellJudge(setting, epochs=1), setting.bench(BUDGET)
    for arm in ("rc-nas", "random"):
        found = setting.searched(arm, judge, budget=BUDGET, seed=0, evaluations=3)
        assert len(found["picks"]) == len(found["scores"]) == 3
        assert all(bench.fits(real_search.Architecture(tuple(picks))) for picks in found["picks"])
        assert found["scores"][found["picks"].index(found["best"])] == max(found["scores"])
    before = dict(setting.cells.made)
    assert bench.fits(real_search.scaled(setting, BUDGET))
    assert setting.cells.made == before, "a scaling rule judges nothing"


def test_a_search_without_scaling_rules_is_a_cell_of_its_own_and_finds_its_first_networks_itself(setting):
    judge = real_setting.CellJudge(setting, epochs=1)
    asked_for = {"budget": BUDGET, "seed": 0, "evaluations": 2}
    ruled, drawn = (setting.searched("rc-nas", judge, **asked_for, rules=rules) for rules in (True, False))
    rules = [list(one.picks) for one in by_rule(CachedBench(setting.bench(BUDGET)))]
    assert ruled["picks"] == rules[:2]
    assert rules[0] not in drawn["picks"]


def test_the_arm_with_meta_training_starts_from_the_agent_that_was_asked_for(setting, tmp_path):
    judge = real_setting.CellJudge(setting, epochs=1)
    with pytest.raises(ValueError, match="--agent none asks"):
        setting.search(real_setting.AGENT, judge, budget=BUDGET, seed=0)
    weights = setting.search("rc-nas", judge, budget=BUDGET, seed=7).state_dict()["weights"]
    write_agent(tmp_path, weights, family="wrn", genes=setting.task.space.genes, tasks=[], seed=0, made={})
    other = real_setting.RealSetting(asked(setting.asked.work))
    other.asked.agent = str(tmp_path)
    begun = other.search(real_setting.AGENT, judge, budget=BUDGET, seed=0).state_dict()["weights"]
    fresh = other.search("rc-nas", judge, budget=BUDGET, seed=0).state_dict()["weights"]
    assert all(torch.equal(begun[name], weights[name]) for name in weights)
    assert not all(torch.equal(fresh[name], weights[name]) for name in weights)


def test_pruning_ends_within_the_budget_and_keeps_the_teachers_weights(setting):
    pytest.importorskip("torch_pruning", reason="the extra 'benchmarks' is not installed")
    limit = setting.bench(BUDGET).budgets[0].limit
    # two counts of the teacher, by its rows and by a trace
    assert real_search.macs_of(setting.task.teacher.model, setting.data.image) == setting.teacher.macs
    student = real_search.pruned(setting, BUDGET)
    assert 0.85 * limit < student.macs <= limit
    assert real_search.macs_of(student.build(), setting.data.image) == student.macs
    images = torch.from_numpy(setting.data.test.floats()[:4])
    with torch.no_grad():
        whole = real_search.cut_channels(setting, 0.0)(images)
        assert torch.equal(whole, setting.task.teacher.model(images))
        assert student.build()(images).shape == whole.shape
    teacher = setting.task.teacher.model.classifier.weight
    columns = {tuple(column.tolist()) for column in teacher.T}
    assert all(tuple(column.tolist()) in columns for column in student.build().classifier.weight.T)


def test_effects_have_two_intervals():
    constant = np.full((3, 50), 0.5)
    assert real_search.over_images(constant, resamples=50) == (0.5, 0.5)
    assert real_search.over_seeds(constant) == (0.5, 0.5)
    # means 0 and 2: 1 +- t(0.975, 1 degree) * sqrt(2) / sqrt(2), and t is 12.7062
    low, high = real_search.over_seeds(np.array([[0.0, 0.0], [2.0, 2.0]]))
    assert (low, high) == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-3)
    assert real_search.over_seeds(np.zeros((1, 4))) is None


def test_agreement_by_hand():
    truth = [0.3, 0.1, 0.2, 0.4]
    assert judge_agreement.spearman([3, 1, 2, 4], truth) == pytest.approx(1.0)
    assert judge_agreement.spearman([1, 1, 1, 1], truth) == 0.0
    # two neighbours swapped of four: 1 - 6 * 2 / (4 * 15)
    assert judge_agreement.spearman([4, 1, 2, 3], truth) == pytest.approx(0.8)
    assert judge_agreement.spearman_interval([3, 1, 2, 4], truth, resamples=200)[1] == pytest.approx(1.0)
    assert judge_agreement.lost([9, 0, 0, 1], truth) == pytest.approx(0.1)
    assert judge_agreement.lost([1, 1, 0, 0], truth) == pytest.approx(0.2)


def test_the_whole_of_each_benchmark(setting, capsys, monkeypatch):
    pytest.importorskip("torch_pruning", reason="the extra 'benchmarks' is not installed")
    pytest.importorskip("matplotlib", reason="the extra 'benchmarks' is not installed")
    common = ["--work", str(setting.asked.work), *TINY, "--epochs", "1"]
    runs = {
        real_search: ["--budget", BUDGET, "--evaluations", "2", "--seeds", "0", *NO_CHECK],
        judge_agreement: ["--budget", BUDGET, "--networks", "3", "--lengths", "0", "1", "--fresh-lengths"],
        versatility: [
            *("--budgets", BUDGET, "--evaluations", "2", "--curve-evaluations", "2", "--curve-budget", BUDGET),
            *("--seeds", "0", "--judge-images", "8", "--judge-attack-steps", "2"),
        ],
    }
    for module, more in runs.items():
        monkeypatch.setattr(sys, "argv", [module.__name__, *common, *more])
        module.main()
    told = capsys.readouterr().out
    assert "rc-nas, meta-trained: left out, the search starts from scratch, as --agent none asks" in told
    for words in ("95 % over seeds", "McNemar", "Spearman", "inherited weights, 0 epoch(s)", "- LIPS"):
        assert words in told
    for name in ("versatility-stages.png", "versatility-curves.png"):
        assert (setting.asked.work / name).read_bytes().startswith(b"\x89PNG")


def _picks(found):
    return real_search.Architecture(tuple(found["best"]))


def test_networks_of_any_width_are_timed_beside_the_first(monkeypatch, capsys):
    """The teacher of the table has 77.18 M MACs at 1x28x28, the pruned one 7.68 M, as `real_search.py` counted it."""
    flags = [
        "--networks",
        "1.1.1/8.8.8/16",
        "1.1.1/9.9.9/5",
        "--image",
        "1",
        "8",
        "8",
        "--visits",
        "1",
        "--seconds",
        "0.05",
    ]
    monkeypatch.setattr(sys, "argv", ["width_latency.py", *flags])
    width_latency.main()
    first, second = (line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("1.1.1/"))
    assert first[3] == "1"
    assert float(second[1]) / float(first[1]) == pytest.approx(float(second[-1]), abs=0.1)
    assert 0.3 < float(second[3]) < 3.0
    for text, macs in (("2.2.2/10.20.41/5", 7_679_053), ("2.2.2/32.64.128/16", 77_184_512)):
        assert sum(layer.macs for layer in width_latency.rows(width_latency.network(text, (1, 28, 28)))) == macs
    for text in ("2.2.2/8.16.40", "2.2.2/8.16/16", "2.2.2/8.16.x/16", "2.2.2/0.16.40/16"):
        with pytest.raises(InputError, match=r"a network is blocks/channels/stem|a WRN has three|at least 1"):
            width_latency.network(text, (1, 28, 28))
