"""From names to live things, once: the only hall where strings become objects.

`open_task` gives the task (data, teacher, space, threat, device); with a profile and the teacher's cost it
becomes the `Bench` that a search works on.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from rcnas_edge.attacks import Threat, pgd
from rcnas_edge.cost import Budget, Cost, Limit, costs_of, resolve_all
from rcnas_edge.data import Dataset, load_dataset
from rcnas_edge.embedding import task_vector
from rcnas_edge.errors import InputError
from rcnas_edge.nets import Family, NetworkConfig, family
from rcnas_edge.process import prepare_process
from rcnas_edge.profile import Profile, Target
from rcnas_edge.setting import TaskSetting
from rcnas_edge.space import Architecture, Space
from rcnas_edge.teacher import Teacher, open_teacher

DEFAULT_FAMILY = "wrn"
"""Of the students of a teacher that is of no family: the user's own classifier."""
LIPSCHITZ_IMAGES = 16
LIPSCHITZ_STEPS = 1


@dataclass(frozen=True)
class Task:
    """A task setting with its names resolved.

    `base` is the largest student, the teacher's own network if it can be; `limits` are what the user asks on each
    target, in the order asked for.
    """

    setting: TaskSetting
    data: Dataset
    teacher: Teacher
    threat: Threat
    family: Family
    base: NetworkConfig
    space: Space
    limits: Mapping[Target, tuple[Limit, ...]]
    device: torch.device

    @property
    def targets(self) -> tuple[Target, ...]:
        """Where one network is to run."""
        return tuple(self.limits)

    @property
    def target(self) -> Target:
        """The first of the targets."""
        return self.targets[0]

    @property
    def inherits(self) -> bool:
        """Whether students can take slices of the teacher's weights."""
        return self.teacher.config is not None and self.teacher.config == self.base

    def student(self, architecture: Architecture, *, seed: int) -> nn.Module:
        """The network of an architecture: the teacher's weights where they correspond, else fresh ones."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.space.build(architecture)
        if self.inherits:
            config = self.family.config(self.space.describe(architecture))
            self.family.inherit(model, config, self.teacher.model.cpu(), self.base)
        return model


def open_task(setting: TaskSetting) -> Task:
    """Resolve every name of a setting; InputError for the first that cannot be."""
    prepare_process()
    limits = {
        target: tuple(Limit.parse(quantity, text) for quantity, text in setting.limits_of(target.profile).items())
        for target in setting.targets
    }
    data = load_dataset(
        setting.dataset,
        root=None if setting.data_root is None else Path(setting.data_root),
        image_size=setting.image_size,
        subset=setting.subset,
    )
    threat = Threat.parse(setting.attack or data.threat)
    teacher = open_teacher(setting.teacher, setting.weights, data)
    kind = family(setting.family or teacher.family or DEFAULT_FAMILY)
    if setting.base is None and teacher.family == kind.name and teacher.config is not None:
        base = teacher.config
    else:
        name = setting.base or kind.default_network
        base = kind.network(name, image=data.image, classes=data.classes, mean=data.mean, std=data.std)
    return Task(
        setting=setting,
        data=data,
        teacher=teacher,
        threat=threat,
        family=kind,
        base=base,
        space=kind.space(base),
        limits=limits,
        device=open_device(setting.device),
    )


def open_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one; asking for one that is not there is an InputError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda needs an NVIDIA GPU that torch can see, there is none: use --device cpu")
    return torch.device(name)


@dataclass
class Bench:
    """What a search may ask: costs and budgets of architectures, and features of the networks they stand for.

    `profiles` and `teacher_costs` have one entry per target. The teacher's cost is the reference of budgets in percent:
    its latency is measured where the target is this machine, else predicted, or None. `teacher_robust` is its accuracy
    under the judge's attack on held-out images. `here` are the targets that were this machine when the run began.
    """

    task: Task
    profiles: Mapping[Target, Profile]
    teacher_costs: Mapping[Target, Cost]
    teacher_robust: float
    here: tuple[Target, ...] = ()
    _costs: dict[Hashable, dict[Target, Cost]] = field(default_factory=dict, repr=False)
    _features: dict[Hashable, float] = field(default_factory=dict, repr=False)

    @property
    def space(self) -> Space:
        return self.task.space

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Where one network is to run; the first one is the primary."""
        return self.task.targets

    @property
    def profile(self) -> Profile:
        """The profile of the first target."""
        return self.profiles[self.targets[0]]

    @property
    def teacher_cost(self) -> Cost:
        """What the teacher costs on the first target."""
        return self.teacher_costs[self.targets[0]]

    @cached_property
    def budgets(self) -> tuple[Budget, ...]:
        """The budgets in absolute numbers, the limits of the devices among them."""
        devices = {target: profile.limits for target, profile in self.profiles.items()}
        return resolve_all(self.task.limits, self.teacher_costs, devices)

    def costs(self, architecture: Architecture) -> Mapping[Target, Cost]:
        """What the architecture costs on every target; predicted, remembered."""
        key = self.space.deployed(architecture)
        if key not in self._costs:
            self._costs[key] = costs_of(self.space.layers(architecture), self.profiles)
        return self._costs[key]

    def cost(self, architecture: Architecture, target: Target | None = None) -> Cost:
        """What the architecture costs on a target, the first one if none is given."""
        return self.costs(architecture)[target or self.targets[0]]

    def fits(self, architecture: Architecture) -> bool:
        """Whether it is within every budget, each on its target."""
        costs = self.costs(architecture)
        return all(budget.met(costs[budget.target]) for budget in self.budgets)

    def features(self, architecture: Architecture) -> float:
        """LIPS, the empirical Lipschitz coefficient of the untrained student on held-out images.

        Mean of ||f(x) - f(x')||_1 / ||x - x'||_inf at the PGD point x' (Yang et al., NeurIPS 2020, Eq. 3; KDD 2024
        feeds it to the state encoder). Ours: inherited weights, 16 images and one step, for speed.
        """
        key = self.space.deployed(architecture)
        if key not in self._features:
            model = self.task.student(architecture, seed=self.task.setting.seed).eval()
            images = torch.from_numpy(self.task.data.held_out.images[:LIPSCHITZ_IMAGES]).float() / 255
            labels = torch.from_numpy(self.task.data.held_out.labels[:LIPSCHITZ_IMAGES])
            generator = torch.Generator().manual_seed(self.task.setting.seed)
            moved = pgd(model, images, labels, self.task.threat, generator=generator, steps=LIPSCHITZ_STEPS)
            with torch.no_grad():
                before, after = model(torch.cat([images, moved])).chunk(2)
            change = (before - after).abs().sum(1)
            distance = (images - moved).abs().flatten(1).amax(1).clamp_min(1e-12)
            self._features[key] = float((change / distance).mean())
        return self._features[key]

    @cached_property
    def task_vector(self) -> Sequence[float]:
        """The task as numbers for the policy, `embedding.ENTRIES`.

        The devices' latency per MAC is that of the largest student and of the architecture of last picks, which has
        the other kinds of blocks.
        """
        ends = (Architecture(tuple(0 for _ in self.space.genes)), last_picks(self.space))
        return task_vector(
            threat=self.task.threat,
            data=self.task.data,
            teacher_macs=self.teacher_cost.macs,
            teacher_robust=self.teacher_robust,
            stages=self.task.base.stages(),
            budgets=self.budgets,
            devices=self.profiles,
            networks=[self.space.layers(end) for end in ends],
        )


def last_picks(space: Space) -> Architecture:
    """The architecture of the last option of every gene: in a space of ratios about the smallest."""
    return Architecture(tuple(len(gene.options) - 1 for gene in space.genes))
