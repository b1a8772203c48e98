"""Training recipes as named values, each with its source."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from rcnas_edge.errors import InputError

LOSSES = ("pgd-at", "rslad")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained adversarially.

    `attack_steps` and `step_ratio` (step size over epsilon) are of the inner maximisation; `ema` is the decay of
    the weight average per step (warmed up as (1 + t) / (10 + t)); `clip` bounds the gradient's L2 norm.
    The learning rate follows one cosine to zero after `warmup` epochs of linear rise.
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
    ema: float = 0.999
    clip: float = 5.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InputError(f"a recipe's loss is one of {', '.join(LOSSES)}, {self.name} has {self.loss!r}")
        if min(self.epochs, self.batch_size, self.attack_steps) < 1:
            raise InputError(f"epochs, batch size and attack steps of a recipe are at least 1, got {self}")
        if self.batch_size < 2:
            raise InputError(f"batch normalisation needs batches of at least 2 images, got {self.batch_size}")
        if self.learning_rate <= 0 or self.step_ratio <= 0 or not 0 <= self.ema < 1:
            raise InputError(f"a recipe has a learning rate and step > 0 and an EMA decay in [0, 1), got {self}")

    @property
    def distils(self) -> bool:
        """Whether the loss needs a teacher."""
        return self.loss == "rslad"

    def with_(self, **changes: Any) -> Recipe:
        """The same recipe with some values changed; None leaves a value as it is."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


RECIPES = {
    "pgd-at": Recipe(
        "pgd-at",
        loss="pgd-at",
        source="Madry et al., ICLR 2018 (arXiv 1706.06083); weight average as in Gowal et al. 2020 (arXiv 2010.03593)",
    ),
    "rslad": Recipe(
        "rslad",
        loss="rslad",
        source="Zi et al., ICCV 2021 (arXiv 2108.07969): 5/6 KL on adversarial, 1/6 KL on natural images, "
        "to the teacher's probabilities on natural images",
    ),
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
