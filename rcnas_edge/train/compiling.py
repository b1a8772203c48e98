"""Whether a training runs through torch.compile: always on a GPU, on a CPU where that is faster and a compiler works.

On a CPU the gain is in the element-wise operations, about a tenth of a step of WRN-16-2 (tests/benchmarks/README.md).
Their loops want channels in whole vectors, so networks with others are left alone: two students of such widths gained
nothing, which no benchmark shows yet.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rcnas_edge.train.crafting import attack_of_epoch
from rcnas_edge.train.recipe import WARM_ATTACKS, Recipe

log = logging.getLogger(__name__)

WORTHWHILE = 5e14
"""FLOPs of a training on a CPU above which compiling pays: about ten minutes of one core, beside half a minute."""
VECTOR = 16
"""Channels in a vector: AVX-512 holds as many float32, into which bfloat16 is widened."""


def pays(network: nn.Module, example: Tensor, recipe: Recipe, examples: int) -> bool:
    """Whether to compile the training of a network on so many images like `example` (1, C, H, W), on its device."""
    if example.device.type == "cuda":
        return True
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    if any(convolution.out_channels % VECTOR for convolution in convolutions):
        return False
    return training_flops(network, example, recipe, examples) > WORTHWHILE and compiler_works()


def training_flops(network: nn.Module, example: Tensor, recipe: Recipe, examples: int) -> float:
    """FLOPs (1 MAC = 2) of a whole training, without the teacher and the checks of its epochs.

    A step of the attack is a forward and a backward pass to the image, 2 forward passes in work; a gradient of the
    weights is 3, on adversarial images and, for recipes that look at them, on natural ones.
    """
    before = network.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(example)
    network.train(before)
    gradients = 3 * (2 if recipe.natural else 1) * (2 if recipe.awp else 1)
    passes = 0.0
    for epoch in range(recipe.epochs):
        steps = WARM_ATTACKS.get(attack_of_epoch(recipe, epoch), recipe.attack_steps)
        passes += 2 * steps + gradients
    return counter.get_total_flops() * examples * passes


def compiled(network: nn.Module) -> nn.Module:
    """The network through torch.compile, which builds at the first call; without its word that there is no CUDA."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    return cast("nn.Module", torch.compile(network))


@cache
def compiler_works() -> bool:
    """Whether torch.compile can build for this CPU: it wants a C++ compiler, and Python's headers."""
    try:
        compiled(nn.ReLU())(torch.ones(8))
    except Exception as error:  # dynamo, inductor and the compiler each raise their own
        log.info("torch.compile does not work here, training goes on without it: %s", error)
        return False
    return True
