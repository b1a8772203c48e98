"""Adversarial training of one network: crafted batches, weight average, selection on held-out robust accuracy.

After every epoch the whole state is written, so that a killed training resumes to the same weights (CPU, one
seed). Order, augmentation and attack of an epoch depend on (seed, epoch) alone.
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

from rcnas_edge.attacks import Threat, pgd, set_fast_float
from rcnas_edge.checkpoint import read_state, write_state, write_whole
from rcnas_edge.data import Dataset
from rcnas_edge.errors import TrainingError
from rcnas_edge.train.batches import Batches, as_float, seeded
from rcnas_edge.train.losses import inner_objective, training_loss
from rcnas_edge.train.recipe import Recipe

log = logging.getLogger(__name__)

SELECTION_IMAGES = 1000
"""Held-out images that an epoch is judged by, at most."""
STATISTICS_IMAGES = 1024
"""Training images that batch statistics are re-estimated from, at most."""
SELECTION_STEPS = 10


@dataclass(frozen=True)
class Epoch:
    """One line of the history: epochs count from 1, accuracies are held-out fractions, seconds of this epoch."""

    epoch: int
    loss: float
    clean: float
    robust: float
    learning_rate: float
    seconds: float


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
) -> Fitted:
    """Train `network` in place and leave it with the best epoch's averaged weights, in eval mode.

    `state` is the file of the training's state: written after every epoch, resumed from if it is there.
    `progress(epoch, epochs)` is called after every epoch. Raises TrainingError when the loss is not a number.
    """
    if recipe.distils and teacher is None:
        raise ValueError(f"the recipe {recipe.name} distils, so it needs a teacher")
    device = torch.device(device)
    set_fast_float()
    run = _Run(network, data, threat, recipe, teacher, seed, device)
    if state is not None and state.exists():
        run.load(state)
    while run.epoch < recipe.epochs:
        done = run.train_epoch()
        if state is not None:
            run.save(state)
        if progress is not None:
            progress(done, recipe.epochs)
    network.load_state_dict(run.best)
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
    ) -> None:
        self.recipe, self.seed, self.device = recipe, seed, device
        self.threat = replace(threat, steps=recipe.attack_steps, step=recipe.step_ratio * threat.epsilon)
        self.selection_threat = replace(threat, steps=SELECTION_STEPS, step=threat.epsilon / 4)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.teacher = None if teacher is None else teacher.to(device, memory_format=torch.channels_last).eval()
        self.batches = Batches(data.train, batch_size=recipe.batch_size, augmentation=data.augmentation, device=device)
        self.held_out_images = as_float(torch.from_numpy(data.held_out.images[:SELECTION_IMAGES]).to(device))
        self.held_out_labels = torch.from_numpy(data.held_out.labels[:SELECTION_IMAGES]).to(device)
        self.optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
        )
        self.craft_dtype = crafting_dtype(device)
        self.epoch = 0
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self.best: dict[str, Tensor] = {}

    def train_epoch(self) -> Epoch:
        """One pass over the data, then the averaged network's held-out accuracy."""
        started = time.perf_counter()
        losses = []
        generator = seeded(self.device, self.seed, self.epoch, 1)
        for index, (images, labels) in enumerate(self.batches.epoch(self.seed, self.epoch)):
            step = self.epoch * len(self.batches) + index
            for group in self.optimiser.param_groups:
                group["lr"] = self.learning_rate(step)
            losses.append(self.train_step(images, labels, generator))
            self.update_average(step)
        loss = float(torch.stack(losses).mean())
        if not math.isfinite(loss):
            raise TrainingError(
                f"the training loss must stay a number, it is {loss} in epoch {self.epoch + 1}: "
                f"try a smaller --learning-rate than {self.recipe.learning_rate} or a smaller epsilon"
            )
        reestimate_statistics(self.average, self.batches)
        clean, robust = self.held_out_accuracy()
        self.epoch += 1
        rate = self.optimiser.param_groups[0]["lr"]
        done = Epoch(self.epoch, loss, clean, robust, rate, time.perf_counter() - started)
        self.history.append(done)
        if self.best_epoch == 0 or (robust, clean) >= (
            self.history[self.best_epoch - 1].robust,
            self.history[self.best_epoch - 1].clean,
        ):
            self.best_epoch = self.epoch
            self.best = {name: value.clone() for name, value in self.average.state_dict().items()}
        return done

    def train_step(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Craft, then one step of the weights; the loss stays on the device."""
        soft = None
        if self.teacher is not None and self.recipe.distils:
            with torch.no_grad():
                soft = self.teacher(images).softmax(dim=1)
        self.network.eval()  # batch statistics are frozen while crafting
        adversarial = pgd(
            self.network,
            images,
            labels,
            self.threat,
            generator=generator,
            loss=inner_objective(self.recipe.loss, labels, soft),
            dtype=self.craft_dtype,
        )
        self.network.train()
        natural = self.network(images) if self.recipe.distils else None
        loss = training_loss(self.recipe.loss, self.network(adversarial), natural, labels, soft)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        return loss.detach()

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
            tensors[f"momentum.{index}"] = self.optimiser.state[parameter]["momentum_buffer"]
        values = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
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
            self.optimiser.state[parameter]["momentum_buffer"] = buffer
        self.epoch, self.best_epoch = values["epoch"], values["best_epoch"]
        self.history = [Epoch(**epoch) for epoch in values["history"]]
        log.info("training resumes after epoch %d", self.epoch)


def crafting_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 while crafting where the hardware computes it fast (CUDA; CPUs with AVX512-BF16 or AMX), else None."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else None


@torch.no_grad()
def reestimate_statistics(network: nn.Module, batches: Batches) -> None:
    """Replace every batch normalisation's running statistics by plain averages over clean training images."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for images in batches.plain(STATISTICS_IMAGES):
        if len(images) > 1:
            network(images)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def clean_and_robust(
    network: nn.Module, images: Tensor, labels: Tensor, threat: Threat, *, seed: int, batch_size: int = 512
) -> tuple[float, float]:
    """Clean accuracy and accuracy under PGD as fractions; for selection only, never a number to publish."""
    clean = robust = 0
    generator = seeded(images.device, seed, 0, 2)
    network.eval()
    for start in range(0, len(labels), batch_size):
        part, truth = images[start : start + batch_size], labels[start : start + batch_size]
        adversarial = pgd(network, part, truth, threat, generator=generator)
        with torch.no_grad():
            right = network(part).argmax(1) == truth
            clean += int(right.sum())
            robust += int((right & (network(adversarial).argmax(1) == truth)).sum())
    return clean / len(labels), robust / len(labels)


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """One line per epoch as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[field.name for field in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(epoch) for epoch in history)
    write_whole(path, lambda aside: aside.write_text(text.getvalue()))
