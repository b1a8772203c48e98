"""Meta-training: what tasks are drawn from, what is learnt from them, and that it pays on a task it never saw."""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ATTACK
from search_doubles import OPERATIONS, CountingJudge, TableBench, ToyBench
from test_data import make_folder
from test_pipeline import Remembering

from rcnas_edge.agent import load_agent
from rcnas_edge.attacks import Threat
from rcnas_edge.buffers import Buffers, DataBuffer, MetaTask, Pair, read_buffers
from rcnas_edge.cost import QUANTITIES
from rcnas_edge.data import load_dataset
from rcnas_edge.errors import InputError, TrainingError
from rcnas_edge.pipeline import meta_training
from rcnas_edge.pipeline.console import Console, Silent
from rcnas_edge.pipeline.meta_curves import mean_curve, thirds
from rcnas_edge.pipeline.meta_training import DEFAULT_TASKS, MetaSetting, Opener, feasible_tasks, meta_train, told
from rcnas_edge.pipeline.teach import TeacherSetting
from rcnas_edge.search import meta
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.encoder import PolicyNetwork
from rcnas_edge.search.meta import Job, MetaConfig, MetaTraining, Studied
from rcnas_edge.search.observe import Observer
from rcnas_edge.search.policy import PolicyConfig, PolicySearch
from rcnas_edge.search.pretrain import Lesson, PretrainConfig, _ordered_error, pretrain, random_networks
from rcnas_edge.space import Architecture

# buffers

BUFFERS = Buffers(
    datasets=(
        DataBuffer("digits", ("linf:0.05:10", "linf:0.2:10"), ("wrn-10-1", "wrn-16-2")),
        DataBuffer("cifar10", ("linf:2/255:10",), data_root="somewhere"),
    ),
    budgets={"max_macs": ("none", "40%"), "max_latency": ("none", "60%", "2ms")},
    profiles=("raspberry-pi-5", "pixel-4-gpu"),
    held_out=(Pair.parse("digits linf:0.1:10"), Pair.parse("cifar10 linf:8/255:10")),
)


def test_a_pair_is_a_data_set_and_a_ball() -> None:
    pair = Pair.parse("digits linf:0.1:10")
    assert pair == Pair.of("digits", Threat.parse("linf:0.10:50:0.01"))
    assert Pair.parse("cifar10 linf:8/255:10") == Pair.of("cifar10", Threat.parse("linf:16/510:1"))
    assert pair != Pair.parse("digits linf:0.11:10")
    assert pair != Pair.parse("cifar10 linf:0.1:10")


def test_tasks_are_drawn_by_seed_from_every_buffer_and_always_have_a_budget() -> None:
    drawn = BUFFERS.sample(800, seed=3)
    assert drawn == BUFFERS.sample(800, seed=3)
    assert drawn[:50] == BUFFERS.sample(50, seed=3)
    assert drawn != BUFFERS.sample(800, seed=4)
    assert len(BUFFERS.limits) == 2 * 3 - 1
    # 2 x 2 digits and 1 CIFAR, 5 limits, 2 devices: all of them
    seen = {(task.dataset, task.attack, task.teacher, *task.budgets.items(), task.profile) for task in drawn}
    assert len(seen) == (2 * 2 + 1) * 5 * 2
    assert not {task.pair for task in drawn} & set(BUFFERS.held_out)
    assert all(task.budgets for task in drawn)
    task = next(task for task in drawn if task.dataset == "cifar10")
    setting = task.setting(teacher="folder")
    assert (setting.data_root, setting.attack, setting.profile) == ("somewhere", task.attack, task.profile)
    assert setting.max_macs == task.budgets.get("max_macs")


@pytest.mark.parametrize("attack", ["linf:0.1:10", "linf:0.10:20"])
def test_a_pair_that_is_held_out_is_refused(attack: str) -> None:
    with pytest.raises(InputError, match=r"digits at linf:0\.1 is held out"):
        replace(BUFFERS, datasets=(DataBuffer("digits", ("linf:0.05:10", attack)),))


def test_the_tasks_that_ship_never_have_a_default_threat_model() -> None:
    everything = read_buffers(DEFAULT_TASKS, data_root="somewhere")
    names = {"digits": "linf:0.1:10", "fashion-mnist": "linf:0.1:10", "cifar10": "linf:8/255:10"}
    held_out = {Pair.of(name, Threat.parse(attack)) for name, attack in names.items()}
    assert set(everything.held_out) == held_out
    assert not {pair for buffer in everything.datasets for pair in buffer.pairs} & held_out
    at_hand = read_buffers(DEFAULT_TASKS, only_at_hand=True)
    assert {buffer.name for buffer in at_hand.datasets} == {"digits"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[budgets]\nmax_macs = ['40%']", r"names its data sets as tables \[\[dataset\]\]"),
        ("[[dataset]]\nname = 'digits'\nattacks = ['linf:0.05:10']", r"\[budgets\] has none"),
        ("[[dataset]]\nname = 'digits'\nattack = 'x'", "did you mean 'attacks'"),
        ("[[dataset]]\nname = 'digits'", "has a name and attacks, got name"),
        ("[[dataset]]\nname = 'digits'\nattacks = 'linf:0.05:10'", "attacks of the tasks file .* is a list of texts"),
        ("[[dataset]]\nname = 'digits'\nattacks = ['l2:0.05:10']", "norm is linf for now"),
        (
            "[[dataset]]\nname = 'digits'\nattacks = ['linf:0.05:10']\n[budgets]\nmax_mac = ['40%']",
            "lists of max_latency, .*, got 'max_mac'",
        ),
    ],
)
def test_a_tasks_file_that_does_not_fit_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "tasks.toml").write_text(text)
    with pytest.raises(InputError, match=words):
        read_buffers(tmp_path / "tasks.toml")


# pre-training


def test_the_order_counts_in_full_and_the_level_a_tenth() -> None:
    # means of the groups 2 and 5: (1 + 1 + 0 + 0) / 4, and (1 + 9 + 25 + 25) / 4 in all
    error = _ordered_error(torch.tensor([1.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1]))
    assert float(error) == pytest.approx(0.5 + 0.1 * 15)


def toy(limit: float) -> tuple[ToyBench, CountingJudge]:
    """A toy task that is known by its limit."""
    bench = ToyBench(("macs", limit))
    bench.task_vector = (limit,)
    return bench, CountingJudge(bench.space)


def network_of(bench: CachedBench) -> PolicyNetwork:
    observer = Observer(bench, steps=3)
    generator = torch.Generator().manual_seed(0)
    return PolicyNetwork.fresh(
        bench.space.genes,
        observer.stages,
        features=observer.features,
        costs=len(QUANTITIES),
        generator=generator,
    )


def test_the_value_head_orders_networks_it_never_saw_and_the_policy_is_held() -> None:
    bench, judge = toy(0.7)
    cached = CachedBench(bench)
    known, unseen = random_networks(cached, 60, seed=0), random_networks(cached, 40, seed=1)
    network = network_of(cached)
    with torch.no_grad():  # a policy that has learnt something
        for head in network.heads:
            head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    observer = Observer(cached, steps=3)
    before = network.logits(observer(unseen, [0] * 40)).softmax(dim=1).detach()
    lesson = Lesson(cached, judge.digest, [(one, judge(one).robust) for one in known])
    config = PretrainConfig(updates=120)
    losses = pretrain(network, [lesson], config, steps=3, seed=0)
    assert losses["values"] < 0.005
    assert losses["costs"] < 0.02
    with torch.no_grad():
        values = network.values(observer.finished(unseen))
    wanted = torch.tensor([judge(one).robust / bench.teacher_robust for one in unseen])
    assert float(torch.corrcoef(torch.stack([values, wanted]))[0, 1]) > 0.9
    assert float((values - wanted).mean().abs()) < 0.1
    after = network.logits(observer(unseen, [0] * 40)).softmax(dim=1).detach()
    moved = float((after - before).abs().max())
    assert moved < 0.05
    assert pretrain(network, [], config, steps=3, seed=0) == {}


# the dual level

SMALL = PretrainConfig(updates=5)
NONE = PretrainConfig(updates=0)
QUICK = MetaConfig(evaluations=4, rehearsals=1, rehearsed=4, start=SMALL, lessons=SMALL, last=SMALL)


def enough(limit: float) -> float:
    """The accuracy of the best toy network within the limit, less 0.2 points."""
    bench, judge = toy(limit)
    every = map(Architecture, itertools.product(*(range(len(gene.options)) for gene in bench.space.genes)))
    return max(judge(one).robust for one in every if bench.fits(one)) - 0.002


def evaluations(limit: float, weights: meta.Weights | None, seed: int, most: int = 40) -> int:
    """Networks judged until one is good enough."""
    bench, judge = toy(limit)
    search = PolicySearch(bench, judge, PolicyConfig(seed=seed))
    if weights is not None:
        search.adopt(weights)
    wanted, count = enough(limit), 0
    while count < most and (found := search.step()):
        for candidate in found:
            count += 1
            if candidate.score.robust >= wanted:
                return count
    return most


def test_a_meta_trained_search_needs_a_fraction_of_the_evaluations_on_an_unseen_task() -> None:
    config = MetaConfig(evaluations=8, rehearsals=0, start=NONE, lessons=NONE, last=NONE)
    weights = MetaTraining([0.5, 0.8, 0.6, 0.9, 0.55, 0.85], toy, config).run()
    taught = [evaluations(0.65, weights, seed) for seed in range(4)]
    fresh = [evaluations(0.65, None, seed) for seed in range(4)]
    assert statistics.mean(taught) < 0.6 * statistics.mean(fresh), (taught, fresh)


def same(one: meta.Weights, other: meta.Weights) -> None:
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


def test_a_resumed_training_equals_the_unbroken_one_and_keeps_its_configuration() -> None:
    tasks = [0.5, 0.8, 0.6]
    unbroken = MetaTraining(tasks, toy, QUICK)
    unbroken.run()
    cut = MetaTraining(tasks, toy, QUICK)
    cut.step()
    cut.step()
    state = cut.state_dict()
    resumed = MetaTraining(tasks, toy, QUICK)
    resumed.load_state_dict(state)
    assert resumed.done == 2
    resumed.run()
    same(resumed.weights or {}, unbroken.weights or {})
    assert resumed.studied == unbroken.studied
    assert len(resumed.losses) == 1 + 3
    assert unbroken.step() == ()
    other = MetaTraining(tasks, toy, replace(QUICK, seed=1))
    with pytest.raises(InputError, match="begin a new run"):
        other.load_state_dict(state)


def test_the_tasks_of_a_round_may_be_searched_in_any_order() -> None:
    def backwards(work: Any, jobs: Any) -> list[meta.Studied]:
        return [work(job) for job in reversed(jobs)][::-1]

    config = replace(QUICK, together=2, rehearsals=0)
    one = MetaTraining([0.5, 0.8, 0.6], toy, config)
    other = MetaTraining([0.5, 0.8, 0.6], toy, config, map_jobs=backwards)
    assert len(one.step()) == len(other.step()) == 2
    assert len(one.step()) == len(other.step()) == 1
    same(one.weights or {}, other.weights or {})


def test_a_round_moves_to_the_mean_of_its_searches_and_reptile_a_part_of_the_way() -> None:
    def after_one_round(**changes: Any) -> tuple[meta.Weights, list[meta.Weights]]:
        config = MetaConfig(evaluations=4, together=2, rehearsals=0, start=NONE, lessons=NONE, last=NONE)
        training = MetaTraining([0.5, 0.8], toy, replace(config, **changes))
        found = training.step()
        return training.weights or {}, [one.weights for one in found]

    whole, ends = after_one_round()
    part, _ = after_one_round(update="reptile", reptile_rate=0.3)
    more, _ = after_one_round(update="reptile", reptile_rate=0.6)
    for name, weight in whole.items():
        torch.testing.assert_close(weight, (ends[0][name] + ends[1][name]) / 2)
        # w + 0.3 (m - w) - m = 0.7 (w - m), and 0.4 (w - m) for 0.6
        torch.testing.assert_close(part[name] - weight, 1.75 * (more[name] - weight), atol=1e-6, rtol=1e-4)
    assert any(float((part[name] - whole[name]).abs().max()) > 1e-3 for name in whole)


def test_what_was_judged_is_replayed_under_every_task_of_the_same_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(task: tuple[float, str]) -> tuple[ToyBench, CountingJudge]:
        bench, judge = toy(task[0])
        judge.digest = task[1]
        return bench, judge

    taught: list[list[Lesson]] = []
    monkeypatch.setattr(meta, "pretrain", lambda network, lessons, *_, **__: taught.append(list(lessons)) or {})
    training = MetaTraining([(0.5, "a"), (0.8, "b"), (0.9, "a")], known, replace(QUICK, rehearsals=0))
    training.run()
    first, other, last = taught[-1]
    assert [lesson.judge for lesson in taught[-1]] == ["a", "b", "a"]
    assert first.judged == last.judged
    assert len(first.judged) >= 4
    told = [tuple(one["picks"]) for record in training.studied[::2] for one in record["candidates"]]
    assert {one.picks for one, _ in first.judged} == set(told)
    assert {one.picks for one, _ in other.judged} == {tuple(one["picks"]) for one in training.studied[1]["candidates"]}


def test_a_rehearsal_asks_the_memory_and_never_the_judge() -> None:
    judges: list[CountingJudge] = []

    def known(limit: float) -> tuple[ToyBench, CountingJudge]:
        bench, judge = toy(limit)
        judges.append(judge)
        return bench, judge

    def judged(rehearsals: int) -> tuple[int, meta.Weights]:
        judges.clear()
        training = MetaTraining([0.5, 0.8, 0.6], known, replace(QUICK, rehearsals=rehearsals))
        weights = training.run()
        return sum(sum(judge.judged.values()) for judge in judges), weights

    (plain, without), (rehearsed, with_) = judged(0), judged(3)
    assert plain == rehearsed == 3 * 4
    assert any(float((without[name] - with_[name]).abs().max()) > 1e-3 for name in without)


def test_it_runs_on_a_table() -> None:
    worth = dict(zip(OPERATIONS, (0.0, 0.01, 0.03, 0.06, 0.0), strict=True))
    codes = itertools.product(range(len(OPERATIONS)), repeat=6)
    rows = {code: (0.1 + sum(worth[OPERATIONS[pick]] for pick in code), float(sum(code))) for code in codes}

    def tabular(limit: float) -> tuple[TableBench, CountingJudge]:
        bench = TableBench(limit, rows, column=0)
        return bench, CountingJudge(bench.space, rule=lambda row: row[0])

    training = MetaTraining([0.5, 0.9], tabular, QUICK)
    training.run()
    assert [len(record["candidates"]) for record in training.studied] == [4, 4]
    assert all(one["feasible"] for record in training.studied for one in record["candidates"])


def test_a_curve_is_the_best_within_the_budgets_as_a_share_of_the_teachers() -> None:
    records = [{"teacher_robust": 0.5, "curve": [0.1, 0.2, 0.2]}, {"teacher_robust": 0.8, "curve": [0.4, 0.8]}]
    assert mean_curve(records) == [(1.0, pytest.approx(35.0)), (2.0, pytest.approx(70.0))]
    assert [len(part) for part in thirds([{}] * 7)] == [2, 3, 2]
    assert thirds(records) == [records]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"update": "maml"}, "an update is one of"), ({"together": 0}, "together"), ({"reptile_rate": 0}, "reptile_rate")],
)
def test_a_configuration_checks_itself(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MetaConfig(**wrong)


# the command


@pytest.fixture(scope="module")
def setting(small_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> MetaSetting:
    path = tmp_path_factory.mktemp("tasks") / "tasks.toml"
    path.write_text(
        "profiles = ['raspberry-pi-5']\nheld_out = ['digits linf:0.1:10']\n[budgets]\nmax_macs = ['50%', '80%']\n"
        f"[[dataset]]\nname = 'digits'\nsubset = 120\nattacks = ['{ATTACK}']\nteachers = ['{small_teacher}']\n"
    )
    return MetaSetting(tasks_file=path, tasks=2, evaluations=2, together=1, device="cpu")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little pre-training, and no rehearsals."""
    lessons = PretrainConfig(networks=4, updates=5)
    config = MetaConfig(evaluations=2, rehearsals=0, start=lessons, lessons=lessons, last=lessons)
    monkeypatch.setattr(MetaSetting, "config", property(lambda self: replace(config, together=self.together)))


@pytest.fixture
def unbroken(setting: MetaSetting, quick: None, tmp_path: Path) -> Path:
    meta_train(setting, tmp_path / "unbroken", Silent())
    return tmp_path / "unbroken"


def test_the_command_leaves_an_agent_and_resumes_to_the_same_one(
    setting: MetaSetting, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = load_agent(unbroken)
    assert agent.saw("digits", Threat.parse(ATTACK))
    assert not agent.saw("digits", Threat.parse("linf:0.1:10"))
    assert [set(task) >= {"dataset", "attack", "teacher", "budgets", "profile"} for task in agent.tasks] == [True] * 2
    assert agent.made["evaluations"] == 4
    assert "Best robust accuracy so far" in (unbroken / "curves.html").read_text()

    written = meta_training.write_state

    def killed(*arguments: Any) -> None:
        written(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(meta_training, "write_state", killed)
        with pytest.raises(KeyboardInterrupt):
            meta_train(setting, tmp_path / "cut", Silent())
    assert not (tmp_path / "cut" / "agent.json").exists()
    resumed = meta_train(setting, tmp_path / "cut", Silent())
    same(resumed.weights, agent.weights)
    with pytest.raises(InputError, match="a folder holds one meta-training"):
        meta_train(replace(setting, tasks=3), tmp_path / "cut", Silent())
    scores = [json.loads(line) for path in (unbroken / "scores").iterdir() for line in path.read_text().splitlines()]
    assert len({entry["network"] for entry in scores}) == len(scores) == agent.made["networks"]


def test_tasks_that_no_network_can_meet_are_left_out_with_a_sentence(setting: MetaSetting, tmp_path: Path) -> None:
    opener, console = Opener(tmp_path, "wrn", 1, 1, 0, "cpu"), Remembering()
    buffers = replace(setting.buffers, budgets={"max_macs": ("1%", "80%")})
    drawn = buffers.sample(8, seed=0)
    tasks = feasible_tasks(buffers, opener, 2, 0, console)
    assert tasks == [task for task in drawn if task.budgets == {"max_macs": "80%"}][:2]
    before = drawn[: drawn.index(tasks[-1])]
    assert len(console.said) == sum(task.budgets == {"max_macs": "1%"} for task in before)
    assert all("no network found keeps these budgets" in line for line in console.said)
    with pytest.raises(InputError, match="0 of 8 can: allow more"):
        feasible_tasks(replace(buffers, budgets={"max_macs": ("1%",)}), opener, 2, 0, console)
    with pytest.raises(InputError, match="no profile is called 'nowhere'"):
        feasible_tasks(replace(buffers, profiles=("nowhere",)), opener, 2, 0, console)


def test_two_folders_of_images_have_a_teacher_and_a_digest_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(setting: TeacherSetting, folder: Path, console: Console) -> None:
        folder.mkdir(parents=True)
        (folder / "training.json").write_text(str(setting.data_root))

    def opened(opener: Opener, task: MetaTask) -> tuple[SimpleNamespace, None]:
        data = load_dataset(task.dataset, root=Path(task.data_root or ""), image_size=task.image_size)
        return SimpleNamespace(task=SimpleNamespace(data=data)), None

    monkeypatch.setattr(meta_training, "train_teacher", trained)
    monkeypatch.setattr(Opener, "__call__", opened)
    monkeypatch.setattr(meta_training.CachedBench, "of", lambda bench: None)
    roots = [make_folder(tmp_path / name, size=size) for name, size in (("a", 12), ("b", 16))]
    data = [DataBuffer("folder", (ATTACK,), ("wrn-10-1",), str(root), image_size=12) for root in roots]
    buffers = Buffers(tuple(data), {"max_macs": ("50%",)}, ("raspberry-pi-5",))
    opener = Opener(tmp_path / "out", "wrn", 1, 1, 0, "cpu")
    tasks = feasible_tasks(buffers, opener, 6, 0, Silent())
    assert {told(task)["data"] for task in tasks} == {
        load_dataset("folder", root=root, image_size=12).digest for root in roots
    }
    for task in tasks:
        assert (opener.teacher(task, Silent()) / "training.json").read_text() == task.data_root
    assert len(list((tmp_path / "out" / "teachers").iterdir())) == 2
    monkeypatch.chdir(tmp_path)
    elsewhere = opener.teacher(replace(tasks[0], data_root=Path(tasks[0].data_root or "").name), Silent())
    assert elsewhere == opener.teacher(tasks[0], Silent()), "a path is another way to the same folder"


def killed(job: Job) -> Studied:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("never reached")


@pytest.mark.slow
def test_a_worker_that_dies_is_one_sentence() -> None:
    with meta_training.workers(2) as mapped, pytest.raises(TrainingError, match="the same command goes on"):
        mapped(killed, [Job(None, None, PolicyConfig(), 1)] * 2)


@pytest.mark.slow
def test_workers_change_nothing(setting: MetaSetting, quick: None, tmp_path: Path) -> None:
    asked = replace(setting, together=2)
    one = meta_train(asked, tmp_path / "one", Silent())
    two = meta_train(replace(asked, workers=2), tmp_path / "two", Silent())
    same(one.weights, two.weights)
