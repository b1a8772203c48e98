"""What the benchmarks of real training share: data, a teacher trained once, students, and cells that keep results.

A cell is a file in the folder `--work`, found by the digest of all that it depends on: a trained network, an attack on
it, a search. A cell that is there is never computed again, so a run that was killed goes on, and several short runs add
up to one; a training that was killed goes on after its last whole epoch.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import rcnas_edge.search
from rcnas_edge.agent import Agent, find_agent
from rcnas_edge.attacks import Threat, headline
from rcnas_edge.checkpoint import (
    NETWORK,
    digest_of,
    file_sha256,
    read_json,
    read_state,
    write_checkpoint,
    write_json,
    write_state,
)
from rcnas_edge.cost import Limit, costs_of
from rcnas_edge.data import Dataset, load_dataset, stratified
from rcnas_edge.evaluate import worst_case
from rcnas_edge.nets import Family, NetworkConfig, family
from rcnas_edge.pipeline.searching import short_judge
from rcnas_edge.process import prepare_process
from rcnas_edge.profile import Target, load_profile
from rcnas_edge.search import strategy
from rcnas_edge.search.policy import PolicyConfig, PolicySearch
from rcnas_edge.search.protocol import Judge, Score, Search
from rcnas_edge.setting import TaskSetting
from rcnas_edge.space import Architecture
from rcnas_edge.task import Bench, Task, open_device
from rcnas_edge.teacher import open_teacher
from rcnas_edge.train.batches import Batches, as_float
from rcnas_edge.train.crafting import computed_in
from rcnas_edge.train.fit import Epoch, fit
from rcnas_edge.train.judging import SELECTION_IMAGES, SELECTION_STEPS, clean_and_robust, reestimate_statistics
from rcnas_edge.train.recipe import Recipe, recipe
from rcnas_edge.verify.witness import logits_of

FAMILY = "wrn"
DEVICE = "raspberry-pi-5"
"""Its profile gives the policy its entries about the device; budgets are MACs, so its latencies decide nothing."""
AGENT = "rc-nas, meta-trained"


def arguments(description: str) -> argparse.ArgumentParser:
    """What all of these benchmarks are asked for; the defaults are for one slow core."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the cells; the same for all benchmarks")
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument(
        "--data-root", type=Path, default=os.environ.get("RCNAS_DATA"), help="folder of the data, torchvision's layout"
    )
    parser.add_argument("--attack", help="the threat, as linf:8/255:10; by default the data set's")
    parser.add_argument("--network", default="wrn-16-2", help="the teacher")
    parser.add_argument("--train", type=int, default=4900, help="training images, stratified; of teacher and students")
    parser.add_argument("--held-out", type=int, default=600, help="held-out images that the judge looks at, at most")
    parser.add_argument("--teacher-epochs", type=int, default=12)
    parser.add_argument("--judge-epochs", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4, help="epochs of the final training, the same for all students")
    parser.add_argument("--test", type=int, default=2000, help="the first test images, attacked at the end")
    parser.add_argument("--attack-steps", type=int, default=10, help="of APGD-CE, and of APGD-T for each target")
    parser.add_argument("--square-queries", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64, help="of the attacks; a GPU wants 512")
    parser.add_argument("--agent", help="of meta-training: a folder, or none; by default the one that ships")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    return parser


class Cells:
    """Results by name and key in a folder; `made` counts what this process had to compute, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, int] = {}

    def path(self, name: str, key: Mapping[str, Any], suffix: str = ".json") -> Path:
        """Where a cell lies: its name, and the digest of what it depends on."""
        return self.folder / name / f"{digest_of(key)}{suffix}"

    def get(self, name: str, key: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The values of a cell; made, and written whole, if they are not there."""
        path = self.path(name, key)
        if not path.is_file():
            values = dict(make())
            self.made[name] = self.made.get(name, 0) + 1
            write_json(path, {"key": dict(key), "values": values})
        return dict(read_json(path)["values"])


@dataclass(frozen=True)
class Student:
    """A network to be trained: a name, what identifies it, its MACs, and how it is built with its first weights."""

    name: str
    key: Mapping[str, Any]
    macs: float
    build: Callable[[], nn.Module]


@dataclass(frozen=True)
class Trained:
    """A student after training: held-out rates as fractions, CPU seconds (None where the training was resumed)."""

    student: Student
    digest: str
    clean: float
    robust: float
    seconds: float | None
    load: Callable[[], nn.Module]


class RealSetting:
    """The live setting: data, teacher, task, and everything that is done to students, each kept in a cell."""

    def __init__(self, asked: argparse.Namespace) -> None:
        prepare_process()
        self.asked = asked
        self.cells = Cells(asked.work)
        self.device = open_device(asked.device)
        root = None if asked.data_root is None else Path(asked.data_root)
        self.data = cut(load_dataset(asked.dataset, root=root), train=asked.train, held_out=asked.held_out)
        self.threat = Threat.parse(asked.attack or self.data.threat)
        self.family: Family = family(FAMILY)
        frame: dict[str, Any] = {"image": self.data.image, "classes": self.data.classes}
        self.config: NetworkConfig = self.family.network(asked.network, mean=self.data.mean, std=self.data.std, **frame)
        self.common = {
            "data": self.data.digest,
            "threat": [self.threat.norm, self.threat.epsilon],
            "computed": computed_in(self.device),
        }

    # the teacher

    @cached_property
    def teacher_folder(self) -> Path:
        """The checkpoint of the teacher, adversarially trained: two thirds of its epochs N-FGSM, then PGD-5."""
        how = recipe("fast", examples=len(self.data.train), epochs=self.asked.teacher_epochs, attack_steps=5)
        key = {**self.common, "network": self.config.to_dict(), "recipe": how.to_dict()}
        folder = self.cells.path("teacher", key, suffix="")
        if not (folder / NETWORK).is_file():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = self.family.build(self.config)
            state = folder / "state.safetensors"
            fitted = fit(model, self.data, self.threat, how, device=self.device, state=state, progress=told("teacher"))
            facts = {"threat": str(self.threat), "dataset": self.data.name, "best": asdict(fitted.best)}
            write_checkpoint(folder, model.cpu(), self.config, family=FAMILY, facts=facts)
            state.unlink(missing_ok=True)
        return folder

    @cached_property
    def teacher_best(self) -> dict[str, Any]:
        """The teacher's best epoch: held-out rates."""
        return dict(read_json(self.teacher_folder / NETWORK)["facts"]["best"])

    @cached_property
    def task(self) -> Task:
        setting = TaskSetting(
            dataset=self.data.name,
            teacher=str(self.teacher_folder),
            profile=DEVICE,
            max_macs="100%",
            judge_epochs=self.asked.judge_epochs,
            device=self.asked.device,
        )
        teacher = open_teacher(str(self.teacher_folder), None, self.data)
        return Task(
            setting=setting,
            data=self.data,
            teacher=teacher,
            threat=self.threat,
            family=self.family,
            base=self.config,
            space=self.family.space(self.config),
            limits={setting.targets[0]: ()},
            device=self.device,
        )

    def bench(self, budget: str) -> Bench:
        """The task under a budget of MACs, as `10%`."""
        (target,) = self.task.targets
        task = replace(self.task, limits={target: (Limit.parse("macs", budget),)})
        profiles: dict[Target, Any] = {target: load_profile(target.profile)}
        return Bench(
            task, profiles, costs_of(self.family.layers(self.config), profiles), float(self.teacher_best["robust"])
        )

    @property
    def teacher(self) -> Student:
        """The teacher as a student that is never trained, to be attacked beside the others."""
        macs = sum(layer.macs for layer in self.family.layers(self.config))
        return Student(self.config.name, {"teacher": self.task.teacher.digest}, macs, lambda: self.task.teacher.model)

    # students

    def recipe(self, epochs: int) -> Recipe:
        """Judge and final training are one recipe, the judge's of the product, at different lengths."""
        return short_judge(self.task, epochs=epochs, cache=self.asked.work).recipe

    def student(self, architecture: Architecture, *, inherits: bool = True) -> Student:
        """The student of an architecture, with slices of the teacher's weights or with fresh ones."""
        task = self.task
        values = task.space.describe(architecture)

        def build() -> nn.Module:
            if inherits:
                return task.student(architecture, seed=0)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return task.space.build(architecture)

        config = self.family.config(values)
        macs = sum(layer.macs for layer in self.family.layers(config))
        return Student(config.name, {"network": values, "inherits": inherits}, macs, build)

    def trained(self, student: Student, *, epochs: int, seed: int, threat: Threat | None = None) -> Trained:
        """A student after so many epochs; 0 epochs are its first weights with batch statistics re-estimated.

        The held-out rates are the last epoch's, which is what the product's judge takes; the weights are the best
        epoch's.
        """
        threat = threat or self.threat
        how = self.recipe(max(1, epochs))
        key = {
            **self.common,
            "threat": [threat.norm, threat.epsilon],
            "teacher": self.task.teacher.digest,
            "student": dict(student.key),
            "recipe": how.to_dict() if epochs else None,
            "seed": seed,
        }
        weights = self.cells.path("student", key, suffix=".safetensors")

        def make() -> dict[str, Any]:
            model = student.build().to(self.device)
            state = self.cells.path("student", key, suffix=".state")
            resumed, began = state.is_file(), clock(self.device)
            if epochs:
                teacher = self.task.teacher.model
                fitted = fit(model, self.data, threat, how, teacher=teacher, seed=seed, device=self.device, state=state)
                last, best = fitted.history[-1], fitted.best
                rates = {"clean": last.clean, "robust": last.robust, "best": [best.epoch, best.clean, best.robust]}
            else:
                clean, robust = self.as_it_is(model, threat, seed)
                rates = {"clean": clean, "robust": robust, "best": [0, clean, robust]}
            seconds = None if resumed else clock(self.device) - began
            write_state(weights, model.state_dict(), {})
            state.unlink(missing_ok=True)
            say(f"{student.name}: {epochs} epochs, held-out robust {100 * rates['robust']:.1f} %")
            return {**rates, "name": student.name, "macs": student.macs, "seconds": seconds}

        values = self.cells.get("student", key, make)

        def load() -> nn.Module:
            model = student.build().to(self.device)
            model.load_state_dict(read_state(weights, device=self.device)[0])
            return model.eval()

        return Trained(student, digest_of(key), values["clean"], values["robust"], values["seconds"], load)

    def as_it_is(self, model: nn.Module, threat: Threat, seed: int) -> tuple[float, float]:
        """Clean and PGD-10 accuracy on held-out images without training, as fractions; the model ends in eval mode."""
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        split = self.data.held_out
        reestimate_statistics(model, Batches(self.data.train, batch_size=128, augmentation="none", device=self.device))
        images = as_float(torch.from_numpy(split.images[:SELECTION_IMAGES]).to(self.device))
        labels = torch.from_numpy(split.labels[:SELECTION_IMAGES]).to(self.device)
        threat = replace(threat, steps=SELECTION_STEPS, step=threat.epsilon / 4)
        return clean_and_robust(model, images, labels, threat, seed=seed)

    # attacks

    def attacked(
        self,
        digest: str,
        load: Callable[[], nn.Module],
        *,
        images: int,
        steps: int,
        queries: int,
        split: str = "test",
    ) -> dict[str, np.ndarray]:
        """Flags (n,) `clean` and `robust`, the worst case over APGD-CE, APGD-T and Square, of the first n images."""
        count = min(images, len(getattr(self.data, split)))
        key = {
            **self.common,
            "model": digest,
            "split": split,
            "images": count,
            "steps": steps,
            "queries": queries,
        }
        path = self.cells.path("attack", key, suffix=".safetensors")

        def make() -> dict[str, Any]:
            part = getattr(self.data, split).take(np.arange(count))
            model, pixels = load().to(self.device), part.floats()
            began = clock(self.device)
            clean = logits_of(model, pixels).argmax(1) == part.labels
            results = headline(
                model,
                torch.from_numpy(pixels),
                torch.from_numpy(part.labels),
                self.threat,
                seed=0,
                square_queries=queries,
                steps=steps,
                batch_size=self.asked.batch_size,
            )
            robust = worst_case({"no attack": clean, **{name: one.robust.numpy() for name, one in results.items()}})
            flags = {"clean": torch.from_numpy(clean), "robust": torch.from_numpy(robust)}
            write_state(path, {name: flag.to(torch.uint8) for name, flag in flags.items()}, {})
            left = {name: int(one.robust.sum()) for name, one in results.items()}
            say(f"{digest} attacked on {count} images of {split}: {left}")
            return {"left": left, "clean": int(clean.sum()), "n": count, "seconds": clock(self.device) - began}

        self.cells.get("attack", key, make)
        return {name: flags.numpy().astype(bool) for name, flags in read_state(path)[0].items()}

    def headline(
        self, trained: Trained, *, images: int | None = None, steps: int | None = None, queries: int | None = None
    ) -> dict[str, np.ndarray]:
        """The final attack on a trained student: per-example flags on the first test images."""
        asked = self.asked
        return self.attacked(
            trained.digest,
            trained.load,
            images=images or asked.test,
            steps=steps or asked.attack_steps,
            queries=queries or asked.square_queries,
        )

    # searches

    def agent(self) -> tuple[Agent | None, str]:
        """The meta-trained policy that was asked for or ships, or why there is none."""
        found = find_agent(
            self.asked.agent,
            family=FAMILY,
            genes=self.task.space.genes,
            dataset=self.data.name,
            threat=self.threat,
        )
        return found.agent, found.words

    def searched(
        self, arm: str, judge: Judge, *, budget: str, seed: int, evaluations: int, rules: bool = True
    ) -> dict[str, Any]:
        """A search that judges exactly so many networks: `picks` and `scores` in order, and the `best` picks.

        Without `rules` RC-NAS finds its first networks itself, as the policy and the agent's memory have them.
        """
        agent = self.agent()[0] if arm == AGENT else None
        key = {
            "arm": arm,
            "agent": None if agent is None else agent.sha256,
            "judge": judge.digest,
            "budget": budget,
            "seed": seed,
            "evaluations": evaluations,
            "code": code_of_searches(),
            **({} if rules else {"rules": False}),
        }

        def make() -> dict[str, Any]:
            search = self.search(arm, judge, budget=budget, seed=seed, rules=rules)
            candidates: list[Any] = []
            while len(candidates) < evaluations and (found := search.step()):
                candidates += found
            candidates = candidates[:evaluations]  # a batch may end beyond what all arms have
            best = max(candidates, key=lambda one: (one.score.robust, one.score.clean))
            return {
                "picks": [list(one.architecture.picks) for one in candidates],
                "scores": [one.score.robust for one in candidates],
                "best": list(best.architecture.picks),
            }

        return self.cells.get("search", key, make)

    def search(self, arm: str, judge: Judge, *, budget: str, seed: int, rules: bool = True) -> Search:
        """A strategy by name, or RC-NAS from the agent; RC-NAS with or without the networks of scaling rules."""
        bench, config = self.bench(budget), PolicyConfig(seed=seed, rules=rules)
        if arm == PolicySearch.name:
            return PolicySearch(bench, judge, config)
        if arm != AGENT:
            return strategy(arm, bench, judge, seed=seed)
        agent, words = self.agent()
        if agent is None:
            raise ValueError(f"there is no agent: {words}")
        search = PolicySearch(bench, judge, config)
        search.adopt(agent.weights)
        return search


class CellJudge:
    """The product's judge on cells: inherited weights, a short training, PGD-10 on held-out images.

    Its seed is 0 whatever the search's is: all searches ask one judge, and share what it said. `score` may replace the
    accuracy that counts.
    """

    def __init__(
        self,
        setting: RealSetting,
        *,
        epochs: int,
        name: str = "pgd",
        threat: Threat | None = None,
        score: Callable[[Trained], float] | None = None,
    ) -> None:
        self.setting, self.epochs, self.threat, self.score = setting, epochs, threat, score
        self.digest = digest_of(
            [setting.common, setting.task.teacher.digest, setting.recipe(epochs).to_dict(), name, str(threat)]
        )

    def __call__(self, architecture: Architecture) -> Score:
        """Train and score, or remember."""
        setting = self.setting
        trained = setting.trained(setting.student(architecture), epochs=self.epochs, seed=0, threat=self.threat)
        counted = trained.robust if self.score is None else self.score(trained)
        n = min(SELECTION_IMAGES, len(setting.data.held_out))
        return Score(counted, trained.clean, n, self.digest, trained.seconds or 0.0)

    def prepare(self) -> None:
        """Nothing has to be trained before the first candidate."""

    def state_dict(self) -> dict[str, Any]:
        return {"digest": self.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore: what was judged lies in cells."""


def cut(data: Dataset, *, train: int, held_out: int) -> Dataset:
    """The data set with so many images of train and held-out, stratified; test stays whole."""

    def part(split: Any, count: int) -> Any:
        if count >= len(split):
            return split
        return split.take(stratified(split.labels, count / len(split), seed=0)[1])

    digest = digest_of([data.digest, train, held_out])
    return replace(data, train=part(data.train, train), held_out=part(data.held_out, held_out), digest=digest)


def code_of_searches() -> str:
    """A digest of the package's searches: what another version of them found is not theirs."""
    files = sorted(Path(rcnas_edge.search.__file__).parent.glob("*.py"))
    return digest_of([[file.name, file_sha256(file)] for file in files])


def clock(device: torch.device) -> float:
    """Seconds: of the processor, since the machine may have other work; with a GPU of the wall."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def told(what: str) -> Callable[[Epoch, int], None]:
    """Progress of a training."""

    def tell(done: Epoch, epochs: int) -> None:
        rates = f"held-out clean {100 * done.clean:.1f} % robust {100 * done.robust:.1f} %"
        say(f"{what}: epoch {done.epoch} of {epochs}, {rates}")

    return tell


def curve(scores: Sequence[float]) -> np.ndarray:
    """The best so far after each evaluation."""
    return np.maximum.accumulate(np.asarray(scores, dtype=float))
