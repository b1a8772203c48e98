"""Training recipes as named values, each with its source."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from rcnas_edge.errors import InputError

LOSSES = ("pgd-at", "rslad", "trades", "mart")
NATURAL_LOSSES = ("rslad", "trades", "mart")
"""Losses that look at the natural images too."""
WARM_ATTACKS = {"": 0, "n-fgsm": 1, "pgd-2": 2}
"""Cheap inner attacks of a warm phase, with their number of gradients."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained adversarially.

    `attack_steps` and `step_ratio` (step size over epsilon) are of the inner maximisation; for the first `warm_share`
    of the epochs `warm_attack` takes its place. `beta` weighs the robust term of TRADES and MART. `awp` is gamma of
    adversarial weight perturbation, relative to each layer's norm, switched on after `awp_after` of the epochs; 0 is
    off. `ema` is the decay of the weight average per step (warmed up as (1 + t) / (10 + t)); `clip` bounds the
    gradient's L2 norm. The learning rate follows one cosine to zero after `warmup` epochs of linear rise.
    `accumulate` is the number of parts whose gradients make one step of `batch_size` images: more parts, less memory.
    """

    name: str
    loss: str
    source: str
    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 1.0
    attack_steps: int = 10
    step_ratio: float = 1 / 4
    warm_attack: str = ""
    warm_share: float = 0.0
    beta: float = 6.0
    awp: float = 0.0
    awp_after: float = 0.1
    ema: float = 0.999
    clip: float = 5.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"a recipe's loss is one of {', '.join(LOSSES)}, {self.name} has {self.loss!r}")
        if self.warm_attack not in WARM_ATTACKS:
            names = ", ".join(filter(None, WARM_ATTACKS))
            raise InputError(f"a recipe's warm attack is one of {names}, {self.name} has {self.warm_attack!r}")
        if min(self.epochs, self.batch_size, self.attack_steps, self.accumulate) < 1:
            raise InputError(f"epochs, batch size, attack steps and parts of a recipe are at least 1, got {self}")
        if self.batch_size < 2 * self.accumulate:
            raise InputError(
                f"batch normalisation needs at least 2 images at a time, got a batch of {self.batch_size} in "
                f"{self.accumulate} part(s)"
            )
        if not 0 < self.learning_rate < math.inf or not self.step_ratio > 0 or not 0 <= self.ema < 1:
            raise InputError(f"a recipe has a learning rate and step > 0 and an EMA decay in [0, 1), got {self}")
        if not 0 <= self.warm_share <= 1 or not 0 <= self.awp_after <= 1 or min(self.beta, self.awp) < 0:
            raise InputError(f"shares of a recipe lie in [0, 1], beta and awp are not negative, got {self}")

    @property
    def distils(self) -> bool:
        """Whether the loss needs a teacher."""
        return self.loss == "rslad"

    @property
    def natural(self) -> bool:
        """Whether the loss looks at the natural images too."""
        return self.loss in NATURAL_LOSSES

    @property
    def warm_epochs(self) -> int:
        """Epochs with the warm attack."""
        return round(self.warm_share * self.epochs) if self.warm_attack else 0

    def words(self) -> str:
        """What it does, for people."""
        full = f"PGD-{self.attack_steps}"
        attack = full
        if self.warm_attack:
            rest = f", then {full}" if self.warm_share < 1 else ""
            attack = f"{self.warm_attack.upper()} for {self.warm_share:.0%} of the epochs{rest}"
        parts = [f"loss {self.loss}", attack, f"{self.epochs} epochs of batches of {self.batch_size}"]
        parts += [f"beta {self.beta:g}"] if self.loss in ("trades", "mart") else []
        parts += [f"weight perturbation {self.awp:g}"] if self.awp else []
        parts += ["needs a teacher"] if self.distils else []
        return ", ".join(parts)

    def with_(self, **changes: Any) -> Recipe:
        """The same recipe with some values changed; None leaves a value as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


MADRY = "Madry et al., ICLR 2018 (arXiv 1706.06083); weight average as in Gowal et al. 2020 (arXiv 2010.03593)"
ZI = (
    "Zi et al., ICCV 2021 (arXiv 2108.07969): 5/6 KL on adversarial, 1/6 KL on natural images, "
    "to the teacher's probabilities on natural images"
)
ZHANG = "Zhang et al., ICML 2019 (arXiv 1901.08573): cross-entropy on natural images + beta KL(natural || adversarial)"
WU = "with adversarial weight perturbation, Wu et al., NeurIPS 2020 (arXiv 2004.05884)"
DE_JORGE = "de Jorge et al., NeurIPS 2022 (arXiv 2202.01181)"

RECIPES = {
    entry.name: entry
    for entry in (
        Recipe("pgd-at", loss="pgd-at", source=MADRY),
        Recipe("rslad", loss="rslad", source=ZI),
        Recipe("rslad-awp", loss="rslad", awp=0.005, source=f"{ZI}; {WU}"),
        Recipe(
            "rslad-fast",
            loss="rslad",
            warm_attack="n-fgsm",
            warm_share=2 / 3,
            source=f"{ZI}; two thirds of the epochs with one step from noise, {DE_JORGE}; the combination is ours",
        ),
        Recipe("trades", loss="trades", beta=6.0, source=ZHANG),
        Recipe("trades-awp", loss="trades", beta=6.0, awp=0.005, source=f"{ZHANG}; {WU}"),
        Recipe(
            "mart",
            loss="mart",
            beta=5.0,
            source="Wang et al., ICLR 2020 (openreview rklOg6EFwS): boosted cross-entropy + beta KL(natural || "
            "adversarial), weighted by 1 - p(label); beta 5 as published for ResNet-18",
        ),
        Recipe(
            "n-fgsm",
            loss="pgd-at",
            warm_attack="n-fgsm",
            warm_share=1.0,
            source=f"{DE_JORGE}: one step of epsilon from uniform noise of 2 epsilon, not projected",
        ),
        Recipe(
            "fast",
            loss="pgd-at",
            warm_attack="n-fgsm",
            warm_share=2 / 3,
            source=f"two thirds of the epochs N-FGSM, {DE_JORGE}; the last third PGD-10, {MADRY}; the split is ours",
        ),
        Recipe(
            "pgd-2-warm",
            loss="pgd-at",
            warm_attack="pgd-2",
            warm_share=2 / 3,
            source=f"two thirds of the epochs PGD with 2 steps, the last third PGD-10: {MADRY}; the split is ours",
        ),
    )
}


SMALL = 5000
SMALL_CHANGES: dict[str, Any] = {"epochs": 24, "batch_size": 64}
"""What is different for data sets of fewer than SMALL training images, unless it is asked for."""


def recipe(name: str, *, examples: int | None = None, **changes: Any) -> Recipe:
    """The recipe of that name, for so many training images, with some values changed; InputError lists them."""
    if name not in RECIPES:
        raise InputError(f"a recipe is one of {', '.join(RECIPES)}, got {name!r}")
    small = SMALL_CHANGES if examples is not None and examples < SMALL else {}
    return RECIPES[name].with_(**small).with_(**changes)
