"""The stage that attacks the artefact on test images, beside the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rcnas_edge.errors import UncheckedError
from rcnas_edge.export import Artefact, exporter
from rcnas_edge.pipeline.flags import FLAGS, attacked_flags, flags_depend, read_flags, write_flags
from rcnas_edge.pipeline.opened import Opened
from rcnas_edge.pipeline.run import Run
from rcnas_edge.pipeline.shipping import Shipping
from rcnas_edge.reimport import reimport
from rcnas_edge.verify import Gates, Subject, Verdict, verify
from rcnas_edge.verify.replay import cross_replay

HALF = (
    "a CPU computes fp16 in fp32, so neither its answers nor its time here are those of a device with fp16 arithmetic"
)
"""Why an ONNX file in fp16 is not checked here."""


class Verifying:
    """verdict.*.json with its arrays."""

    def __init__(self, opened: Opened, shipping: Shipping) -> None:
        self.opened, self.shipping = opened, shipping
        self.run, self.console, self.setting = opened.run, opened.console, opened.setting

    def depends(self, artefact: Artefact) -> dict[str, Any]:
        """What a verdict depends on; the gates are part of it because they decide."""
        task = self.opened.task
        return {
            "artefact": artefact.sha256,
            "data": task.data.digest,
            "attack": str(task.threat),
            "teacher": task.teacher.digest,
            "level": self.setting.level,
            "min_robust": self.setting.min_robust,
            "max_robust_drop": self.setting.max_robust_drop,
            "seed": self.setting.seed,
            **({"parent": self.shipping.fitting.train().sha256} if artefact.precision != "fp32" else {}),
        }

    def _subject(self, artefact: Artefact, checkpoint: nn.Module) -> Subject:
        """The file, with the checkpoint as its twin in fp32, else with the file itself read back as a network.

        A file of a format that cannot be read back has no twin, and is attacked by what fools the checkpoint.
        """
        if artefact.precision == "fp16" and artefact.path.suffix == ".onnx":
            raise UncheckedError(HALF)
        predict = exporter(artefact.format).predict(artefact, threads=torch.get_num_threads())
        if artefact.precision == "fp32":
            return Subject(predict, checkpoint)
        if artefact.path.suffix != ".onnx":
            return Subject(predict, parent=checkpoint)
        twin, naive = (reimport(artefact.path, straight_through=through) for through in (True, False))
        device = self.opened.task.device
        return Subject(predict, twin.to(device), parent=checkpoint, naive=naive.to(device))

    def _points_of_checkpoint(self, artefact: Artefact) -> Path | None:
        """Points that were made on the checkpoint for the file in fp32, where that is the artefact and was attacked."""
        own = self.shipping.export()
        if artefact.precision == "fp32" or own.precision != "fp32" or self.known_verdict(own) is None:
            return None
        return arrays_of(self.run, own)

    def cross_replay(self, artefacts: Sequence[Artefact]) -> None:
        """Show every file the images that were found for the others: each verdict is of the worst of them all."""
        names = {artefact: verdict_name(artefact) for artefact in artefacts}
        for artefact, name in names.items():
            depends = self.depends(artefact)
            known = self.run.done(name, depends)
            others = {other.path.name: other for other in artefacts if other != artefact}
            replayed = {file: other.sha256 for file, other in others.items()}
            if known is None or not others or known.get("replayed") == replayed:
                continue
            arrays = {file: arrays_of(self.run, other) for file, other in others.items()}
            verdict = cross_replay(
                Verdict.from_dict(known["verdict"]),
                arrays_of(self.run, artefact),
                exporter(artefact.format).predict(artefact, threads=torch.get_num_threads()),
                arrays,
            )
            self.run.keep(name, depends, {"verdict": verdict.to_dict(), "replayed": replayed})
            self.console.say(f"with the points of {', '.join(others)}: {verdict.summary()}")

    def verify(self, artefact: Artefact | None = None, *, again: bool = False) -> Verdict:
        """Attack the artefact, or a file beside it, on test images it has never seen.

        `again` replaces a verdict made for other terms.
        """
        artefact = artefact or self.shipping.export()
        name, depends = verdict_name(artefact), self.depends(artefact)
        if again:
            self.drop_other(artefact)
        done = self.run.done(name, depends)
        if done is not None:
            return Verdict.from_dict(done["verdict"])
        task, drawn = self.opened.task, self.opened.test_indices
        test = task.data.test
        reference = np.zeros(len(test), dtype=bool), np.zeros(len(test), dtype=bool)
        for whole, part in zip(reference, self.teacher_flags(), strict=True):
            whole[drawn] = part
        model, _ = self.shipping.fitting.train().build()
        with self.console.task(f"verify: {len(drawn)} test images, {task.threat}", 1.0) as advance:
            verdict = verify(
                self._subject(artefact, model.to(task.device)),
                test.floats(),
                test.labels,
                task.threat,
                level=self.setting.level,
                gates=Gates(self.setting.min_robust, self.setting.max_robust_drop),
                seed=self.setting.seed,
                name=artefact.path.name,
                sha256=artefact.sha256,
                arrays=arrays_of(self.run, artefact),
                transferred=self._points_of_checkpoint(artefact),
                reference_right=reference,
                progress=lambda text, share: advance(share, text),
            )
        self.run.keep(name, depends, {"verdict": verdict.to_dict()})
        return verdict

    def drop_other(self, artefact: Artefact) -> None:
        """Delete the verdict on a file that was made for other terms."""
        self.run.drop_if_other(verdict_name(artefact), self.depends(artefact))

    def known_verdict(self, artefact: Artefact | None = None) -> Verdict | None:
        """The verdict, if there is one for the artefact, or a file beside it, as it is."""
        artefact = artefact or self.shipping.export()
        done = self.run.done(verdict_name(artefact), self.depends(artefact))
        return None if done is None else Verdict.from_dict(done["verdict"])

    def teacher_flags(self) -> tuple[np.ndarray, np.ndarray]:
        """Per drawn test image whether the teacher is right, and still right under the headline; kept on record.

        A record is used if it was made for these weights, images, threat and queries; else it is made and kept.
        """
        task, level = self.opened.task, self.setting.level
        drawn = task.data.test.take(self.opened.test_indices)
        images, labels = drawn.floats(), drawn.labels
        depends = flags_depend(task.teacher.digest, images, labels, task.threat, level)
        for folder in (task.teacher.folder, self.run.shared / "teacher"):
            flags = None if folder is None else read_flags(folder / FLAGS, depends)
            if flags is not None:
                return flags
        with self.console.task(f"attacking the teacher {task.teacher.name} for comparison", 1.0) as advance:
            model = task.teacher.model.to(task.device)
            flags = attacked_flags(model, images, labels, task.threat, level=level, advance=advance)
        write_flags(self.run.shared / "teacher" / FLAGS, depends, *flags)
        return flags


def arrays_of(run: Run, artefact: Artefact) -> Path:
    """The arrays beside the verdict on an artefact."""
    return run / verdict_name(artefact).replace(".json", ".npz")


def verdict_name(artefact: Artefact) -> str:
    """The file of the verdict on an artefact, in a run's folder."""
    return f"verdict.{artefact.format}-{artefact.precision}.json"
