"""A task as numbers of one length, `ENTRIES`: what RC-NAS's policy knows of the attack, the data, the teacher, the
budgets and the devices.

That tasks are embedded is the paper's (KDD 2024, arXiv 2406.06792: a task is composed of attack, data set and teacher);
which numbers stand for them is ours. Every number is of the order of 1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rcnas_edge.attacks import Threat
from rcnas_edge.cost import QUANTITIES, Budget
from rcnas_edge.data import Dataset
from rcnas_edge.profile import Group, Profile, Target, fuse
from rcnas_edge.profile.fusion import kernels_of
from rcnas_edge.space import Layer

STAGES = 4
"""Stages of a teacher that have numbers of their own; of more than these neighbours share a place."""
PLAIN_BLOCK = "basic"
KINDS = ("conv", "pointwise", "grouped", "linear")
"""Kinds of layers that have MACs: dense convolutions, those of one pixel, those in groups, and matrices."""

ATTACK = {
    "attack.linf": "1 for the L-infinity ball, else 0",
    "attack.epsilon": "log2(255 epsilon / 8): 0 for 8/255, 1 for twice that",
    "attack.steps": "log10(steps)",
    "attack.one_step": "1 for an attack of one step (FGSM's kind), 0 for an iterated one (PGD's)",
}
DATA = {
    "data.classes": "log10(classes)",
    "data.channels": "channels / 3",
    "data.size": "log2(pixels per side) / 5; of an image that is no square, of the geometric mean of its sides",
    "data.examples": "log10(images of the train split) / 5",
}
TEACHER = {
    "teacher.macs": "log10(MACs for one image) / 10",
    "teacher.robust": "its accuracy under the judge's attack, a fraction",
    "teacher.stages": f"stages of the largest student, which is the teacher's own network where it can be, / {STAGES}",
    **{
        f"teacher.stage{number}.{name}": f"{words} of its stage {number}; 0 if there is none"
        for number in range(1, STAGES + 1)
        for name, words in (
            ("depth", "log2(1 + blocks) / 5"),
            ("width", "log2(channels) / 10"),
            ("special", "share of blocks that are not basic (robust, bottleneck, inverted)"),
        )
    },
}
BUDGETS = {
    f"budget.{quantity}": f"ln(limit / the teacher's {quantity}), the tightest of several; 0 where nothing is to be cut"
    for quantity in QUANTITIES
}
DEVICE = {
    "device.known": "1 if latencies are known, else 0 like the numbers below; of several devices all are means",
    "device.speed": "log10(ms for 10^6 MACs) of the largest student",
    **{
        f"device.{kind}": f"log10(ms per MAC of {words} / ms per MAC of all layers); 0 where there are none"
        for kind, words in zip(
            KINDS,
            ("dense convolutions", "convolutions of one pixel", "convolutions in groups", "linear layers"),
            strict=True,
        )
    },
    "device.other": "share of the latency that has no MACs: sums, normalisations, reorderings, the call",
}
MEANINGS = {**ATTACK, **DATA, **TEACHER, **BUDGETS, **DEVICE}
"""Every entry of a task vector with its meaning, in order."""
ENTRIES = tuple(MEANINGS)


def task_vector(
    *,
    threat: Threat,
    data: Dataset,
    teacher_macs: float,
    teacher_robust: float,
    stages: Sequence[Mapping[str, Any]],
    budgets: Sequence[Budget],
    devices: Mapping[Target, Profile],
    networks: Sequence[Sequence[Layer]],
) -> tuple[float, ...]:
    """The numbers (len(ENTRIES),) of a task.

    `stages` are those of the largest student (`NetworkConfig.stages`). `networks` are layer rows that the devices'
    latency per MAC is predicted on; the largest student comes first.
    """
    numbers = {
        **attack_numbers(threat),
        **data_numbers(data),
        "teacher.macs": math.log10(max(teacher_macs, 1.0)) / 10,
        "teacher.robust": teacher_robust,
        **stage_numbers(stages),
        **budget_numbers(budgets),
        **device_numbers(devices, networks),
    }
    return tuple(float(numbers[name]) for name in ENTRIES)


def attack_numbers(threat: Threat) -> dict[str, float]:
    """The entries `attack.*`."""
    return {
        "attack.linf": float(threat.norm == "linf"),
        "attack.epsilon": math.log2(255 * threat.epsilon / 8),
        "attack.steps": math.log10(threat.steps),
        "attack.one_step": float(threat.steps == 1),
    }


def data_numbers(data: Dataset) -> dict[str, float]:
    """The entries `data.*`."""
    channels, height, width = data.image
    return {
        "data.classes": math.log10(data.classes),
        "data.channels": channels / 3,
        "data.size": math.log2(height * width) / 10,
        "data.examples": math.log10(max(len(data.train), 1)) / 5,
    }


def stage_numbers(stages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The entries `teacher.stage*`; stages that share a place add their blocks, and the widest counts."""
    places: list[list[Mapping[str, Any]]] = [[] for _ in range(STAGES)]
    for index, stage in enumerate(stages):
        places[index if len(stages) <= STAGES else index * STAGES // len(stages)].append(stage)
    numbers = {"teacher.stages": len(stages) / STAGES}
    for number, there in enumerate(places, start=1):
        blocks = sum(stage["depth"] for stage in there)
        special = sum(stage["depth"] for stage in there if stage["block"] != PLAIN_BLOCK)
        width = max((stage["width"] for stage in there), default=1)
        numbers[f"teacher.stage{number}.depth"] = math.log2(1 + blocks) / 5
        numbers[f"teacher.stage{number}.width"] = math.log2(width) / 10
        numbers[f"teacher.stage{number}.special"] = special / max(blocks, 1)
    return numbers


def budget_numbers(budgets: Iterable[Budget]) -> dict[str, float]:
    """The entries `budget.*`."""
    numbers = dict.fromkeys(BUDGETS, 0.0)
    for budget in budgets:
        if budget.teacher:
            entry = f"budget.{budget.quantity}"
            numbers[entry] = min(math.log(budget.limit / budget.teacher), numbers[entry])
    return numbers


def device_numbers(devices: Mapping[Target, Profile], networks: Sequence[Sequence[Layer]]) -> dict[str, float]:
    """The entries `device.*`: means over the devices whose latencies are known."""
    told = [
        _device(profile, target, networks)
        for target, profile in devices.items()
        if networks and profile.covers(target) and profile.latency(networks[0], target)[0] > 0
    ]
    if not told:
        return dict.fromkeys(DEVICE, 0.0)
    return {name: math.fsum(numbers[name] for numbers in told) / len(told) for name in DEVICE}


def _device(profile: Profile, target: Target, networks: Sequence[Sequence[Layer]]) -> dict[str, float]:
    spent: dict[str, float] = defaultdict(float)
    work: dict[str, float] = defaultdict(float)
    whole = math.fsum(profile.latency(layers, target)[0] for layers in networks)
    lookup = profile.tables[target.setting].lookup
    for layers in networks:
        scale, _ = profile.scale_and_overhead(layers, target.setting)
        for group in fuse(layers, kernels_of(profile.runtime, target.precision)):
            macs = sum(layer.macs for layer in group.layers)
            if macs:
                kind = _kind(group)
                spent[kind] += scale * lookup((*group.key, group.channels_in, group.channels_out))[0]
                work[kind] += macs
    rate = math.fsum(spent.values()) / max(math.fsum(work.values()), 1.0)
    largest = sum(layer.macs for layer in networks[0])
    numbers = {f"device.{kind}": _log_ratio(spent[kind], work[kind] * rate) for kind in KINDS}
    return {
        "device.known": 1.0,
        "device.speed": _log_ratio(profile.latency(networks[0], target)[0], 1e-6 * largest),
        **numbers,
        "device.other": max(0.0, 1.0 - math.fsum(spent.values()) / whole),
    }


def _kind(group: Group) -> str:
    if group.key.operation == "linear":
        return "linear"
    if group.key.groups != 1:
        return "grouped"
    return "pointwise" if group.key.kernel == 1 else "conv"


def _log_ratio(above: float, below: float) -> float:
    return math.log10(above / below) if above > 0 and below > 0 else 0.0
