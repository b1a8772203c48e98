"""`rcnas-edge meta-train`: an agent from a tasks file, in a folder that resumes.

The folder holds the agent (agent.safetensors, agent.json), its curves (curves.html), and what it was made from:
teachers that were trained for it, the scores of every network judged, and the state after the last round.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from rcnas_edge.agent import ASSETS, NO_AGENT, SHIPPED, Agent, write_agent
from rcnas_edge.buffers import Buffers, MetaTask, read_buffers
from rcnas_edge.checkpoint import digest_of, pack, read_state, unpack, write_state, write_whole
from rcnas_edge.cost import costs_of
from rcnas_edge.data import FOLDER
from rcnas_edge.errors import BudgetError, InputError, TrainingError
from rcnas_edge.pipeline.console import Console, Silent
from rcnas_edge.pipeline.here import is_here
from rcnas_edge.pipeline.meta_curves import curves_page
from rcnas_edge.pipeline.prepare import check_profile, device_profile, open_bench, teacher_robust
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.searching import short_judge
from rcnas_edge.pipeline.teach import TeacherSetting, train_teacher
from rcnas_edge.process import prepare_process
from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.judge import TrainedJudge
from rcnas_edge.search.meta import UPDATES, Job, MetaConfig, MetaTraining, Studied, configuration, map_jobs
from rcnas_edge.task import Bench, open_task

DEFAULT_TASKS = ASSETS / SHIPPED["wrn"] / "tasks.toml"
"""The tasks of the agent that ships; of its data sets those that are at hand."""
STATE = "meta.state"
TEACHER_RECIPE, TEACHER_STEPS = "fast", 3
MOST_DRAWS = 4
"""Tasks drawn for each that is wanted, at most: small teachers have tasks that no student can meet."""


@dataclass(frozen=True)
class MetaSetting:
    """What `rcnas-edge meta-train` is asked for; `evaluations` are networks judged in each task."""

    tasks_file: Path | None = None
    data_root: str | None = None
    tasks: int = 24
    evaluations: int = 8
    together: int = 2
    update: str = UPDATES[0]
    workers: int = 1
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("tasks", "evaluations", "together", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is at least 1, got {getattr(self, name)}")
        if self.update not in UPDATES:
            raise InputError(f"--update is one of {', '.join(UPDATES)}, got {self.update!r}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"--seed is between 0 and 2147483647, got {self.seed}")

    @property
    def buffers(self) -> Buffers:
        """What tasks are drawn from; InputError for a pair that is held out."""
        if self.tasks_file is not None:
            return read_buffers(self.tasks_file, data_root=self.data_root)
        return read_buffers(DEFAULT_TASKS, data_root=self.data_root, only_at_hand=True)

    @property
    def config(self) -> MetaConfig:
        return MetaConfig(seed=self.seed, evaluations=self.evaluations, together=self.together, update=self.update)


@dataclass(frozen=True)
class Opener:
    """Makes a live task of its names: what a worker is given. Everything it makes lies in the folder `out`."""

    out: Path
    family: str
    judge_epochs: int
    teacher_epochs: int
    seed: int
    device: str
    lips: dict[str, dict[Any, float]] = field(default_factory=dict, compare=False)
    """By data, attack and teacher: tasks that differ in budgets share them."""

    def __call__(self, task: MetaTask) -> tuple[Bench, TrainedJudge]:
        """The bench and the judge of a task."""
        setting = task.setting(
            teacher=str(self.teacher(task, Silent())), family=self.family, seed=self.seed, device=self.device
        )
        opened = open_task(setting)
        run = Run(self.out / "tasks" / digest_of([opened.data.digest, str(opened.threat), opened.teacher.digest]))
        profiles = {target: device_profile(opened, target, run, Silent()) for target in opened.targets}
        if opened.teacher.layers is None or any(map(is_here, profiles.values())):
            bench = open_bench(opened, Run(run / task.profile.replace("/", "-")), Silent())
        else:  # nothing can be timed, and rows give all the rest
            costs = costs_of(opened.teacher.layers, profiles)
            bench = Bench(opened, profiles, costs, teacher_robust(opened, run, Silent()))
        shared = self.lips.setdefault(run.folder.name, {})
        bench = replace(bench, _features=shared)
        return bench, short_judge(opened, epochs=self.judge_epochs, cache=self.out / "scores")

    def teacher(self, task: MetaTask, console: Console) -> Path:
        """The checkpoint of the task's teacher; a network by name is trained on the task's data and attack."""
        for folder in (Path(task.teacher), ASSETS / task.teacher):
            if task.teacher and folder.is_dir():
                return folder
        setting = TeacherSetting(
            dataset=task.dataset,
            data_root=task.data_root,
            image_size=task.image_size,
            subset=task.subset,
            family=self.family,
            network=task.teacher or None,
            attack=task.attack,
            recipe=TEACHER_RECIPE,
            epochs=self.teacher_epochs,
            attack_steps=TEACHER_STEPS,
            seed=self.seed,
            device=self.device,
        )
        names = [task.dataset, task.subset, task.image_size, task.attack, task.teacher, self.teacher_epochs, self.seed]
        if task.dataset == FOLDER:
            names.append(str(Path(task.data_root or "").resolve()))
        folder = self.out / "teachers" / digest_of([*names, self.family])
        if not (folder / "training.json").is_file():
            train_teacher(setting, folder, console)
        return folder


def meta_train(setting: MetaSetting, out: Path, console: Console) -> Agent:
    """Meta-train an agent into the folder `out`; the same command again resumes a run that was cut.

    The result depends neither on the number of workers nor on how often it was cut (on one kind of machine): tasks of
    a round start from the same weights, every random number has its place, and each task computes in one thread.
    """
    buffers = setting.buffers
    prepare_process()
    run = Run(out)
    with run.locked(), one_thread():
        opener = Opener(out, buffers.family, buffers.judge_epochs, buffers.teacher_epochs, setting.seed, setting.device)
        tasks = feasible_tasks(buffers, opener, setting.tasks, setting.seed, console)
        depends = {
            "tasks": [told(task) for task in tasks],
            "family": buffers.family,
            "epochs": [buffers.judge_epochs, buffers.teacher_epochs],
            "config": configuration(setting.config),
        }
        with workers(setting.workers) as mapped:
            training = MetaTraining(tasks, opener, setting.config, map_jobs=mapped)
            spent = _resume(training, run, depends)
            title = f"meta-training: {len(tasks)} tasks of {setting.evaluations} evaluations"
            with console.task(title, len(tasks)) as advance:
                advance(training.done, "")
                while training.done < len(tasks):
                    started = time.perf_counter()
                    training.step()
                    spent += time.perf_counter() - started
                    tensors: dict[str, torch.Tensor] = {}
                    state = {"depends": depends, "seconds": spent, "training": pack(training.state_dict(), tensors)}
                    write_state(run / STATE, tensors, state)
                    best = max(training.studied[-1]["curve"], default=0.0)
                    advance(training.done, f"{tasks[training.done - 1].name}: best {100 * best:.1f} %")
        bench, _ = opener(tasks[0])
        page = curves_page(training.studied, [task.name for task in tasks], training.losses)
        write_whole(run / "curves.html", lambda aside: aside.write_text(page, encoding="utf-8"))
        made = {
            "config": configuration(setting.config),
            "buffers": {"profiles": list(buffers.profiles), "held_out": [str(pair) for pair in buffers.held_out]},
            "evaluations": sum(len(record["candidates"]) for record in training.studied),
            "networks": len(training.memory),
            "seconds": round(spent, 1),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        agent = write_agent(
            out,
            training.agent,
            family=buffers.family,
            genes=bench.space.genes,
            tasks=[told(task) for task in tasks],
            seed=setting.seed,
            made=made,
        )
    console.say(f"agent: {out} ({made['evaluations']} evaluations, {made['networks']} networks trained)")
    console.say(f"curves: {out / 'curves.html'}; use it with --agent {out}, or --agent {NO_AGENT} for none")
    return agent


def told(task: MetaTask) -> dict[str, Any]:
    """A task as it is remembered: without where its data lies."""
    return {name: value for name, value in task.to_dict().items() if name != "data_root"}


def feasible_tasks(buffers: Buffers, opener: Opener, count: int, seed: int, console: Console) -> list[MetaTask]:
    """The first so many tasks of the buffers that some network keeps the budgets of, their teachers trained.

    InputError for a profile that cannot be used, before anything is trained, and where hardly any task can be met.
    """
    drawn = buffers.sample(MOST_DRAWS * count, seed=seed)
    for profile in buffers.profiles:
        for target in replace(drawn[0], profile=profile).setting().targets:
            check_profile(target, Run(opener.out))
    tasks: list[MetaTask] = []
    for task in drawn:
        if len(tasks) == count:
            break
        opener.teacher(task, console)
        try:
            bench, _ = opener(task)
            CachedBench.of(bench)
            tasks.append(replace(task, data=bench.task.data.digest) if task.dataset == FOLDER else task)
        except BudgetError:
            console.say(f"left out: {task.name}: no network found keeps these budgets")
    if len(tasks) < count:
        raise InputError(
            f"of the tasks of meta-training at least one in {MOST_DRAWS} can be met, {len(tasks)} of {len(drawn)} can: "
            "allow more in [budgets]"
        )
    return tasks


def _resume(training: MetaTraining[MetaTask], run: Run, depends: dict[str, Any]) -> float:
    """Continue a run that was cut; returns the seconds that it took so far."""
    path = run / STATE
    if not path.is_file():
        return 0.0
    tensors, values = read_state(path)
    if values.get("depends") != depends:
        raise InputError(
            f"a folder holds one meta-training, the one begun in {run.folder} has other tasks or another "
            f"configuration: take another --out, or delete {STATE} to begin again"
        )
    training.load_state_dict(unpack(values["training"], tensors))
    return float(values["seconds"])


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread inside, here as in every worker: sums have the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def workers(count: int) -> Iterator[Callable[[Callable[[Job], Studied], Sequence[Job]], Iterable[Studied]]]:
    """Something that maps jobs: here one after the other, or over so many processes."""
    if count == 1:
        yield map_jobs
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin_worker) as pool:
        yield partial(_over, pool)


def _over(pool: ProcessPoolExecutor, work: Callable[[Job], Studied], jobs: Sequence[Job]) -> Iterable[Studied]:
    try:
        return list(pool.map(work, jobs))
    except BrokenProcessPool as error:
        raise TrainingError(
            "a process that searched a task of meta-training ended suddenly, killed or out of memory: the same command "
            "goes on after the last whole round, with fewer --workers where memory is short"
        ) from error


def _begin_worker() -> None:
    prepare_process()
    torch.set_num_threads(1)
