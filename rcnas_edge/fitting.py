"""The stage that trains the picked student, from inherited weights, with the teacher's soft labels."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rcnas_edge.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from rcnas_edge.opened import Opened
from rcnas_edge.searching import Searching
from rcnas_edge.train.fit import fit, write_history


class Fitting:
    """The folder checkpoint/."""

    def __init__(self, opened: Opened, searching: Searching) -> None:
        self.opened, self.searching = opened, searching

    def depends(self) -> dict[str, Any]:
        """What a training depends on."""
        return {
            "network": self.searching.pick()["network"],
            "data": self.opened.task.data.digest,
            "teacher": self.opened.task.teacher.digest,
            "attack": str(self.opened.task.threat),
            "recipe": self.opened.recipe.to_dict(),
            "seed": self.opened.setting.seed,
        }

    def train(self) -> Checkpoint:
        """Train the picked student adversarially, from inherited weights, with the teacher's soft labels."""
        depends = self.depends()
        if self.opened.run.done("checkpoint/recipe.json", depends) is not None:
            return read_checkpoint(self.opened.run / "checkpoint")
        state = self.opened.run / "checkpoint" / "state.safetensors"
        begun = self.opened.run.done("checkpoint/begun.json", depends)
        if begun is None:
            state.unlink(missing_ok=True)
            self.opened.run.keep("checkpoint/begun.json", depends, {})
        model = self.opened.task.student(self.searching.architecture, seed=self.opened.setting.seed)
        title = f"train: {self.opened.recipe.name}, {self.opened.recipe.epochs} epochs"
        with self.opened.console.task(title, self.opened.recipe.epochs) as advance:
            fitted = fit(
                model,
                self.opened.task.data,
                self.opened.task.threat,
                self.opened.recipe,
                teacher=self.opened.task.teacher.model if self.opened.recipe.distils else None,
                seed=self.opened.setting.seed,
                device=self.opened.task.device,
                state=state,
                progress=lambda epoch, _: advance(epoch.epoch, f"{100 * epoch.robust:.1f} % robust on held-out"),
            )
        write_history(self.opened.run / "checkpoint" / "history.csv", fitted.history)
        config = self.opened.task.family.config(self.searching.pick()["network"])
        checkpoint = write_checkpoint(
            self.opened.run / "checkpoint",
            model.cpu(),
            config,
            family=self.opened.task.family.name,
            facts={
                "threat": str(self.opened.task.threat),
                "data": self.opened.task.data.digest,
                "recipe": self.opened.recipe.to_dict(),
            },
        )
        values = {
            "best_epoch": fitted.best_epoch,
            "seconds": fitted.seconds,
            "history": [asdict(epoch) for epoch in fitted.history],
        }
        self.opened.run.keep("checkpoint/recipe.json", depends, values)
        (self.opened.run / "checkpoint" / "begun.json").unlink(missing_ok=True)
        state.unlink(missing_ok=True)
        return checkpoint
