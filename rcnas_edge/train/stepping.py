"""One step of adversarial training: craft a batch, gather its gradient in parts and over processes, move weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rcnas_edge.attacks import Threat
from rcnas_edge.errors import TrainingError
from rcnas_edge.train import compiling
from rcnas_edge.train.crafting import craft, fast_dtype
from rcnas_edge.train.losses import inner_objective, training_loss
from rcnas_edge.train.ranks import Ranks
from rcnas_edge.train.recipe import Recipe
from rcnas_edge.train.weights import perturbed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Crafted:
    """Images, adversarial images (N, C, H, W), labels (N,), soft labels (N, classes) of one part of a batch."""

    images: Tensor
    adversarial: Tensor
    labels: Tensor
    soft: Tensor | None


class Stepper:
    """Takes the steps of one training. `parts` is how many pieces a batch is worked on in; it may double once."""

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module | None,
        recipe: Recipe,
        threat: Threat,
        device: torch.device,
        *,
        compiled: bool,
    ) -> None:
        self.network, self.recipe, self.threat, self.device = network, recipe, threat, device
        self.teacher = None if teacher is None else channels_last(teacher, device).eval()
        self.forward = compiling.compiled(network) if compiled else network
        self.ranks = Ranks.here(device)
        self.optimiser = torch.optim.SGD(
            network.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
        )
        self.dtype = fast_dtype(device)
        self.parts = recipe.accumulate
        self.retried = False

    def take(
        self,
        attack: str,
        images: Tensor,
        labels: Tensor,
        noise: Tensor,
        *,
        rate: float,
        whole: int,
        harden: bool = False,
    ) -> Tensor:
        """One step of the weights on this process's part of a batch of `whole` images; its share of the mean loss.

        images (N, C, H, W) in [0, 1], labels (N,), noise like the images and uniform in [-1, 1]. `rate` is the learning
        rate; `harden` takes the gradient at adversarially perturbed weights.

        Out of memory, the step is taken again in twice as many parts; a second time it is a TrainingError, as it is
        at once where processes train together, which have to stay in step.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        while True:
            try:
                loss = self.gradients_of_step(attack, images, labels, noise, whole, harden)
                break
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if self.retried or self.ranks.world > 1 or len(labels) < 4 * self.parts:
                    raise TrainingError(
                        f"a batch must fit into memory, {len(labels)} images in {self.parts} part(s) on {self.device} "
                        "do not: take a smaller --batch-size"
                    ) from error
            self.retried, self.parts = True, 2 * self.parts
            self.optimiser.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            log.warning("out of memory: every batch is now worked on in %d parts", self.parts)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.ranks.average_statistics(self.network)
        return loss

    def gradients_of_step(
        self, attack: str, images: Tensor, labels: Tensor, noise: Tensor, whole: int, harden: bool
    ) -> Tensor:
        """Craft, then leave the step's gradient in the parameters; the loss stays on the device."""
        pieces = list(zip(*(batch.tensor_split(self.parts) for batch in (images, labels, noise)), strict=True))
        self.network.eval()  # batch statistics are frozen while crafting
        crafted = [self.crafted(attack, *piece) for piece in pieces]
        self.network.train()
        loss = self.gradients(crafted, whole)
        if harden:
            with perturbed(self.network, self.recipe.awp):
                loss = self.gradients(crafted, whole)
        return loss

    def crafted(self, attack: str, images: Tensor, labels: Tensor, noise: Tensor) -> Crafted:
        """One part of a batch with its adversarial images and, for a recipe that distils, soft labels."""
        soft = None
        with torch.no_grad(), self.fast():
            if self.recipe.distils and self.teacher is not None:
                soft = self.teacher(images).float().softmax(dim=1)
            aim = self.forward(images).float().softmax(dim=1) if self.recipe.loss == "trades" else soft
        adversarial = craft(
            attack,
            self.forward,
            images,
            labels,
            self.threat,
            noise,
            loss=inner_objective(self.recipe.loss, labels, aim),
            step_ratio=self.recipe.step_ratio,
            dtype=self.dtype,
        )
        return Crafted(images, adversarial, labels, soft)

    def fast(self) -> torch.autocast:
        """Passes inside run in the device's fastest number type."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def gradients(self, crafted: Sequence[Crafted], whole: int) -> Tensor:
        """The gradient of the mean loss over the batch of `whole` images, summed over the processes."""
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part in crafted:
            with self.fast():
                natural = self.forward(part.images) if self.recipe.natural else None
                adversarial = self.forward(part.adversarial)
            loss = training_loss(
                self.recipe.loss, adversarial, natural, part.labels, part.soft, beta=self.recipe.beta
            ) * (len(part.labels) / whole)
            loss.backward()
            total += loss.detach()
        self.ranks.sum_(weight.grad for weight in self.network.parameters() if weight.grad is not None)
        return total


def channels_last(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device, with the memory layout in which convolutions are fastest."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error)
