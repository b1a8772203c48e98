"""A meta-trained agent on disk: what it holds, whom it fits, and that a search really starts from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ATTACK
from search_doubles import CountingJudge
from test_pipeline import Remembering

from rcnas_edge import agent as agents
from rcnas_edge.agent import FACTS, SHIPPED, WEIGHTS, Agent, find_agent, load_agent, write_agent
from rcnas_edge.attacks import Threat
from rcnas_edge.buffers import read_buffers
from rcnas_edge.cost import costs_of
from rcnas_edge.data import SOURCES
from rcnas_edge.embedding import ENTRIES
from rcnas_edge.errors import InputError
from rcnas_edge.nets import family
from rcnas_edge.pipeline.console import Silent
from rcnas_edge.pipeline.meta_training import DEFAULT_TASKS, told
from rcnas_edge.pipeline.opened import Opened
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.searching import Searching
from rcnas_edge.profile import load_profile
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.memory import Memory, Recall
from rcnas_edge.search.policy import PolicySearch
from rcnas_edge.setting import TaskSetting
from rcnas_edge.space import Architecture, Gene
from rcnas_edge.task import Bench, open_task

DIGITS = Threat.parse("linf:0.1:10")
TASKS = ({"dataset": "digits", "attack": "linf:0.05:10", "teacher": "wrn-10-1"},)
MADE = {"versions": {"python": "3"}, "config": {}}


def genes_of(name: str, size: int = 32) -> tuple[Gene, ...]:
    kind = family("wrn")
    base = kind.network(name, image=(3, size, size), classes=10, mean=(0.5,) * 3, std=(0.2,) * 3)
    return kind.space(base).genes


def an_agent(folder: Path, **changes: Any) -> Agent:
    weights = {"links": torch.arange(6.0).reshape(2, 3), "encoder.bias": torch.ones(4)}
    values: dict[str, Any] = {"family": "wrn", "genes": genes_of("wrn-16-2"), "tasks": TASKS, "seed": 3, "made": MADE}
    return write_agent(folder, changes.pop("weights", weights), **values | changes)


def test_an_agent_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = an_agent(tmp_path / "mine")
    read = load_agent(tmp_path / "mine")
    assert (read.name, read.family, read.seed, read.tasks, read.made) == ("mine", "wrn", 3, TASKS, MADE)
    assert read.entries == ENTRIES
    assert read.sha256 == made.sha256
    torch.testing.assert_close(read.weights["links"], torch.tensor([[0.0, 1, 2], [3, 4, 5]]), rtol=0, atol=0)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [FACTS, WEIGHTS]


def test_it_saw_a_ball_on_a_data_set_whatever_the_steps(tmp_path: Path) -> None:
    made = an_agent(tmp_path / "mine")
    assert made.saw("digits", Threat.parse("linf:0.05:20"))
    assert not made.saw("digits", DIGITS)
    assert not made.saw("cifar10", Threat.parse("linf:0.05:10"))
    assert made.words("digits", DIGITS).endswith("on 1 tasks, not this data set and attack")
    assert made.told("digits", Threat.parse("linf:0.05:10"))["saw_data_and_attack"] is True


def test_two_folders_are_one_data_set_where_their_digests_agree(tmp_path: Path) -> None:
    task = TASKS[0] | {"dataset": "folder"}
    made = an_agent(tmp_path / "mine", tasks=(task | {"data": "aa"}, task | {"attack": "linf:0.2:10"}))
    ball, other = Threat.parse("linf:0.05:10"), Threat.parse("linf:0.2:10")
    assert made.saw("folder", ball, "aa")
    assert made.words("folder", ball, "aa").endswith("among them this data set and attack")
    assert made.told("folder", ball, "aa")["saw_data_and_attack"] is True
    assert not made.saw("folder", ball, "bb")
    assert not made.saw("folder", ball)
    assert not made.saw("folder", other), "what was not recorded is not the same"
    assert not made.saw("folder", other, "aa"), "the data of another task"
    assert made.told("folder", ball, "bb")["saw_data_and_attack"] is False


def test_it_fits_every_teacher_of_the_family_whose_genes_have_its_shape(tmp_path: Path) -> None:
    made = an_agent(tmp_path / "mine")
    for name in ("wrn-16-2", "wrn-28-10", "robustresnet-a1"):
        assert made.misfit("wrn", genes_of(name)) == ""
    # the stem's stride is searched from 64 pixels on
    assert made.misfit("wrn", genes_of("wrn-16-2", 64)).endswith("mine and the space differ in stem.stride")
    assert "mine is of wrn and the students are of resnet" in made.misfit("resnet", genes_of("wrn-16-2"))
    assert "vector of its version" in replace(made, entries=("attack",)).misfit("wrn", genes_of("wrn-16-2"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "an agent of schema 1"),
        ({"genes": "many"}, r"must have genes \(list\)"),
        ({"genes": [["a", 1]]}, "list genes and tasks"),
        ({"tasks": [{"dataset": "digits"}]}, "list genes and tasks"),
        ({"sha256": "0"}, "names by sha256"),
    ],
)
def test_a_damaged_agent_is_one_sentence(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    an_agent(tmp_path / "mine")
    path = tmp_path / "mine" / FACTS
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=words):
        load_agent(tmp_path / "mine")


def test_the_default_is_left_with_a_sentence_and_what_was_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(asked: str | None, size: int = 32) -> agents.Start:
        return find_agent(asked, family="wrn", genes=genes_of("wrn-16-2", size), dataset="digits", threat=DIGITS)

    monkeypatch.setattr(agents, "ASSETS", tmp_path)
    assert find(None).agent is None
    assert find(None).words == "the search starts from scratch: no agent for the family wrn ships"
    an_agent(tmp_path / "agent-wrn")
    found = find(None)
    assert found.agent is not None
    assert found.words.startswith("the search starts from the agent agent-wrn")
    assert find("agent-wrn").agent is not None
    assert find("none").agent is None
    assert find(None, 64).agent is None
    assert "genes of equal shape" in find(None, 64).words
    with pytest.raises(InputError, match=r"differ in stem\.stride: take another --agent, or --agent none"):
        find("agent-wrn", 64)
    with pytest.raises(InputError, match=r"elsewhere holds no agent\.json"):
        find("elsewhere")


@pytest.fixture(scope="module")
def setting(small_teacher: Path) -> TaskSetting:
    return TaskSetting(
        subset=200,
        teacher=str(small_teacher),
        attack=ATTACK,
        profile="raspberry-pi-5",
        max_macs="70%",
        evaluations=2,
        judge_epochs=1,
        device="cpu",
    )


def test_a_search_starts_from_the_agent_and_depends_on_it(
    setting: TaskSetting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Searching(Opened(replace(setting, agent="none"), Run(tmp_path / "a"), Silent()))
    bench, judge = fresh.opened.bench, fresh.judge
    weights = PolicySearch(bench, judge).state_dict()["weights"]
    weights["links"] = weights["links"] + 0.25
    genes = fresh.opened.task.space.genes
    write_agent(tmp_path / "mine", weights, family="wrn", genes=genes, tasks=TASKS, seed=0, made=MADE)
    adopted = []
    adopt = PolicySearch.adopt
    monkeypatch.setattr(PolicySearch, "adopt", lambda search, taken: [adopted.append(taken), adopt(search, taken)])

    console = Remembering()
    asked = replace(setting, agent=str(tmp_path / "mine"))
    taught = Searching(Opened(asked, Run(tmp_path / "b"), console))
    found = taught.search()
    assert len(adopted) == 1
    torch.testing.assert_close(adopted[0]["links"], weights["links"])
    assert found["agent"] == {
        "name": "mine",
        "sha256": load_agent(tmp_path / "mine").sha256,
        "tasks": 1,
        "saw_data_and_attack": False,
    }
    assert (
        "the search starts from the agent mine, meta-trained on 1 tasks, not this data set and attack" in console.said
    )
    assert fresh.search()["agent"] is None
    assert len(adopted) == 1
    assert fresh.depends()["agent"] == "none"
    # the same folder is not continued from another start
    with pytest.raises(InputError, match="was made for agent = 'none'"):
        Searching(Opened(asked, Run(tmp_path / "a"), Silent())).search()


def test_an_agent_is_for_a_strategy_with_a_policy(setting: TaskSetting, tmp_path: Path) -> None:
    an_agent(tmp_path / "mine")
    asked = replace(setting, strategy="random", agent=str(tmp_path / "mine"))
    with pytest.raises(InputError, match="--strategy is random: leave it out"):
        Opened(asked, Run(tmp_path / "a"), Silent()).check()
    Opened(replace(asked, agent=None), Run(tmp_path / "a"), Silent()).check()
    assert Opened(replace(asked, agent=None), Run(tmp_path / "a"), Silent()).start.agent is None


# the one that ships


@pytest.fixture(scope="module")
def shipped() -> Agent:
    return load_agent(SHIPPED["wrn"])


@pytest.fixture(scope="module")
def bench() -> Bench:
    task = open_task(TaskSetting(profile="raspberry-pi-5", max_macs="40%", device="cpu"))
    profiles = {task.target: load_profile("raspberry-pi-5")}
    return Bench(task, profiles, costs_of(task.teacher.layers or (), profiles), teacher_robust=0.9)


def test_the_agent_that_ships_never_saw_a_default_threat_model(shipped: Agent) -> None:
    for name in ("digits", "fashion-mnist", "cifar10", "cifar100"):
        assert not shipped.saw(name, Threat.parse(SOURCES[name].threat))
    drawn = [told(task) for task in read_buffers(DEFAULT_TASKS, data_root="x").sample(64, seed=shipped.seed)]
    places = [drawn.index(dict(task)) for task in shipped.tasks]
    assert places == sorted(places), "its tasks are those that its seed draws"
    assert len(places) == 16


def test_the_agent_that_ships_is_where_a_search_starts(shipped: Agent, bench: Bench) -> None:
    start = find_agent(
        None, family="wrn", genes=bench.space.genes, dataset="digits", threat=Threat.parse(SOURCES["digits"].threat)
    )
    assert start.agent is not None
    assert start.agent.sha256 == shipped.sha256
    search = PolicySearch(bench, CountingJudge(bench.space))
    search.adopt(shipped.weights)
    assert search.state_dict()["memory"] is not None


def test_what_the_agent_that_ships_remembers_orders_the_networks_of_a_task_it_does_not_know(
    shipped: Agent, bench: Bench
) -> None:
    """Each (data, attack) of the shipped teacher is left out in turn, and ordered by the memory of all the others."""
    memory = Memory.from_tensors(shipped.weights)
    assert memory is not None
    judges = list(dict.fromkeys((task["dataset"], task["attack"], task["teacher"]) for task in shipped.tasks))
    assert len(memory) == shipped.made["networks"]
    assert len(judges) == len(set(memory.tasks.tolist())) == 8
    found = []
    for number, (_, _, teacher) in enumerate(judges):
        if teacher == "digits-wrn-16-2":
            out = memory.tasks == number
            others = Memory(*(getattr(memory, name)[~out] for name in ("picks", "costs", "shares", "tasks")))
            unknown = [Architecture(tuple(map(int, picks))) for picks in memory.picks[out]]
            expected = Recall(others, CachedBench(bench)).mean(unknown)
            found.append(float(np.corrcoef(expected, memory.shares[out])[0, 1]))
    assert len(found) == 3
    assert sorted(found)[1] > 0.7, found
    assert min(found) > 0.3, found
