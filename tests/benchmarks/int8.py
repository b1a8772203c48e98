"""What int8 gains and costs: the files of one trained network, timed and attacked in one run.

The checkpoint is written in fp32 and as int8 (QDQ, unsigned activations), and once more as int8 after a fine-tuning
with int8 rounding if --qat-epochs asks for one and it is no worse on held-out images. All files are timed in turns on
one thread. Then each is attacked as it is: the fp32 file through its checkpoint, the int8 files through their
re-import, by transfer, by Square and by points that fool them alone (differential evasion), on the same test images.
The loss of robust accuracy is paired with the checkpoint's, with a 95 % interval; the worst case of a file is over all
points that were made for it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any import of torch

import torch
from machine import machine, show
from torch import nn

from rcnas_edge.calibrating import calibration_images
from rcnas_edge.checkpoint import Checkpoint, read_checkpoint
from rcnas_edge.export import Artefact, export_in, exporter, facts
from rcnas_edge.measure.timing import session_runner, time_model
from rcnas_edge.process import prepare_process
from rcnas_edge.reimport import reimport
from rcnas_edge.setting import TaskSetting
from rcnas_edge.task import Task, open_task
from rcnas_edge.train.qat import fine_tune_quantised
from rcnas_edge.train.recipe import recipe
from rcnas_edge.verify import LEVELS, Subject, Verdict, verify

TURNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a trained network, as RUN/checkpoint")
    parser.add_argument("--teacher", help="that it was distilled from; default the one of the digits")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root", help="folder of the data, in torchvision's layout")
    parser.add_argument("--attack", help="threat model linf:EPSILON:STEPS; default by data set")
    parser.add_argument("--images", type=int, default=256, help="test images that are attacked; 0: only time")
    parser.add_argument("--qat-epochs", type=int, default=0)
    parser.add_argument("--recipe", default="rslad-fast", help="of the fine-tuning")
    parser.add_argument("--seconds", type=float, default=5.0, help="that each file is timed, in each of 5 turns")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    task = open_task(
        TaskSetting(dataset=asked.dataset, data_root=asked.data_root, teacher=asked.teacher, attack=asked.attack)
    )
    checkpoint = read_checkpoint(asked.checkpoint)
    print(machine())
    prepare_process()
    models = {"fp32": checkpoint.build()[0], "int8": checkpoint.build()[0]}
    if asked.qat_epochs:
        tuned = _fine_tuned(checkpoint, task, asked)
        models |= {} if tuned is None else {f"int8, {asked.qat_epochs} epochs": tuned}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: _written(name, model, task, Path(folder), asked.seed) for name, model in models.items()}
        latencies = _timed(files, asked.seconds)
        rows = []
        for name, file in files.items():
            ratio = latencies["fp32"] / latencies[name]
            row = [name, f"{file.bytes / 1e6:.3f} MB", f"{latencies[name]:.4f} ms", f"{ratio:.2f}"]
            rows.append(row + (_attacked(name, file, models, task, asked) if asked.images else []))
    columns = ["", "file", "latency", "times faster"]
    columns += ["clean", "robust", "lost against the checkpoint", "evaded"] if asked.images else []
    title = f"{asked.dataset}, {task.threat}, n = {asked.images}, seed {asked.seed}, one thread"
    show(title, columns, rows)


def _fine_tuned(checkpoint: Checkpoint, task: Task, asked: argparse.Namespace) -> nn.Module | None:
    """The network after its fine-tuning; None where no epoch was better than none, as a run leaves it out then."""
    model = checkpoint.build()[0]
    how = recipe(asked.recipe, examples=len(task.data.train))
    tuned = fine_tune_quantised(
        model,
        task.data,
        task.threat,
        how,
        epochs=asked.qat_epochs,
        calibration=calibration_images(model, task.data, task.threat, seed=asked.seed),
        teacher=task.teacher.model if how.distils else None,
        seed=asked.seed,
    )
    print(
        f"fine-tuned for {tuned.fitted.seconds:.0f} s: PGD-10 on held-out images {100 * tuned.robust_before:.1f} % "
        f"before, {100 * tuned.fitted.best.robust:.1f} % after" + ("" if tuned.kept else ": no better, it is left out"),
        flush=True,
    )
    return model.cpu().eval() if tuned.kept else None


def _written(name: str, model: nn.Module, task: Task, folder: Path, seed: int) -> Artefact:
    precision = name.partition(",")[0]
    return export_in(
        exporter("onnx"),
        precision,
        model,
        folder / f"{len(list(folder.iterdir()))}.onnx",
        image=task.data.image,
        metadata=facts(labels=task.data.class_names),
        calibration=calibration_images(model, task.data, task.threat, seed=seed) if precision == "int8" else None,
    )


def _timed(files: Mapping[str, Artefact], seconds: float) -> dict[str, float]:
    """The median ms of each file over turns; each warms up in a session of its own."""
    found: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(TURNS):
        for name, file in files.items():
            session_runner(file.path, 1).warm(0.1, 20)
            found[name].append(time_model(file.path, threads=1, seconds=seconds, sessions=1).p50_ms)
    return {name: sorted(times)[TURNS // 2] for name, times in found.items()}


def _attacked(
    name: str, file: Artefact, models: Mapping[str, nn.Module], task: Task, asked: argparse.Namespace
) -> list[str]:
    predict = exporter("onnx").predict(file, threads=torch.get_num_threads())
    if name == "fp32":
        subject = Subject(predict, models[name])
    else:
        twins = [reimport(file.path, straight_through=through) for through in (True, False)]
        subject = Subject(predict, twins[0], parent=models["fp32"], naive=twins[1])
    test, began = task.data.test, time.perf_counter()
    level = replace(LEVELS["standard"], images=asked.images, sweep_images=0, step_images=0)
    verdict = verify(subject, test.floats(), test.labels, task.threat, level=level, seed=asked.seed, name=name)
    print(f"{name}: attacked in {time.perf_counter() - began:.0f} s; {verdict.summary()}", flush=True)
    return _cells(verdict)


def _cells(verdict: Verdict) -> list[str]:
    found = verdict.findings
    rates = [
        f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        for rate in (found.clean, found.robust)
    ]
    lost = "-" if found.checkpoint is None else str(found.checkpoint.loss)
    return [*rates, lost, "-" if found.evasion is None else f"{100 * found.evasion.rate.value:.1f} %"]


if __name__ == "__main__":
    main()
