"""Adversarial training of one network: crafted batches, weight average, selection on held-out robust accuracy.

After every epoch the whole state is written, so that a killed training resumes to the same weights (CPU, one seed, as
many threads). Order, augmentation and attack of an epoch depend on (seed, epoch) alone. Under torchrun the processes
share every batch; see `ranks`.
"""

from __future__ import annotations

import copy
import csv
import io
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rcnas_edge.attacks import Threat
from rcnas_edge.checkpoint import read_state, write_state, write_whole
from rcnas_edge.data import Dataset
from rcnas_edge.errors import DivergedError
from rcnas_edge.process import prepare_process
from rcnas_edge.train.batches import Batches, as_float, seeded
from rcnas_edge.train.compiling import pays
from rcnas_edge.train.crafting import attack_of_epoch
from rcnas_edge.train.judging import SELECTION_IMAGES, SELECTION_STEPS, clean_and_robust, reestimate_statistics
from rcnas_edge.train.recipe import Recipe
from rcnas_edge.train.stepping import Stepper, channels_last

log = logging.getLogger(__name__)

COLLAPSE = 0.5
"""A warm phase whose held-out accuracy under PGD-10 falls below this share of its best has overfitted its attack."""


@dataclass(frozen=True)
class Epoch:
    """One line of the history: epochs count from 1, accuracies are held-out fractions, seconds of this epoch.

    `attack` is the inner attack that the epoch trained with.
    """

    epoch: int
    loss: float
    clean: float
    robust: float
    learning_rate: float
    seconds: float
    attack: str = ""


@dataclass(frozen=True)
class Fitted:
    """What a training came to: the history and the epoch whose weights the network now has."""

    history: tuple[Epoch, ...]
    best_epoch: int

    @property
    def best(self) -> Epoch:
        return self.history[self.best_epoch - 1]

    @property
    def seconds(self) -> float:
        return sum(epoch.seconds for epoch in self.history)


def fit(
    network: nn.Module,
    data: Dataset,
    threat: Threat,
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    state: Path | None = None,
    progress: Callable[[Epoch, int], None] | None = None,
    compiled: bool | None = None,
) -> Fitted:
    """Train `network` in place and leave it with the best epoch's averaged weights, in eval mode.

    `state` is the file of the training's state: written after every epoch, resumed from if it is there.
    `progress(epoch, epochs)` is called after every epoch. `compiled` runs the network through torch.compile; None
    does so where it pays (`compiling.pays`). A warm phase that overfits its cheap attack (`COLLAPSE`) is ended, from
    its best epoch's weights. Raises DivergedError when the loss is not a number, and TrainingError when
    memory runs out again after one retry in smaller parts.
    """
    if recipe.distils and teacher is None:
        raise ValueError(f"the recipe {recipe.name} distils, so it needs a teacher")
    device = torch.device(device)
    prepare_process()
    if compiled is None:
        example = torch.zeros(1, *data.image, device=device)
        compiled = pays(network.to(device), example, recipe, len(data.train))
    run = _Run(network, data, threat, recipe, teacher, seed, device, compiled)
    if state is not None and state.exists():
        run.load(state)
    while run.epoch < recipe.epochs:
        done = run.train_epoch()
        if state is not None and run.ranks.first:
            run.save(state)
        run.ranks.wait()
        if progress is not None:
            progress(done, recipe.epochs)
    network.load_state_dict(run.best)
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.eval()
    return Fitted(tuple(run.history), run.best_epoch)


class _Run:
    """The live state of one training."""

    def __init__(
        self,
        network: nn.Module,
        data: Dataset,
        threat: Threat,
        recipe: Recipe,
        teacher: nn.Module | None,
        seed: int,
        device: torch.device,
        compiled: bool,
    ) -> None:
        self.recipe, self.seed, self.device = recipe, seed, device
        self.selection_threat = replace(threat, steps=SELECTION_STEPS, step=threat.epsilon / 4)
        self.network = channels_last(network, device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.stepper = Stepper(self.network, teacher, recipe, threat, device, compiled=compiled)
        self.ranks = self.stepper.ranks
        self.batches = Batches(data.train, batch_size=recipe.batch_size, augmentation=data.augmentation, device=device)
        self.held_out_images = as_float(torch.from_numpy(data.held_out.images[:SELECTION_IMAGES]).to(device))
        self.held_out_labels = torch.from_numpy(data.held_out.labels[:SELECTION_IMAGES]).to(device)
        self.warm = True
        self.epoch = 0
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}

    def train_epoch(self) -> Epoch:
        """One pass over the data, then the averaged network's held-out accuracy."""
        started = time.perf_counter()
        attack = attack_of_epoch(self.recipe, self.epoch, warm=self.warm)
        losses = []
        generator = seeded(self.device, self.seed, self.epoch, 1)
        for index, (images, labels) in enumerate(self.batches.epoch(self.seed, self.epoch)):
            step = self.epoch * len(self.batches) + index
            rate = self.learning_rate(step)
            noise = torch.rand(images.shape, generator=generator, device=self.device).mul_(2).sub_(1)
            part = [self.ranks.share(batch) for batch in (images, labels, noise)]
            losses.append(self.stepper.take(attack, *part, rate=rate, whole=len(labels), harden=self.hardens))
            self.update_average(step)
        loss = torch.stack(losses).mean()
        self.ranks.sum_([loss])
        if not math.isfinite(loss):
            raise DivergedError(
                f"the training loss must stay a number, it is {float(loss)} in epoch {self.epoch + 1}: "
                f"try a smaller --learning-rate than {self.recipe.learning_rate} or a smaller epsilon"
            )
        reestimate_statistics(self.average, self.batches)
        clean, robust = self.ranks.agreed(self.held_out_accuracy(), self.device)
        self.epoch += 1
        done = Epoch(self.epoch, float(loss), clean, robust, rate, time.perf_counter() - started, attack)
        self.history.append(done)
        if self.best_epoch == 0 or (robust, clean) >= (self.peak.robust, self.peak.clean):
            self.best_epoch = self.epoch
            self.best = {name: value.clone() for name, value in self.average.state_dict().items()}
        elif self.warm and done.epoch < self.recipe.warm_epochs and robust < COLLAPSE * self.peak.robust:
            self.end_warm_phase(done)
        return done

    @property
    def hardens(self) -> bool:
        """Whether this epoch trains on perturbed weights too."""
        return self.recipe.awp > 0 and self.epoch >= self.recipe.awp_after * self.recipe.epochs

    @property
    def peak(self) -> Epoch:
        """The best epoch so far."""
        return self.history[self.best_epoch - 1]

    def end_warm_phase(self, last: Epoch) -> None:
        """Catastrophic overfitting: go back to the best epoch's weights, and on with the recipe's full attack."""
        log.warning(
            "catastrophic overfitting to %s: held-out accuracy under PGD-10 fell from %.1f %% to %.1f %%; training "
            "goes on from epoch %d with PGD-%d",
            last.attack,
            100 * self.peak.robust,
            100 * last.robust,
            self.best_epoch,
            self.recipe.attack_steps,
        )
        self.warm = False
        self.network.load_state_dict(self.best)
        self.average.load_state_dict(self.best)
        for state in self.stepper.optimiser.state.values():
            state["momentum_buffer"].zero_()

    def learning_rate(self, step: int) -> float:
        """Linear rise over the warm-up, then one cosine to zero."""
        total = self.recipe.epochs * len(self.batches)
        rise = min(self.recipe.warmup * len(self.batches), total / 4)
        if step < rise:
            return self.recipe.learning_rate * (step + 1) / (rise + 1)
        return self.recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, total - rise)))

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        for ours, theirs in zip(self.average.parameters(), self.network.parameters(), strict=True):
            ours.lerp_(theirs, 1 - decay)

    def held_out_accuracy(self) -> tuple[float, float]:
        """Clean accuracy and accuracy under PGD-10 of the averaged network, as fractions."""
        return clean_and_robust(
            self.average, self.held_out_images, self.held_out_labels, self.selection_threat, seed=self.seed
        )

    def save(self, path: Path) -> None:
        tensors = {
            **{f"network.{name}": value for name, value in self.network.state_dict().items()},
            **{f"average.{name}": value for name, value in self.average.state_dict().items()},
            **{f"best.{name}": value for name, value in self.best.items()},
        }
        for index, parameter in enumerate(self.network.parameters()):
            tensors[f"momentum.{index}"] = self.stepper.optimiser.state[parameter]["momentum_buffer"]
        values = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "warm": self.warm,
            "parts": self.stepper.parts,
            "retried": self.stepper.retried,
            "history": [asdict(epoch) for epoch in self.history],
        }
        write_state(path, tensors, values)

    def load(self, path: Path) -> None:
        tensors, values = read_state(path, device=self.device)

        def part(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self.average.load_state_dict(part("average."))
        self.best = part("best.")
        for index, parameter in enumerate(self.network.parameters()):
            buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{index}"])
            self.stepper.optimiser.state[parameter]["momentum_buffer"] = buffer
        self.epoch, self.best_epoch = values["epoch"], values["best_epoch"]
        self.warm, self.stepper.parts, self.stepper.retried = values["warm"], values["parts"], values["retried"]
        self.history = [Epoch(**epoch) for epoch in values["history"]]
        log.info("training resumes after epoch %d", self.epoch)


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """One line per epoch as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[field.name for field in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(epoch) for epoch in history)
    write_whole(path, lambda aside: aside.write_text(text.getvalue()))
