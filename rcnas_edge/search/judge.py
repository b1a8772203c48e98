"""The judge that trains: inherited weights, a short adversarial training, PGD on held-out images; never test.

Ours, where the paper is silent (systems that only say "evaluate"): weights are inherited from the teacher as
importance-ordered slices, batch statistics re-estimated, the student trained for a few epochs with distillation,
and scored by PGD-10 on held-out images. Scores are kept on disk by judge digest and deployed network, so that
budgets and devices, which are not part of either, share them.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnas_edge.checkpoint import digest_of
from rcnas_edge.errors import DivergedError
from rcnas_edge.search.protocol import Score
from rcnas_edge.space import Architecture
from rcnas_edge.task import Task
from rcnas_edge.train.crafting import computed_in
from rcnas_edge.train.fit import fit
from rcnas_edge.train.judging import SELECTION_IMAGES
from rcnas_edge.train.recipe import Recipe

log = logging.getLogger(__name__)


class TrainedJudge:
    """Scores an architecture by a short training on the task's train split and PGD on its held-out split.

    `cache` is a folder; the scores of one judge are the lines of one file in it, each written at once.
    """

    def __init__(self, task: Task, recipe: Recipe, *, cache: Path | None = None) -> None:
        self.task, self.recipe = task, recipe
        setting = task.setting
        self.digest = digest_of(
            {
                "data": task.data.digest,
                "teacher": task.teacher.digest,
                "base": task.base.to_dict(),
                "threat": str(task.threat),
                "recipe": recipe.to_dict(),
                "seed": setting.seed,
                "computed": computed_in(task.device),
            }
        )
        self.spent = 0.0
        """Seconds that judging took in this process; what was remembered is free."""
        self._path = None if cache is None else cache / f"{self.digest}.jsonl"
        self._scores = {} if self._path is None else _read_scores(self._path)

    @property
    def name(self) -> str:
        """What this judge does, in words."""
        start = "inherited weights" if self.task.inherits else "fresh weights"
        return f"{start}, {self.recipe.epochs} epochs of {self.recipe.name}, PGD-10 on held-out images"

    def prepare(self) -> None:
        """Nothing has to be trained before the first candidate."""

    def __call__(self, architecture: Architecture) -> Score:
        """Train and score, or remember."""
        key = json.dumps(self.task.space.describe(architecture), sort_keys=True)
        if key not in self._scores:
            started = time.perf_counter()
            task = self.task
            model = task.student(architecture, seed=task.setting.seed)
            try:
                fitted = fit(
                    model,
                    task.data,
                    task.threat,
                    self.recipe,
                    teacher=task.teacher.model if self.recipe.distils else None,
                    seed=task.setting.seed,
                    device=task.device,
                )
                clean, robust = fitted.history[-1].clean, fitted.history[-1].robust
            except DivergedError as error:  # this network cannot be trained so; the search goes on without it
                log.warning("a candidate's short training diverged and counts as 0 %%: %s", error)
                clean = robust = 0.0
            n = min(SELECTION_IMAGES, len(task.data.held_out))
            score = Score(robust, clean, n, self.digest, time.perf_counter() - started)
            self._scores[key] = score
            self.spent += score.seconds
            if self._path is not None:
                _append(self._path, {"network": key, "score": score.to_dict()})
        return self._scores[key]

    def state_dict(self) -> dict[str, Any]:
        """The digest: the scores themselves are on disk."""
        return {"digest": self.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore; another judge's state is a mistake of the caller."""
        if state["digest"] != self.digest:
            raise ValueError(f"the state is of the judge {state['digest']}, this one is {self.digest}")


def _append(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(values) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read_scores(path: Path) -> dict[str, Score]:
    """Scores on disk; a last line that a kill cut short is passed over and written again."""
    scores: dict[str, Score] = {}
    if not path.exists():
        return scores
    lines = path.read_text().splitlines()
    whole = []
    for line in lines:
        try:
            values = json.loads(line)
            scores[values["network"]] = Score.from_dict(values["score"])
            whole.append(line)
        except (ValueError, KeyError, TypeError):
            log.warning("a score in %s is not whole and is judged again", path)
    if len(whole) < len(lines):
        path.write_text("".join(line + "\n" for line in whole))
    return scores
