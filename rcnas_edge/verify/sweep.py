"""How robustness falls with epsilon, and with steps: one attack on part of the images, beside the verdict.

APGD-CE (Croce and Hein 2020) on the twin, every point shown to the artefact. Each epsilon, and each number of steps, is
attacked on its own: a point of a smaller ball is not counted in a larger one, so that a curve that rises, a sign of
masked gradients (Carlini et al., "On Evaluating Adversarial Robustness", 2019, sections 3.2 and 4.8), stays visible.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rcnas_edge.attacks import Threat
from rcnas_edge.evaluate import Rate
from rcnas_edge.verdict import StepPoint, SweepPoint

SHARES = (0.25, 0.5, 0.75, 1.5, 2.0)
"""Of the threat's epsilon; at 0 and at 1 the verdict has better numbers than a sweep could give."""
LADDER = (5, 10, 20, 50, 100)
"""Steps at the threat's epsilon; the last is the headline's."""
ATTACK = "apgd-ce"
CLEAN, VERDICT = "no attack", "every attack of the verdict"


@dataclass(frozen=True)
class Try:
    """One point of a curve: where it stands on its axis, and the ball, with its steps, that is searched there."""

    at: float
    ball: Threat

    @property
    def attack(self) -> str:
        """What is tried, in words."""
        return f"{ATTACK}, {self.ball.steps} steps"


Judge = Callable[[str, Try, np.ndarray], np.ndarray]
"""Attack the images of places (m,), keep the points under a key, and say which are still right (m,)."""


@dataclass(frozen=True)
class Sweep:
    """A curve of the images `places` (m,): of each try which are right (m,). `name` is that of its arrays."""

    name: str
    places: np.ndarray
    right: dict[Try, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        name: str,
        tries: Sequence[Try],
        places: np.ndarray,
        judge: Judge,
        progress: Callable[[float], None] = lambda share: None,
    ) -> Sweep:
        """Every try on the same images."""
        right = {}
        for number, one in enumerate(tries):
            progress(number / len(tries))
            right[one] = judge(f"{name}/points/{one.at:.6g}", one, places)
        return cls(name, places, right)

    @property
    def counts(self) -> dict[float, int]:
        """How many are right, by where a try stands."""
        return {one.at: int(flags.sum()) for one, flags in self.right.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """What is written beside the points: `NAME/places`, and per try `NAME/right/AT`."""
        found = {f"{self.name}/right/{one.at:.6g}": flags for one, flags in self.right.items()}
        return {f"{self.name}/places": self.places, **found}


def over_epsilon(threat: Threat, steps: int) -> list[Try]:
    """Each share of the threat's epsilon that is a ball of less than 1."""
    radii = [share * threat.epsilon for share in SHARES if share * threat.epsilon < 1]
    return [Try(radius, Threat(threat.norm, radius, steps, 2.5 * radius / steps)) for radius in radii]


def over_steps(threat: Threat) -> list[Try]:
    """The threat's own ball, searched in more and more steps."""
    radius = threat.epsilon
    return [Try(steps, Threat(threat.norm, radius, steps, 2.5 * radius / steps)) for steps in LADDER]


def drawn_places(total: int, count: int, seed: int) -> np.ndarray:
    """`count` of the images, drawn by the seed, because a test split may be sorted by class."""
    if count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def eps_curve(found: Sweep, threat: Threat, clean: Rate, robust: Rate) -> tuple[SweepPoint, ...]:
    """From epsilon 0 on; at 0 the clean rate and at the threat's epsilon the robust rate of the verdict itself."""
    known = [SweepPoint(0.0, CLEAN, clean), SweepPoint(threat.epsilon, VERDICT, robust)]
    points = [SweepPoint(one.at, one.attack, Rate.of(flags)) for one, flags in found.right.items()]
    return tuple(sorted(known + points, key=lambda point: point.epsilon))


def step_curve(found: Sweep) -> tuple[StepPoint, ...]:
    """By steps of the one attack, each from its start."""
    return tuple(StepPoint(one.ball.steps, ATTACK, Rate.of(flags)) for one, flags in found.right.items())
