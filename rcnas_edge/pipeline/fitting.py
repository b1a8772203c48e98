"""The stage that trains the picked student, from inherited weights, with the teacher's soft labels."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rcnas_edge.calibrating import calibration_images
from rcnas_edge.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from rcnas_edge.pipeline.console import Advance, Console
from rcnas_edge.pipeline.opened import Opened
from rcnas_edge.pipeline.searching import Searching
from rcnas_edge.train.fit import Epoch, fit, write_history
from rcnas_edge.train.qat import fine_tune_quantised


class Fitting:
    """The folder checkpoint/."""

    def __init__(self, opened: Opened, searching: Searching) -> None:
        self.opened, self.searching = opened, searching
        self.run, self.console = opened.run, opened.console

    def depends(self) -> dict[str, Any]:
        """What a training depends on."""
        task = self.opened.task
        return {
            "network": self.searching.pick()["network"],
            "data": task.data.digest,
            "teacher": task.teacher.digest,
            "attack": str(task.threat),
            "recipe": self.opened.recipe.to_dict(),
            "seed": task.setting.seed,
        }

    def train(self) -> Checkpoint:
        """Train the picked student adversarially, from inherited weights, with the teacher's soft labels."""
        depends, task, recipe = self.depends(), self.opened.task, self.opened.recipe
        folder = self.run / "checkpoint"
        if self.run.done("checkpoint/recipe.json", depends) is not None:
            return read_checkpoint(folder)
        state = self._begin("checkpoint", depends)
        model = task.student(self.searching.architecture, seed=task.setting.seed)
        with self.console.task(f"train: {recipe.name}, {recipe.epochs} epochs", recipe.epochs) as advance:
            fitted = fit(
                model,
                task.data,
                task.threat,
                recipe,
                teacher=task.teacher.model if recipe.distils else None,
                seed=task.setting.seed,
                device=task.device,
                state=state,
                progress=partial(tell_epoch, self.console, "train", advance),
            )
        write_history(folder / "history.csv", fitted.history)
        checkpoint = write_checkpoint(
            folder,
            model.cpu(),
            task.family.config(self.searching.pick()["network"]),
            family=task.family.name,
            facts={"threat": str(task.threat), "data": task.data.digest, "recipe": recipe.to_dict()},
        )
        values = {
            "best_epoch": fitted.best_epoch,
            "seconds": fitted.seconds,
            "history": [asdict(epoch) for epoch in fitted.history],
        }
        self.run.keep("checkpoint/recipe.json", depends, values)
        (folder / "begun.json").unlink(missing_ok=True)
        state.unlink(missing_ok=True)
        return checkpoint

    def trained_for(self, precision: str) -> Checkpoint:
        """The network that a file in this precision is made of: in int8 the fine-tuned one, if that was asked for."""
        epochs = self.opened.setting.qat_epochs
        if precision != "int8" or not epochs:
            return self.train()
        trained, task, recipe = self.train(), self.opened.task, self.opened.recipe
        depends = {**self.depends(), "weights": trained.sha256, "qat_epochs": epochs}
        folder = self.run / "checkpoint-int8"
        if self.run.done("checkpoint-int8/recipe.json", depends) is not None:
            return read_checkpoint(folder)
        model = trained.build()[0].to(task.device)
        state = self._begin("checkpoint-int8", depends)
        calibration = calibration_images(model, task.data, task.threat, seed=task.setting.seed)
        with self.console.task(f"train: {epochs} epochs with int8 rounding", epochs) as advance:
            tuned = fine_tune_quantised(
                model,
                task.data,
                task.threat,
                recipe,
                epochs=epochs,
                calibration=calibration,
                teacher=task.teacher.model if recipe.distils else None,
                seed=task.setting.seed,
                device=task.device,
                state=state,
                progress=partial(tell_epoch, self.console, "train int8", advance),
            )
        write_history(folder / "history.csv", tuned.fitted.history)
        if not tuned.kept:
            self.console.say("fine-tuning with int8 rounding made it no better on held-out images: it is left out")
        checkpoint = write_checkpoint(
            folder,
            model.cpu(),
            task.family.config(self.searching.pick()["network"]),
            family=task.family.name,
            facts={"threat": str(task.threat), "data": task.data.digest, "recipe": recipe.to_dict()},
        )
        values = {"seconds": tuned.fitted.seconds, "kept": tuned.kept, "robust_before": tuned.robust_before}
        self.run.keep("checkpoint-int8/recipe.json", depends, values)
        (folder / "begun.json").unlink(missing_ok=True)
        state.unlink(missing_ok=True)
        return checkpoint

    def _begin(self, folder: str, depends: dict[str, Any]) -> Path:
        """Where a training in this folder keeps its state; that of another training is deleted."""
        state = self.run / folder / "state.safetensors"
        if self.run.done(f"{folder}/begun.json", depends) is None:
            state.unlink(missing_ok=True)
            self.run.keep(f"{folder}/begun.json", depends, {})
        return state


def tell_epoch(console: Console, stage: str, advance: Advance, epoch: Epoch, epochs: int) -> None:
    """Progress of a training, and the numbers of one of its epochs."""
    advance(epoch.epoch, f"{100 * epoch.robust:.1f} % robust on held-out")
    names = ("loss", "clean", "robust", "learning_rate", "seconds")
    console.record(stage, epoch.epoch, {name: getattr(epoch, name) for name in names})
