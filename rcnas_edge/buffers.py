"""What meta-training draws its tasks from: buffers of data sets with attacks and teachers, of budgets, of devices.

After "Reinforced Compressive Neural Architecture Search for Versatile Adversarial Robustness", KDD 2024 (arXiv
2406.06792): a task is composed of attack, data set and teacher, each drawn at random from its buffer. Ours: budgets and
devices are drawn too, and an attack belongs to a data set, since an epsilon is large or small for its images.
"""

from __future__ import annotations

import difflib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rcnas_edge.attacks import Threat
from rcnas_edge.cost import Limit
from rcnas_edge.errors import InputError
from rcnas_edge.setting import LIMITS, TaskSetting, read_task

NO_BUDGET = "none"
"""In a list of limits: no budget of this kind."""
DIGITS_OF_EPSILON = 9


@dataclass(frozen=True)
class Pair:
    """A data set and a ball: what meta-training and a target task never share.

    Steps are not part of it: candidates are judged by PGD-10 whatever the steps of the threat model are.
    """

    dataset: str
    norm: str
    epsilon: float

    @classmethod
    def of(cls, dataset: str, threat: Threat) -> Pair:
        """The pair of a task."""
        return cls(dataset, threat.norm, round(threat.epsilon, DIGITS_OF_EPSILON))

    @classmethod
    def parse(cls, text: str) -> Pair:
        """The pair of a text like "digits linf:0.1:10"."""
        words = text.split()
        if len(words) != 2:
            raise InputError(f"a data set and an attack are two words, as 'digits linf:0.1:10', got {text!r}")
        return cls.of(words[0], Threat.parse(words[1]))

    def __str__(self) -> str:
        return f"{self.dataset} at {self.norm}:{self.epsilon:g}"


@dataclass(frozen=True)
class MetaTask:
    """One task of meta-training, as names.

    `teacher` is a checkpoint or the name of a network that is trained for the task; `budgets` has limits by flag, as
    {"max_macs": "40%"}. `data` is the digest of a data set that its name does not identify, once that is open.
    """

    dataset: str
    attack: str
    teacher: str
    budgets: Mapping[str, str]
    profile: str
    data_root: str | None = None
    subset: int | None = None
    image_size: int | None = None
    data: str | None = None

    @property
    def pair(self) -> Pair:
        return Pair.of(self.dataset, Threat.parse(self.attack))

    @property
    def name(self) -> str:
        """For people."""
        budgets = ", ".join(f"{LIMITS[name]} {text}" for name, text in self.budgets.items())
        return f"{self.dataset}, {self.attack}, {self.teacher}, {budgets} on {self.profile}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without those that are left open."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def setting(self, **others: Any) -> TaskSetting:
        """The task as a run has it."""
        values: dict[str, Any] = {
            "dataset": self.dataset,
            "data_root": self.data_root,
            "subset": self.subset,
            "image_size": self.image_size,
            "attack": self.attack,
            "teacher": self.teacher,
            "profile": self.profile,
            **self.budgets,
        }
        return TaskSetting(**values | others)


@dataclass(frozen=True)
class DataBuffer:
    """A data set with the attacks and the teachers that go with it; no teacher is the family's default network."""

    name: str
    attacks: tuple[str, ...]
    teachers: tuple[str, ...] = ("",)
    data_root: str | None = None
    subset: int | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if not self.attacks:
            raise InputError(f"a data set of meta-training has at least one attack, {self.name} has none")
        if not self.teachers:
            raise InputError(f"a data set of meta-training has at least one teacher, {self.name} has none")
        for attack in self.attacks:
            Threat.parse(attack)

    @property
    def pairs(self) -> list[Pair]:
        return [Pair.of(self.name, Threat.parse(attack)) for attack in self.attacks]


@dataclass(frozen=True)
class Buffers:
    """Everything that tasks are drawn from; a (data set, attack) pair that is held out is refused."""

    datasets: tuple[DataBuffer, ...]
    budgets: Mapping[str, tuple[str, ...]]
    profiles: tuple[str, ...] = ("host",)
    held_out: tuple[Pair, ...] = ()
    family: str = "wrn"
    teacher_epochs: int = 6
    judge_epochs: int = 1

    def __post_init__(self) -> None:
        if not self.datasets or not self.profiles:
            raise InputError("meta-training draws from at least one [[dataset]] and one profile, there is none")
        for buffer in self.datasets:
            for pair in buffer.pairs:
                if pair in self.held_out:
                    raise InputError(
                        f"meta-training and target tasks share no data set and attack, {pair} is held out: "
                        "take another epsilon, or no longer hold it out"
                    )
        for name, texts in self.budgets.items():
            if name not in LIMITS:
                raise InputError(f"[budgets] has lists of {', '.join(LIMITS)}, got {name!r}")
            for text in texts:
                if text != NO_BUDGET:
                    Limit.parse(LIMITS[name], text)
        if not self.limits:
            raise InputError("a task of meta-training has a budget, [budgets] has none: give a list, as max_macs")
        for name in ("teacher_epochs", "judge_epochs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of meta-training is at least 1, got {getattr(self, name)}")

    @property
    def limits(self) -> list[dict[str, str]]:
        """Every combination of limits but the one without any."""
        combined = [dict(zip(self.budgets, texts, strict=True)) for texts in itertools.product(*self.budgets.values())]
        kept = [{name: text for name, text in one.items() if text != NO_BUDGET} for one in combined]
        return [one for one in kept if one]

    def sample(self, count: int, *, seed: int) -> list[MetaTask]:
        """So many tasks: a data set, then one of its attacks and teachers, limits and a device, each drawn evenly.

        The first tasks of a larger count are those of a smaller one.
        """
        generator = random.Random(seed)
        tasks = []
        for _ in range(count):
            buffer = generator.choice(self.datasets)
            tasks.append(
                MetaTask(
                    dataset=buffer.name,
                    attack=generator.choice(buffer.attacks),
                    teacher=generator.choice(buffer.teachers),
                    budgets=generator.choice(self.limits),
                    profile=generator.choice(self.profiles),
                    data_root=buffer.data_root,
                    subset=buffer.subset,
                    image_size=buffer.image_size,
                )
            )
        return tasks

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the record."""
        return asdict(self) | {"held_out": [str(pair) for pair in self.held_out]}


def read_buffers(path: Path, *, data_root: str | None = None, only_at_hand: bool = False) -> Buffers:
    """The buffers of a tasks file (TOML); `data_root` is that of data sets which name none.

    With `only_at_hand` data sets that are read from a folder are left out where there is no `data_root`.
    """
    values = read_task(path)
    known = {one.name for one in fields(Buffers)} - {"datasets"} | {"dataset"}
    _check_keys(values, known, f"the tasks file {path}")
    datasets = []
    for entry in _tables(values.get("dataset"), path):
        keys = {one.name for one in fields(DataBuffer)}
        _check_keys(entry, keys, f"a [[dataset]] of {path}")
        if "name" not in entry or "attacks" not in entry:
            raise InputError(f"a [[dataset]] of {path} has a name and attacks, got {', '.join(entry) or 'nothing'}")
        if entry["name"] != "digits" and "data_root" not in entry:
            if data_root is None and only_at_hand:
                continue
            entry = {**entry, "data_root": data_root}
        lists = {name: tuple(_texts(entry[name], name, path)) for name in ("attacks", "teachers") if name in entry}
        datasets.append(DataBuffer(**{**entry, **lists}))
    plain = {name: values[name] for name in ("family", "teacher_epochs", "judge_epochs") if name in values}
    budgets = values.get("budgets", {})
    if not isinstance(budgets, Mapping):
        raise InputError(f"budgets of the tasks file {path} are a table of lists, as [budgets] max_macs = ['40%']")
    return Buffers(
        datasets=tuple(datasets),
        budgets={name.replace("-", "_"): tuple(_texts(texts, name, path)) for name, texts in budgets.items()},
        profiles=tuple(_texts(values.get("profiles", ["host"]), "profiles", path)),
        held_out=tuple(Pair.parse(text) for text in _texts(values.get("held_out", []), "held_out", path)),
        **plain,
    )


def _check_keys(values: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known))}"
            raise InputError(f"{where} has no key {key!r}; {hint}")


def _tables(values: Any, path: Path) -> Sequence[Mapping[str, Any]]:
    if not isinstance(values, list) or not all(isinstance(entry, Mapping) for entry in values):
        raise InputError(f"a tasks file names its data sets as tables [[dataset]], {path} does not")
    return [{key.replace("-", "_"): value for key, value in entry.items()} for entry in values]


def _texts(values: Any, name: str, path: Path) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise InputError(f"{name} of the tasks file {path} is a list of texts, got {values!r}")
    return values
