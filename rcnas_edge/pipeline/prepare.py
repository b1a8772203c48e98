"""Before anything is trained: the device's profile, the teacher's cost, and whether the budgets can be met.

What was measured is written into the run before it is used, so that a resumed run works with the same numbers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcnas_edge.board.timing import AT_PACE
from rcnas_edge.calibrating import Calibration
from rcnas_edge.cost import Cost, costs_of, show
from rcnas_edge.cost.feasibility import Feasibility, feasibility
from rcnas_edge.data import Dataset
from rcnas_edge.errors import InputError
from rcnas_edge.export import Artefact, export_in, exporter, facts
from rcnas_edge.measure import MEASURABLE, Timing, measure_profile
from rcnas_edge.pipeline.console import Console
from rcnas_edge.pipeline.here import ENOUGH, at_rest, is_here, time_on
from rcnas_edge.pipeline.run import Run
from rcnas_edge.profile import Profile, Target, cache_path, load_profile, read_profile, save_profile
from rcnas_edge.space import Architecture, Layer, Space
from rcnas_edge.task import Bench, Task
from rcnas_edge.train.batches import as_float
from rcnas_edge.train.crafting import computed_in
from rcnas_edge.train.judging import SELECTION_IMAGES, SELECTION_STEPS, clean_and_robust
from rcnas_edge.train.recipe import recipe

QUICK_TABLE_SECONDS = {"fp32": 45.0, "int8": 150.0}
"""Of a table that is measured on first use; each network of one in int8 has to be quantised first."""
TIMING_SECONDS, FINAL_TIMING_SECONDS = 3.0, 10.0
"""How long the teacher and a finalist are timed, and the artefact that ships."""
TIMING_IMAGES = 16
"""That an int8 file which is only timed is calibrated on."""
SAMPLED_NETWORKS = 600
"""Random networks of the space whose kernels a quick table is made to cover."""


def open_bench(task: Task, run: Run, console: Console) -> Bench:
    """The task with the profiles of its targets and the teacher's costs: measured where they are not known yet."""
    profiles = {target: device_profile(task, target, run, console) for target in task.targets}
    known = run.done("teacher/cost.json", _of_teacher(task, profiles))
    if known is None:
        here = [str(target) for target, profile in profiles.items() if is_here(profile)]
        work = f"timing it on {', '.join(here)}" if here else "its latency is predicted"
        console.say(f"teacher {task.teacher.name}: {work}")
        costs, timings = teacher_costs(task, profiles, teacher_file(task, run))
        for target, timing in timings.items():
            if not timing.at_pace:
                console.say(_slow_teacher(target, timing, costs[target]))
            elif (before := at_rest([profiles[target]], target.threads)) and AT_PACE * timing.reference_ms < before:
                console.say(
                    f"this machine is {before / timing.reference_ms:.2f} times as fast now as when the profile "
                    f"{target.profile} was measured, and its predictions are that much too slow"
                )
                if profiles[target].on_first_use:
                    device_profile(task, target, run, console, quickest=timing.reference_ms)
        profiles = {target: device_profile(task, target, run, console) for target in task.targets}
        values = {
            "costs": {str(target): cost.to_dict() for target, cost in costs.items()},
            "timings": {str(target): asdict(timing) for target, timing in timings.items()},
        }
        known = run.keep("teacher/cost.json", _of_teacher(task, profiles), values)
    costs = {target: Cost.from_dict(known["costs"][str(target)]) for target in profiles}
    timed = tuple(target for target in profiles if str(target) in known["timings"])
    return Bench(task, profiles, costs, teacher_robust(task, Run(run.shared), console), timed)


def teacher_file(task: Task, run: Run) -> Path:
    """Where the teacher lies as a file that is timed."""
    return run / "teacher" / f"teacher.{task.setting.format}"


def _slow_teacher(target: Target, timing: Timing, cost: Cost) -> str:
    """What the teacher's latency is where the machine was slower than its profile knows it, in words."""
    taken, slow = show("latency", timing.p50_ms), "the machine was slower than when its profile was measured"
    if cost.latency == timing.p50_ms:
        return f"the teacher's {taken} on {target} may be too much, and budgets in percent of it too wide: {slow}"
    return (
        f"the teacher's latency on {target} is predicted, {show('latency', cost.latency)}, not {taken} as timed: {slow}"
    )


def _of_teacher(task: Task, profiles: Mapping[Target, Profile]) -> dict[str, Any]:
    """What the teacher's costs depend on."""
    digests = {str(target): profile.digest() for target, profile in profiles.items()}
    return {"teacher": task.teacher.digest, "profiles": digests}


def teacher_robust(task: Task, run: Run, console: Console) -> float:
    """The teacher's accuracy under the judge's attack on held-out images; kept, since no device changes it."""
    depends: dict[str, Any] = {"teacher": task.teacher.digest, "data": task.data.digest}
    depends |= {"attack": str(task.threat), "seed": task.setting.seed, "computed": computed_in(task.device)}
    known = run.done("teacher/accuracy.json", depends)
    if known is None:
        console.say(f"teacher {task.teacher.name}: scoring it on held-out images")
        clean, robust = teacher_accuracy(task)
        known = run.keep("teacher/accuracy.json", depends, {"clean": clean, "robust": robust})
    return known["robust"]


def check_profile(target: Target, run: Run) -> Profile:
    """The profile of a target: the run's own copy if it has one; InputError if it has no latencies for the target."""
    copy = run / "profile" / f"{target.profile}.toml"
    profile = read_profile(copy) if copy.is_file() else load_profile(target.profile)
    if profile.on_first_use and target.precision not in MEASURABLE:
        raise InputError(
            f"a latency on {target.profile} is measured in {' or '.join(MEASURABLE)}, --target-precision is "
            f"{target.precision}, which a CPU computes in another one: take --profile of a device that has it, or "
            "let it inform beside another --target-precision"
        )
    if not profile.on_first_use and not profile.covers(target):
        fitting = [setting for setting in profile.settings if setting.startswith(f"{target.precision}/")]
        ask = f"--profile {target.profile}/{fitting[0]}, or " if fitting else ""
        raise InputError(
            f"a latency comes from rows or rates, the profile {profile.name!r} has those of "
            f"{', '.join(profile.settings) or 'nothing'} and none for {target.setting}: take {ask}--profile host, or "
            "measure the device first ('rcnas-edge profile measure')"
        )
    return profile


def device_profile(task: Task, target: Target, run: Run, console: Console, *, quickest: float | None = None) -> Profile:
    """The run's own copy of a target's profile, made on first use; `host` is measured and kept for this machine.

    It is measured anew if that was at a slower pace than `quickest`, what the reference kernel takes, in ms.
    """
    copy = run / "profile" / f"{target.profile}.toml"
    profile = check_profile(target, run) if quickest is None else load_profile(target.profile)
    if copy.is_file() and quickest is None:
        return profile
    networks = [*sampled_layers(task.space, task.setting.seed), *([task.teacher.layers] if task.teacher.layers else [])]
    if profile.on_first_use and (quickest or not covered(profile, networks, target)):
        started = time.perf_counter()
        with console.task(f"measuring the profile {profile.name} (kept for this machine)", 1.0) as advance:
            profile = measure_profile(
                profile.name,
                networks,
                precision=target.precision,
                threads=target.threads,
                budget_seconds=QUICK_TABLE_SECONDS[target.precision],
                base=profile,
                progress=lambda text, share: advance(share, text),
                path=cache_path(profile.name),
                quickest=quickest,
            )
        console.say(f"profile {profile.name}: {len(profile.rows)} rows in {time.perf_counter() - started:.0f} s")
    if words := profile.outside(networks[0]):
        console.say(words)
    save_profile(profile, copy.parent, stem=copy.stem)
    return read_profile(copy)


def sampled_layers(space: Space, seed: int) -> list[tuple[Layer, ...]]:
    """Rows of random networks of the space, seeded, first and last picks included."""
    generator = random.Random(seed)
    picks = [tuple(generator.randrange(len(gene.options)) for gene in space.genes) for _ in range(SAMPLED_NETWORKS)]
    first, last = (0,) * len(space.genes), tuple(len(gene.options) - 1 for gene in space.genes)
    return [space.layers(Architecture(pick)) for pick in (first, last, *picks)]


def covered(profile: Profile, networks: Sequence[tuple[Layer, ...]], target: Target) -> bool:
    """Whether the profile predicts these networks from measured rows alone."""
    if not profile.covers(target):
        return False
    return all(profile.latency(layers, target)[1] > ENOUGH for layers in networks)


def teacher_costs(
    task: Task, profiles: Mapping[Target, Profile], path: Path
) -> tuple[dict[Target, Cost], dict[Target, Timing]]:
    """The reference of every budget in percent, and the timings behind it.

    Where the target is this machine the latency is measured on the exported teacher, a file that is written to `path`;
    where the machine was slower then than the profile knows it, or is another one, it is predicted. Of the user's own
    module there are no rows: MACs are counted by torch's flop counter, the size is the exported file's, memory is an
    estimate (weights and the two largest activations of its leaf modules), and no latency is predicted.
    """
    artefact = write_teacher(task, path)
    here = {target: profile for target, profile in profiles.items() if is_here(profile)}
    timings = time_on(path, here, seconds=TIMING_SECONDS)
    if task.teacher.layers is not None:
        costs = costs_of(task.teacher.layers, profiles)
    else:
        macs, params, memory = _counted(task)
        costs = dict.fromkeys(profiles, Cost(macs=macs, params=params, size=artefact.bytes, memory=memory))
    measured = {
        target: timing.p50_ms
        for target, timing in timings.items()
        if timing.at_pace or costs[target].latency is None or costs[target].measured < ENOUGH
    }
    return real_costs(costs, artefact.bytes, measured), timings


def write_teacher(task: Task, path: Path) -> Artefact:
    """The teacher as a file, in the format and the precision in which students ship."""
    return export_in(
        exporter(task.setting.format),
        task.setting.aim,
        task.teacher.model,
        path,
        image=task.data.image,
        metadata=facts(labels=task.data.class_names, digest=task.teacher.digest),
        opset=task.setting.opset,
        calibration=for_timing(task.data),
    )


def for_timing(data: Dataset) -> Calibration:
    """Images that a file is calibrated on which is only timed and weighed."""
    images = data.train.take(np.arange(min(TIMING_IMAGES, len(data.train)))).floats()
    return Calibration(images, len(images))


def real_costs(predicted: Mapping[Target, Cost], size: int, latencies: Mapping[Target, float]) -> dict[Target, Cost]:
    """Costs with the size of the file put in, and with the latency in ms where it was timed."""
    of_file = {target: replace(cost, size=size) for target, cost in predicted.items()}
    of_file |= {target: replace(of_file[target], latency=ms, measured=1.0) for target, ms in latencies.items()}
    return of_file


def _counted(task: Task) -> tuple[int, int, int]:
    """MACs, parameters and bytes of memory of a module without rows, for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    model = task.teacher.model.cpu().eval()
    activations: list[int] = []

    def remember(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            activations.append(output.numel() * output.element_size())

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(remember) for leaf in leaves]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, *task.data.image))
    finally:
        for handle in handles:
            handle.remove()
    params = sum(parameter.numel() for parameter in model.parameters())
    weights = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    return counter.get_total_flops() // 2, params, weights + sum(sorted(activations)[-2:])


def teacher_accuracy(task: Task) -> tuple[float, float]:
    """Clean and PGD-10 accuracy of the teacher on held-out images, as the judge measures students."""
    data: Dataset = task.data
    images = as_float(torch.from_numpy(data.held_out.images[:SELECTION_IMAGES]).to(task.device))
    labels = torch.from_numpy(data.held_out.labels[:SELECTION_IMAGES]).to(task.device)
    threat = replace(task.threat, steps=SELECTION_STEPS, step=task.threat.epsilon / 4)
    return clean_and_robust(task.teacher.model.to(task.device), images, labels, threat, seed=task.setting.seed)


def budget_table(bench: Bench) -> Sequence[Feasibility]:
    """For each budget the teacher's cost, the cheapest found and whether it is satisfiable."""
    return feasibility(bench.space, bench.budgets, bench.cost)[0]


def estimated_seconds(task: Task, bench: Bench) -> float:
    """A rough estimate of search, training and attack from one timed batch of the base network."""
    network = task.space.build(Architecture((0,) * len(task.space.genes))).to(task.device).eval()
    images = as_float(torch.from_numpy(task.data.train.images[:128]).to(task.device)).requires_grad_(True)
    network(images).sum().backward()
    started = time.perf_counter()
    network(images).sum().backward()
    per_image = (time.perf_counter() - started) / len(images)
    share = min(
        [0.5, *(budget.limit / bench.teacher_cost.macs for budget in bench.budgets if budget.quantity == "macs")]
    )
    train, held_out, test = len(task.data.train), min(1000, len(task.data.held_out)), min(1000, len(task.data.test))
    how = recipe(task.setting.recipe, examples=train, epochs=task.setting.epochs)
    epochs = task.setting.evaluations * task.setting.judge_epochs + how.epochs
    return per_image * share * (epochs * (12 * train + 11 * held_out) + 1000 * test)
