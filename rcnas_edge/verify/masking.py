"""Signs of masked gradients: is the network robust, or were the attacks misled?

After Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security" (ICML 2018, arXiv 1802.00420),
section 3.1, and the flags of AutoAttack (Croce and Hein 2020, the released code). Every flag has a threshold that n
can carry: fewer than three images are no flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from rcnas_edge.attacks import Threat, attack
from rcnas_edge.attacks.threat import frozen, full_precision
from rcnas_edge.evaluate import Rate, mcnemar
from rcnas_edge.export import TOLERANCE, relative_drift

LEAST_IMAGES = 3
BEATEN = 0.002
"""0.2 points: by how much a weaker attack may do better than a stronger one; AutoAttack's threshold."""

CONTINUED = 0.03
"""3 points: the same for Square that starts where the attacks by gradients stopped. It finishes what they left just
short of the border even on honest networks (0.4 and 1.2 points of an adversarially trained WRN beyond its training's
epsilon, which more restarts of APGD found too, and Square from scratch did not), so only much more is a sign."""

SURVIVORS = 0.01
"""Share of the images that may have no gradient, or survive a ball that reaches the grey image."""

USELESS = 0.5
"""Share of what the parent's clean accuracy has above guessing that a file may lose and still be of use."""

LARGE_EPSILON = 0.5
"""From every image in [0, 1] this ball reaches the grey one, so no classifier is robust in it but for one class."""

CHANCE = 0.05
"""The p-value from which on a difference between two attacks may be chance."""

BATCHES = (1, 5, 16)
PROBED = 64
"""Images on which batch sizes are compared."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode; afterwards every module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, training in modes:
            module.training = training


def zero_gradients(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 256) -> np.ndarray:
    """Which images (N,) get no gradient of the margin at all: every component is zero, or not a number, or missing.

    The margin, not the cross-entropy: a saturated softmax has gradients of zero that say nothing of the network.
    """
    found = []
    with evaluating(model), frozen(model), full_precision(), torch.enable_grad():
        for part, targets in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            points = part.detach().clone().requires_grad_(True)
            logits = model(points)
            own = logits.gather(1, targets[:, None]).squeeze(1)
            others = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
            value = (own - others).sum()
            gradient = torch.autograd.grad(value, points, allow_unused=True)[0] if value.requires_grad else None
            if gradient is None:
                found.append(torch.ones(len(part), dtype=torch.bool))
            else:
                size = gradient.flatten(1).abs().amax(1)
                found.append(((size == 0) | ~torch.isfinite(size)).cpu())
    return torch.cat(found).numpy()


def zero_gradient_flag(zero: np.ndarray) -> str | None:
    """Of flags (N,): too many images have no gradient to follow."""
    count = int(zero.sum())
    if count < LEAST_IMAGES or count <= SURVIVORS * len(zero):
        return None
    return f"zero gradients: {count} of {len(zero)} images have no gradient at all, so attacks by gradients are blind"


def beaten_flag(weaker: str, stronger: str, more: int, n: int, *, least: float = BEATEN) -> str | None:
    """The attack that should be the weaker one took `more` images of n than the stronger one, or beyond it."""
    if more < LEAST_IMAGES or more <= least * n:
        return None
    return f"{weaker} beats {stronger} by {more} of {n} images ({100 * more / n:.1f} points)"


def rising_flag(right: Mapping[float, int], n: int, *, of: str = "epsilon") -> str | None:
    """One attack left more of the same n images right with more to go by: a ball that holds the smaller one, or steps.

    `right` counts images by epsilon or by steps. Every try starts anew, so a few images go either way by chance.
    """
    found = sorted(right.items())
    pairs = [(low, high) for index, low in enumerate(found) for high in found[index + 1 :]]
    worst = max(pairs, key=lambda pair: pair[1][1] - pair[0][1], default=None)
    if worst is None or worst[1][1] - worst[0][1] < LEAST_IMAGES or worst[1][1] - worst[0][1] <= CONTINUED * n:
        return None
    (smaller, before), (larger, after) = worst
    where, there = ("at epsilon", "at the larger") if of == "epsilon" else ("after steps of", "after")
    return (
        f"not monotone in {of}: of {n} images {before} are right {where} {smaller:.4g} and {after} {there} "
        f"{larger:.4g}, so the attack does not find what is there"
    )


def falling_flag(right: Mapping[float, int], n: int) -> str | None:
    """Of the same n images, still right by steps: the last steps took so many that more steps would take more."""
    found = sorted(right.items())[-2:]
    if len(found) < 2 or found[0][1] - found[1][1] < LEAST_IMAGES or found[0][1] - found[1][1] <= CONTINUED * n:
        return None
    (fewer, before), (most, after) = found
    return (
        f"still falling with steps: of {n} images {before} are right after {fewer:g} steps and {after} after {most:g}, "
        "so more steps would find more"
    )


def transfer_flag(white_box: np.ndarray, transfer: np.ndarray, *, quantised: bool = False) -> str | None:
    """Points made on the parent do better than those made on the twin, each by themselves, from flags (n,) right.

    The two are nearly the same function, so each finds a few that the other does not; only a difference that chance
    does not explain (exact McNemar, 5 %) is a sign. The parent of a `quantised` file is the smooth stand-in through
    which Athalye et al. attack such a staircase (BPDA, section 4.1), and may do a little better than the twin: by 4 of
    200 images on the int8 form (u8s8) of a WRN student for digits, whose twin gave the very same logits (linf:0.15:10,
    level smoke, seed 0, ONNX Runtime on an x86-64 CPU). There only a difference above CONTINUED is a sign.
    """
    more, least = int(white_box.sum()) - int(transfer.sum()), CONTINUED if quantised else BEATEN
    flag = beaten_flag("transfer from the checkpoint", "white-box", more, len(white_box), least=least)
    return flag if mcnemar(white_box, transfer) < CHANCE else None


def naive_flag(naive: np.ndarray, straight: np.ndarray) -> str | None:
    """PGD without straight-through gradients leaves more right (flags (n,)): something in the graph stops gradients."""
    more = int(naive.sum()) - int(straight.sum())
    if beaten_flag("", "", more, len(naive)) is None or mcnemar(naive, straight) >= CHANCE:
        return None
    return (
        f"naive gradients: PGD that follows the graph's own gradients leaves {int(naive.sum())} of {len(naive)} images "
        f"right and PGD straight through rounding {int(straight.sum())}, in a graph without Q/DQ nodes"
    )


def useless_flag(clean: Rate, parent: Rate | None, classes: int) -> str | None:
    """The file does not tell its classes apart any more: it guesses, or lost half of what its parent knows."""
    if clean.low <= 1 / classes:
        return f"useless: clean accuracy {clean} is not above guessing among {classes} classes"
    if parent is not None and clean.high - 1 / classes < USELESS * (parent.value - 1 / classes):
        return (
            f"useless: clean accuracy {clean} is less than half of what the checkpoint has above guessing "
            f"({100 * parent.value:.1f} %), so the export or the quantisation broke the file"
        )
    return None


def swapped_flag(answers: np.ndarray, labels: np.ndarray, classes: int) -> str | None:
    """Classes that stand in each other's place: of answers (n,) to images of labels (n,), most of one are another's."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, answers), 1)
    called = {int(own): int(counts[own].argmax()) for own in np.flatnonzero(counts.sum(axis=1) >= LEAST_IMAGES)}
    moved = {own: said for own, said in called.items() if said != own and 2 * counts[own, said] > counts[own].sum()}
    if not moved or set(moved) != set(moved.values()):
        return None
    words = ", ".join(
        f"{own} as {said} ({counts[own, said]} of {counts[own].sum()})" for own, said in list(moved.items())[:3]
    )
    more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
    return (
        f"swapped classes: the file answers most images of class {words}{more}: labels and file order them differently"
    )


def large_epsilon_flag(model: nn.Module, images: Tensor, labels: Tensor, *, total: int, seed: int) -> str | None:
    """Accuracy must fall to 0 in a ball of 0.5, by PGD-20 on the cross-entropy, then on the margin.

    images (n, C, H, W) are those that survived everything else, of `total`: the others have fallen in a smaller ball
    already.
    """
    threat = Threat("linf", LARGE_EPSILON, 20, 2.5 * LARGE_EPSILON / 20)
    for name in ("pgd", "cw"):
        if not len(images):
            break
        result = attack(name, model, images, labels, threat, seed=seed, **({"steps": 20} if name == "cw" else {}))
        images, labels = images[result.robust], labels[result.robust]
    if len(images) < LEAST_IMAGES or len(images) <= SURVIVORS * total:
        return None
    return (
        f"large epsilon: {len(images)} of {total} images are still right in a ball of {LARGE_EPSILON}, where all "
        "images meet, so the attacks do not see what they should"
    )


def unsteady_flags(
    predict: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    logits: np.ndarray,
    again: np.ndarray,
    *,
    of: str,
    allowed: float = TOLERANCE,
) -> list[str]:
    """The output must depend on the image alone: not on the run, not on the batch it comes in.

    `logits` (N, classes) and `again` are two answers for images (N, C, H, W), which are `of` a kind ("clean");
    `allowed` is the largest difference, relative to the largest logit. Only the first PROBED images are looked at in
    batches.
    """
    flags = []
    drift = relative_drift(logits, again)
    if not drift.max() <= allowed:
        flags.append(
            f"output differs between runs: up to {drift.max():.2g} of the largest logit on {of} images "
            f"({int((logits.argmax(1) != again.argmax(1)).sum())} of {len(logits)} change class)"
        )
    probed = images[:PROBED]
    for batch in BATCHES:
        alone = np.concatenate([predict(probed[at : at + batch]) for at in range(0, len(probed), batch)])
        drift = relative_drift(logits[:PROBED], alone)
        if not drift.max() <= allowed:
            flags.append(
                f"output differs between batch sizes: a batch of {batch} gives logits that are up to {drift.max():.2g} "
                f"of the largest off on {of} images ({int((logits[:PROBED].argmax(1) != alone.argmax(1)).sum())} of "
                f"{len(probed)} change class)"
            )
            break
    return flags
