"""Adversarial quantisation-aware fine-tuning: a few epochs of `fit` on a network that rounds as its int8 file will.

Jacob et al., CVPR 2018 (arXiv 1712.05877), with the adversarial recipe that the network was trained by. Weights are
rounded per output channel to symmetric int8, what a layer reads to uint8 in a fixed range that clean and adversarial
calibration images reach; gradients pass rounding straight through and stop where a value is clipped. What a layer
makes is not rounded here: the file rounds sums of a residual stream once more, and never the logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rcnas_edge.attacks import Threat
from rcnas_edge.calibrating import Calibration
from rcnas_edge.data import Dataset
from rcnas_edge.errors import InputError
from rcnas_edge.train.batches import as_float
from rcnas_edge.train.fit import Epoch, Fitted, fit
from rcnas_edge.train.judging import SELECTION_IMAGES, SELECTION_STEPS, clean_and_robust
from rcnas_edge.train.recipe import Recipe

LEARNING_RATE = 1 / 20
"""Of the recipe's own learning rate: the network is trained already, and moves by less than a step of int8."""

WEIGHT_STEPS = 127
INPUT_STEPS = 255


@dataclass(frozen=True)
class Reach:
    """The range of what a layer reads, with 0 in it, as 255 steps of `step`; `zero` is the number of 0's step."""

    step: float
    zero: int

    @classmethod
    def of(cls, low: float, high: float) -> Reach:
        """The reach from the least to the largest value; as ONNX Runtime's quantiser has it."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / INPUT_STEPS or 1.0
        return cls(step, round(-low / step))


class QuantisedConv2d(nn.Conv2d):
    """A convolution of integers: `reach` is that of its input."""

    reach: Reach

    def forward(self, images: Tensor) -> Tensor:
        weights, steps = weight_codes(self.weight)
        products = self._conv_forward(input_codes(images, self.reach), weights, None)
        shape = (1, -1, 1, 1)
        bias = 0.0 if self.bias is None else self.bias.view(shape)
        return (products * (self.reach.step * steps).view(shape) + bias).to(products.dtype)


class QuantisedLinear(nn.Linear):
    """A matrix product of integers: `reach` is that of its input."""

    reach: Reach

    def forward(self, values: Tensor) -> Tensor:
        weights, steps = weight_codes(self.weight)
        products = functional.linear(input_codes(values, self.reach), weights)
        bias = 0.0 if self.bias is None else self.bias
        return (products * (self.reach.step * steps.flatten()) + bias).to(products.dtype)


TWINS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: QuantisedConv2d, nn.Linear: QuantisedLinear}


def weight_codes(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (outputs, ...) as whole numbers from -127 to 127, and the step of each output (outputs, 1, ...).

    Whole numbers and not multiples of the step, because those are exact in bfloat16, in which networks are trained.
    """
    largest = weights.detach().abs().amax(dim=tuple(range(1, weights.dim())), keepdim=True)
    steps = largest.clamp(min=torch.finfo(torch.float32).tiny) / WEIGHT_STEPS
    return torch.fake_quantize_per_tensor_affine(weights / steps, 1.0, 0, -WEIGHT_STEPS, WEIGHT_STEPS), steps


def input_codes(values: Tensor, reach: Reach) -> Tensor:
    """What a layer reads, as whole numbers from -zero to 255 - zero; values out of reach are clipped."""
    return torch.fake_quantize_per_tensor_affine(values.float() / reach.step, 1.0, reach.zero, 0, INPUT_STEPS)


@contextlib.contextmanager
def fake_quantised(model: nn.Module, batches: Iterable[np.ndarray]) -> Iterator[nn.Module]:
    """Inside, every convolution and linear layer of the model rounds as in int8; afterwards it is a plain one again.

    `batches` of images float32 (N, C, H, W) in [0, 1] set the ranges. Names and shapes of the state are those of the
    plain network at any time. Layers of other classes, subclasses too, are left in float; InputError if that is all.
    """
    layers = [module for module in model.modules() if type(module) in TWINS]
    if not layers:
        raise InputError("a network that is trained for int8 has layers nn.Conv2d or nn.Linear, this one has none")
    reaches = _reaches(model, layers, batches)
    plain = {layer: type(layer) for layer in reaches}
    for layer, reach in reaches.items():
        layer.__class__ = TWINS[plain[layer]]
        layer.reach = reach  # type: ignore[assignment]
    try:
        yield model
    finally:
        for layer, kind in plain.items():
            layer.__class__ = kind
            del layer.reach


def _reaches(model: nn.Module, layers: list[nn.Module], batches: Iterable[np.ndarray]) -> dict[nn.Module, Reach]:
    """The reach of what each layer reads over all batches, in eval mode; layers that are never asked have none."""
    found: dict[nn.Module, tuple[float, float]] = {}

    def see(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = (float(value) for value in inputs[0].aminmax())
        before = found.get(layer, (low, high))
        found[layer] = (min(low, before[0]), max(high, before[1]))

    weights = cast("Tensor", layers[0].weight)
    modes = [(module, module.training) for module in model.modules()]
    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                model(torch.from_numpy(batch).to(weights.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    if not found:
        raise InputError("a network is trained for int8 in the ranges that calibration images reach, got no images")
    return {layer: Reach.of(*found[layer]) for layer in layers if layer in found}


@dataclass(frozen=True)
class FineTuned:
    """What a fine-tuning came to: held-out accuracies of the rounding network, before and after, and the training.

    `kept` is false where no epoch was better than none (by accuracy under PGD-10, then clean): the network then has
    the weights that it came with.
    """

    fitted: Fitted
    clean_before: float
    robust_before: float
    kept: bool


def fine_tune_quantised(
    model: nn.Module,
    data: Dataset,
    threat: Threat,
    recipe: Recipe,
    *,
    epochs: int,
    calibration: Calibration,
    learning_rate: float | None = None,
    teacher: nn.Module | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    state: Path | None = None,
    progress: Callable[[Epoch, int], None] | None = None,
) -> FineTuned:
    """Train the network in place for a few more epochs while it rounds as in int8; it ends as a plain one.

    The recipe is the one that it was trained by, with its full attack from the start, `epochs` and a smaller learning
    rate (`LEARNING_RATE` of the recipe's own, if none is given); `state`, `progress` and what is raised are those of
    `fit`. Calibrate the file anew afterwards: the ranges of the training are those of the weights before it.
    """
    rate = recipe.learning_rate * LEARNING_RATE if learning_rate is None else learning_rate
    gentle = recipe.with_(epochs=epochs, learning_rate=rate, warmup=0.0, warm_attack="", warm_share=0.0)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.to(device)
    with fake_quantised(model, calibration.batches()):
        clean, robust = _held_out(model, data, threat, torch.device(device), seed)
        fitted = fit(
            model, data, threat, gentle, teacher=teacher, seed=seed, device=device, state=state, progress=progress
        )
    kept = (fitted.best.robust, fitted.best.clean) >= (robust, clean)
    if not kept:
        model.load_state_dict(before)
    model.eval()
    return FineTuned(fitted, clean, robust, kept)


def _held_out(model: nn.Module, data: Dataset, threat: Threat, device: torch.device, seed: int) -> tuple[float, float]:
    """Clean accuracy and accuracy under PGD-10, on the images and by the attack that `fit` judges its epochs by."""
    images = as_float(torch.from_numpy(data.held_out.images[:SELECTION_IMAGES]).to(device))
    labels = torch.from_numpy(data.held_out.labels[:SELECTION_IMAGES]).to(device)
    judged = replace(threat, steps=SELECTION_STEPS, step=threat.epsilon / 4)
    return clean_and_robust(model, images, labels, judged, seed=seed)
