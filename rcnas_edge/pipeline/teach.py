"""Trains a teacher adversarially and records how robust it is, so that students can be held against it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rcnas_edge.attacks import Threat
from rcnas_edge.checkpoint import NETWORK, digest_of, read_checkpoint, write_checkpoint
from rcnas_edge.data import Dataset, load_dataset
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import Rate
from rcnas_edge.nets import family
from rcnas_edge.pipeline.console import Console
from rcnas_edge.pipeline.fitting import tell_epoch
from rcnas_edge.pipeline.flags import FLAGS, attacked_flags, flags_depend, read_flags, test_indices, write_flags
from rcnas_edge.pipeline.run import Run
from rcnas_edge.process import prepare_process
from rcnas_edge.task import open_device
from rcnas_edge.train.fit import fit, write_history
from rcnas_edge.train.recipe import recipe


@dataclass(frozen=True)
class TeacherSetting:
    """What `rcnas-edge teacher` is asked for."""

    dataset: str = "digits"
    data_root: str | None = None
    image_size: int | None = None
    subset: int | None = None
    family: str = "wrn"
    network: str | None = None
    attack: str | None = None
    recipe: str = "pgd-at"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    attack_steps: int | None = None
    level: str = "standard"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise InputError(f"--seed is between 0 and 2147483647, got {self.seed}")


def teach(setting: TeacherSetting, out: Path, console: Console) -> tuple[Rate, Rate]:
    """Train a teacher into the folder `out` and attack it on test images; returns clean and robust rates.

    The folder is a checkpoint that `--teacher` takes. A killed training resumes to the same weights.
    """
    data, threat = train_teacher(setting, out, console)
    device = open_device(setting.device)
    drawn = data.test.take(test_indices(data, setting.level, setting.seed))
    with Run(out).locked():
        checkpoint = read_checkpoint(out)
        model, _ = checkpoint.build()
        digest = digest_of([checkpoint.sha256, checkpoint.network])
        images, labels = drawn.floats(), drawn.labels
        key = flags_depend(digest, images, labels, threat, setting.level)
        flags = read_flags(out / FLAGS, key)
        if flags is None:
            with console.task(f"attacking the teacher: {len(labels)} test images, {threat}", 1.0) as advance:
                flags = attacked_flags(model.to(device), images, labels, threat, level=setting.level, advance=advance)
            write_flags(out / FLAGS, key, *flags)
    clean, robust = (Rate.of(flag) for flag in flags)
    console.say(f"{out / NETWORK}: clean {clean}; robust at {threat} {robust}")
    return clean, robust


def train_teacher(setting: TeacherSetting, out: Path, console: Console) -> tuple[Dataset, Threat]:
    """Train a teacher into the folder `out`, without attacking it; returns what it was trained on."""
    prepare_process()
    device = open_device(setting.device)
    data = load_dataset(
        setting.dataset,
        root=None if setting.data_root is None else Path(setting.data_root),
        image_size=setting.image_size,
        subset=setting.subset,
    )
    test_indices(data, setting.level, setting.seed)  # a level that is none is told before anything is trained
    threat = Threat.parse(setting.attack or data.threat)
    kind = family(setting.family)
    name = setting.network or kind.default_network
    config = kind.network(name, image=data.image, classes=data.classes, mean=data.mean, std=data.std)
    how = recipe(
        setting.recipe,
        examples=len(data.train),
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        attack_steps=setting.attack_steps,
    )
    if how.distils:
        raise InputError(f"a teacher is trained without a teacher, the recipe {how.name} distils: take --recipe pgd-at")
    depends: dict[str, Any] = {
        "data": data.digest,
        "network": config.to_dict(),
        "attack": str(threat),
        "recipe": how.to_dict(),
        "seed": setting.seed,
        "device": device.type,
    }
    run = Run(out)
    with run.locked():
        if run.done("training.json", depends) is None:
            state = out / "state.safetensors"
            if run.done("begun.json", depends) is None:
                state.unlink(missing_ok=True)
                run.keep("begun.json", depends, {})
            with torch.random.fork_rng():
                torch.manual_seed(setting.seed)
                model = kind.build(config)
            with console.task(f"teacher {config.name} on {data.name}: {how.name}", how.epochs) as advance:
                fitted = fit(
                    model,
                    data,
                    threat,
                    how,
                    seed=setting.seed,
                    device=device,
                    state=state,
                    progress=partial(tell_epoch, console, "teacher", advance),
                )
            write_history(out / "history.csv", fitted.history)
            facts = {"threat": str(threat), "dataset": data.name, "data": data.digest, "recipe": how.to_dict()}
            write_checkpoint(out, model.cpu(), config, family=setting.family, facts=facts | {"seed": setting.seed})
            run.keep("training.json", depends, {"best": asdict(fitted.best), "seconds": fitted.seconds})
            (out / "begun.json").unlink(missing_ok=True)
            state.unlink(missing_ok=True)
    return data, threat
