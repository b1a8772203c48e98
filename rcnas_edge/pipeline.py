"""The six verbs in order, in one run directory: open, search, fit, export, verify, tell; killed at any moment, resumed.

TaskSetting --open--> Bench --search--> Architecture --fit--> Checkpoint --export--> Artefact --verify--> Verdict
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rcnas_edge.checkpoint import (
    Checkpoint,
    pack,
    read_checkpoint,
    read_state,
    unpack,
    write_checkpoint,
    write_state,
)
from rcnas_edge.console import Console
from rcnas_edge.cost import Cost, require, show
from rcnas_edge.errors import BudgetError, InputError
from rcnas_edge.export import Artefact, exporter, facts, read_artefact
from rcnas_edge.flags import FLAGS, attacked_flags, flags_depend, read_flags, test_indices, write_flags
from rcnas_edge.measure import Timing, time_model
from rcnas_edge.prepare import FINAL_TIMING_SECONDS, TIMING_SECONDS, budget_table, estimated_seconds, open_bench
from rcnas_edge.run import Run
from rcnas_edge.search import strategy, strategy_class
from rcnas_edge.search.judge import TrainedJudge
from rcnas_edge.search.protocol import Candidate
from rcnas_edge.setting import TaskSetting
from rcnas_edge.space import Architecture, named
from rcnas_edge.task import Bench, Task, open_task
from rcnas_edge.train.fit import fit, write_history
from rcnas_edge.train.recipe import Recipe, recipe
from rcnas_edge.verify import Gates, Subject, Verdict, verify

log = logging.getLogger(__name__)

STAGES = ("search", "train", "export", "verify", "report")
JUDGE_STEPS = 5
"""Steps of the inner attack in the judge's short training."""


class Pipeline:
    """A task in a run directory. Every stage does nothing if its files are there for what it depends on."""

    def __init__(self, setting: TaskSetting, run: Run, console: Console) -> None:
        self.setting, self.run, self.console = setting, run, console
        self.seconds: dict[str, float] = {}

    @cached_property
    def task(self) -> Task:
        return open_task(self.setting)

    @cached_property
    def bench(self) -> Bench:
        return open_bench(self.task, self.run, self.console)

    # ------------------------------------------------------------------------------------------- before anything

    def check(self) -> None:
        """Resolve every name that a later stage needs, so that a misfit is told before anything is spent."""
        exporter(self.setting.format)
        strategy_class(self.setting.strategy)
        _ = self.recipe, self.test_indices

    def feasibility(self) -> None:
        """Show for each budget the teacher's cost, the cheapest found and whether it can be met; BudgetError if not."""
        rows = budget_table(self.bench)
        self.console.table(
            f"budgets on {self.task.target} (all at once; 1 MAC = 2 FLOPs)",
            ("budget", "asked", "limit", "teacher", "cheapest found", "can be met"),
            [
                (
                    row.budget.quantity,
                    row.budget.asked,
                    show(row.budget.quantity, row.budget.limit),
                    show(row.budget.quantity, row.teacher),
                    show(row.budget.quantity, row.cheapest),
                    "yes" if row.satisfiable else "NO",
                )
                for row in rows
            ],
        )
        require(rows)

    def dry_run(self) -> None:
        """The task, whether its budgets can be met, and a rough estimate of the time."""
        for name, value in self.setting.to_dict().items():
            self.console.say(f"{name:16} {value}")
        data = self.task.data
        self.console.say(
            f"{data.name}: {len(data.train)} train, {len(data.held_out)} held out, {len(data.test)} test images of "
            f"{'x'.join(map(str, data.image))}, {data.classes} classes; threat {self.task.threat}; "
            f"teacher {self.task.teacher.name}; device {self.task.device}"
        )
        self.feasibility()
        minutes = estimated_seconds(self.task, self.bench) / 60
        self.console.say(f"search, training and attack take about {max(1, round(minutes))} min here (a rough estimate)")

    # ------------------------------------------------------------------------------------------------- search

    @cached_property
    def judge(self) -> TrainedJudge:
        short = recipe(
            self.setting.recipe,
            epochs=self.setting.judge_epochs,
            attack_steps=JUDGE_STEPS,
            learning_rate=self.recipe.learning_rate / 2,
            batch_size=self.recipe.batch_size,
        )
        return TrainedJudge(self.task, short, cache=self.run / "scores")

    def search_depends(self) -> dict[str, Any]:
        """What a search depends on."""
        return {
            "data": self.task.data.digest,
            "teacher": self.task.teacher.digest,
            "attack": str(self.task.threat),
            "family": self.setting.family,
            "base": self.task.base.to_dict(),
            "target": str(self.task.target),
            "budgets": {budget.quantity: budget.limit for budget in self.bench.budgets},
            "profile": self.bench.profile.digest(),
            "strategy": self.setting.strategy,
            "evaluations": self.setting.evaluations,
            "judge": self.judge.digest,
            "seed": self.setting.seed,
        }

    def search(self) -> dict[str, Any]:
        """Judge `evaluations` architectures by the strategy; search.json has them all."""
        depends = self.search_depends()
        done = self.run.done("search.json", depends)
        if done is not None:
            return done
        self.feasibility()
        judge = self.judge
        search = strategy(self.setting.strategy, self.bench, judge, seed=self.setting.seed)
        candidates: list[Candidate] = []
        spent = judged = 0.0
        state_path = self.run / "search.state"
        if state_path.is_file():
            tensors, values = read_state(state_path)
            if values["depends"] != depends:
                raise InputError(
                    f"a run's folder holds one task, the search begun in {self.run.folder} is another's: take "
                    "another --out, or delete search.state to begin again"
                )
            search.load_state_dict(unpack(values["search"], tensors))
            candidates = [Candidate.from_dict(candidate) for candidate in values["candidates"]]
            spent, judged = values["seconds"], values["judge_seconds"]
        judge.prepare()
        title = f"search: {self.setting.strategy}, judge: {judge.name}"
        with self.console.task(title, self.setting.evaluations) as advance:
            while len(candidates) < self.setting.evaluations:
                started, before = time.perf_counter(), judge.spent
                found = search.step()
                candidates += found
                spent += time.perf_counter() - started
                judged += judge.spent - before
                tensors = {}
                packed = pack(search.state_dict(), tensors)
                state = {"depends": depends, "search": packed, "seconds": spent, "judge_seconds": judged}
                write_state(state_path, tensors, state | {"candidates": [item.to_dict() for item in candidates]})
                if not found:
                    self.console.say("every network within the budgets has been judged")
                    break
                best = max(candidate.score.robust for candidate in candidates)
                advance(min(len(candidates), self.setting.evaluations), f"best {100 * best:.1f} % robust on held-out")
        order = search.recommend(len(candidates))
        values = {
            "strategy": self.setting.strategy,
            "judge": judge.name,
            "evaluations": len(candidates),
            "seconds": spent,
            "judge_seconds": judged,
            "candidates": [candidate.to_dict() for candidate in candidates],
            "recommended": [list(architecture.picks) for architecture in order],
        }
        kept = self.run.keep("search.json", depends, values)
        state_path.unlink(missing_ok=True)
        return kept

    def pick(self) -> dict[str, Any]:
        """Export and time the recommended ones for real; the best judged that keeps every budget is picked."""
        found = self.search()
        depends = {"search": self.search_depends(), "finalists": self.setting.finalists}
        done = self.run.done("architecture.json", depends)
        if done is not None:
            return done
        timed: list[dict[str, Any]] = []
        chosen = None
        for rank, picks in enumerate(found["recommended"]):
            if rank >= self.setting.finalists and chosen is not None:
                break
            architecture = Architecture(tuple(picks))
            measured = self.measured_cost(architecture)
            met = all(budget.met(measured) for budget in self.bench.budgets)
            timed.append({"picks": picks, "cost": measured.to_dict(), "met": met})
            words = f"{show('latency', self.bench.cost(architecture).latency)} predicted, "
            words += f"{show('latency', measured.latency)} measured"
            self.console.say(f"finalist {rank + 1}: {words}, {'within' if met else 'OVER'} the budgets")
            if met and chosen is None:
                chosen = architecture
        if chosen is None:
            fastest = min(entry["cost"]["latency"] for entry in timed)
            raise BudgetError(
                f"a budget holds for the measured artefact, none of the {len(timed)} recommended networks keeps it "
                f"(fastest {fastest:.3f} ms measured): allow more than {self.latency_words()}, or search longer "
                "with --evaluations"
            )
        values = {
            "family": self.setting.family,
            "picks": list(chosen.picks),
            "options": named(self.task.space.genes, chosen),
            "network": self.task.space.describe(chosen),
            "finalists": timed,
        }
        return self.run.keep("architecture.json", depends, values)

    def latency_words(self) -> str:
        limits = [f"{show(budget.quantity, budget.limit)}" for budget in self.bench.budgets]
        return ", ".join(limits)

    def measured_cost(self, architecture: Architecture) -> Cost:
        """The predicted cost with the latency and the size of the exported file put in; kept before it is used."""
        key = f"measured/{'-'.join(map(str, architecture.picks))}"
        depends = {"base": self.task.base.to_dict(), "target": str(self.task.target), "opset": self.setting.opset}
        known = self.run.done(f"{key}.json", depends)
        if known is None:
            path = self.run / f"{key}.{self.setting.format}"
            student = self.task.student(architecture, seed=self.setting.seed).eval()
            artefact = self._export(student, path, digest="untrained")
            timing = time_model(path, threads=self.setting.threads, seconds=TIMING_SECONDS)
            known = self.run.keep(f"{key}.json", depends, {"timing": asdict(timing), "bytes": artefact.bytes})
            for left in path.parent.glob(path.name + "*"):
                left.unlink()
        cost = self.bench.cost(architecture)
        return replace(cost, latency=known["timing"]["p50_ms"], size=known["bytes"], measured=1.0)

    # -------------------------------------------------------------------------------------------------- train

    @cached_property
    def recipe(self) -> Recipe:
        return recipe(
            self.setting.recipe,
            examples=len(self.task.data.train),
            epochs=self.setting.epochs,
            batch_size=self.setting.batch_size,
            learning_rate=self.setting.learning_rate,
        )

    @property
    def architecture(self) -> Architecture:
        """The architecture that was picked."""
        return Architecture(tuple(self.pick()["picks"]))

    def train_depends(self) -> dict[str, Any]:
        """What a training depends on."""
        return {
            "network": self.pick()["network"],
            "data": self.task.data.digest,
            "teacher": self.task.teacher.digest,
            "attack": str(self.task.threat),
            "recipe": self.recipe.to_dict(),
            "seed": self.setting.seed,
            "device": self.task.device.type,
        }

    def train(self) -> Checkpoint:
        """Train the picked student adversarially, from inherited weights, with the teacher's soft labels."""
        depends = self.train_depends()
        if self.run.done("checkpoint/recipe.json", depends) is not None:
            return read_checkpoint(self.run / "checkpoint")
        state = self.run / "checkpoint" / "state.safetensors"
        begun = self.run.done("checkpoint/begun.json", depends)
        if begun is None:
            state.unlink(missing_ok=True)
            self.run.keep("checkpoint/begun.json", depends, {})
        model = self.task.student(self.architecture, seed=self.setting.seed)
        title = f"train: {self.recipe.name}, {self.recipe.epochs} epochs"
        with self.console.task(title, self.recipe.epochs) as advance:
            fitted = fit(
                model,
                self.task.data,
                self.task.threat,
                self.recipe,
                teacher=self.task.teacher.model if self.recipe.distils else None,
                seed=self.setting.seed,
                device=self.task.device,
                state=state,
                progress=lambda epoch, _: advance(epoch.epoch, f"{100 * epoch.robust:.1f} % robust on held-out"),
            )
        write_history(self.run / "checkpoint" / "history.csv", fitted.history)
        config = self.task.family.config(self.pick()["network"])
        checkpoint = write_checkpoint(
            self.run / "checkpoint",
            model.cpu(),
            config,
            family=self.setting.family,
            facts={"threat": str(self.task.threat), "data": self.task.data.digest, "recipe": self.recipe.to_dict()},
        )
        values = {
            "best_epoch": fitted.best_epoch,
            "seconds": fitted.seconds,
            "history": [asdict(epoch) for epoch in fitted.history],
        }
        self.run.keep("checkpoint/recipe.json", depends, values)
        (self.run / "checkpoint" / "begun.json").unlink(missing_ok=True)
        state.unlink(missing_ok=True)
        return checkpoint

    # ------------------------------------------------------------------------------------------------- export

    def export_depends(self) -> dict[str, Any]:
        """What an export depends on."""
        return {
            "weights": self.train().sha256,
            "opset": self.setting.opset,
            "target": str(self.task.target),
            "profile": self.bench.profile.digest(),
        }

    def export(self) -> Artefact:
        """Write the artefact, then time the very file on the target; artefacts/latency.json has the timing."""
        path = self.run / "artefacts" / f"model.{self.setting.format}"
        depends = self.export_depends()
        if self.run.done("artefacts/latency.json", depends) is not None:
            return read_artefact(path)
        model, _ = self.train().build()
        artefact = self._export(model, path, digest=self.train().sha256)
        timing = time_model(path, threads=self.setting.threads, seconds=FINAL_TIMING_SECONDS)
        self.console.say(f"exported {path.name}: {artefact.bytes} bytes, {timing.p50_ms:.3f} ms on {self.task.target}")
        self.run.keep("artefacts/latency.json", depends, {"timing": asdict(timing), "sha256": artefact.sha256})
        return artefact

    def timing(self) -> Timing:
        """The measured latency of the artefact."""
        self.export()
        known = self.run.done("artefacts/latency.json", self.export_depends())
        assert known is not None, "export writes it"
        return Timing(**known["timing"])

    def final_cost(self) -> Cost:
        """What the artefact costs: latency and size as measured, the rest by its rows."""
        cost = self.bench.cost(self.architecture)
        return replace(cost, latency=self.timing().p50_ms, size=self.export().bytes, measured=1.0)

    def _export(self, model: torch.nn.Module, path: Path, *, digest: str) -> Artefact:
        return exporter(self.setting.format).export(
            model,
            path,
            image=self.task.data.image,
            metadata=facts(labels=self.task.data.class_names, threat=str(self.task.threat), digest=digest),
            opset=self.setting.opset,
        )

    # ------------------------------------------------------------------------------------------------- verify

    def verify_depends(self) -> dict[str, Any]:
        """What a verdict depends on; the gates are part of it because they decide."""
        return {
            "artefact": self.export().sha256,
            "data": self.task.data.digest,
            "attack": str(self.task.threat),
            "teacher": self.task.teacher.digest,
            "level": self.setting.level,
            "min_robust": self.setting.min_robust,
            "max_robust_drop": self.setting.max_robust_drop,
            "seed": self.setting.seed,
        }

    @property
    def verdict_name(self) -> str:
        return f"verdict.{self.setting.format}-{self.setting.precision}.json"

    def verify(self, *, again: bool = False) -> Verdict:
        """Attack the artefact on test images it has never seen; `again` replaces a verdict made for other terms."""
        depends = self.verify_depends()
        if again:
            self.run.drop_if_other(self.verdict_name, depends)
        done = self.run.done(self.verdict_name, depends)
        if done is not None:
            return Verdict.from_dict(done["verdict"])
        artefact = self.export()
        test, drawn = self.task.data.test, self.test_indices
        reference = tuple(np.zeros(len(test), dtype=bool) for _ in range(2))
        for whole, part in zip(reference, self.teacher_flags(), strict=True):
            whole[drawn] = part
        model, _ = self.train().build()
        with self.console.task(f"verify: {len(drawn)} test images, {self.task.threat}", 1.0) as advance:
            verdict = verify(
                Subject(
                    exporter(self.setting.format).predict(artefact, threads=self.verify_threads()),
                    model.to(self.task.device),
                ),
                test.floats(),
                test.labels,
                self.task.threat,
                level=self.setting.level,
                gates=Gates(self.setting.min_robust, self.setting.max_robust_drop),
                seed=self.setting.seed,
                name=artefact.path.name,
                sha256=artefact.sha256,
                arrays=self.run / self.verdict_name.replace(".json", ".npz"),
                reference_right=reference,
                progress=lambda text, share: advance(share, text),
            )
        self.run.keep(self.verdict_name, depends, {"verdict": verdict.to_dict()})
        return verdict

    def known_verdict(self) -> Verdict | None:
        """The verdict, if there is one for the artefact as it is."""
        done = self.run.done(self.verdict_name, self.verify_depends())
        return None if done is None else Verdict.from_dict(done["verdict"])

    def present(self) -> set[str]:
        """Which stages have their files: search, architecture, training, artefact."""
        files = {
            "search": "search.json",
            "architecture": "architecture.json",
            "training": "checkpoint/recipe.json",
            "artefact": "artefacts/latency.json",
        }
        return {stage for stage, name in files.items() if (self.run / name).is_file()}

    def verify_threads(self) -> int:
        """Threads of the runtime while it is attacked; answers do not depend on them beyond rounding."""
        return torch.get_num_threads()

    @cached_property
    def test_indices(self) -> np.ndarray:
        """Which test images are attacked."""
        return test_indices(self.task.data, self.setting.level, self.setting.seed)

    def teacher_flags(self) -> tuple[np.ndarray, np.ndarray]:
        """Per drawn test image whether the teacher is right, and still right under the headline; kept on record.

        A record is used if it was made for these weights, images, threat and queries; else it is made and kept.
        """
        task, level = self.task, self.setting.level
        drawn = task.data.test.take(self.test_indices)
        images, labels = drawn.floats(), drawn.labels
        depends = flags_depend(task.teacher.digest, images, labels, task.threat, level)
        for folder in (task.teacher.folder, self.run / "teacher"):
            flags = None if folder is None else read_flags(folder / FLAGS, depends)
            if flags is not None:
                return flags
        with self.console.task(f"attacking the teacher {task.teacher.name} for comparison", 1.0) as advance:
            model = task.teacher.model.to(task.device)
            flags = attacked_flags(model, images, labels, task.threat, level=level, advance=advance)
        write_flags(self.run / "teacher" / FLAGS, depends, *flags)
        return flags
