"""How robustness falls with epsilon: one attack on part of the images, beside the verdict and never in its place.

APGD-CE (Croce and Hein 2020) on the twin, every point shown to the artefact. Each epsilon is attacked on its own: a
point of a smaller ball is not counted in a larger one, so that a curve that rises, a sign of masked gradients (Carlini
et al., "On Evaluating Adversarial Robustness", 2019, section 3.2), stays visible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from rcnas_edge.attacks import Threat, attack
from rcnas_edge.evaluate import Rate
from rcnas_edge.export import Predict
from rcnas_edge.verdict import SweepPoint

SHARES = (0.25, 0.5, 0.75, 1.5, 2.0)
"""Of the threat's epsilon; at 0 and at 1 the verdict has better numbers than a sweep could give."""
ATTACK = "apgd-ce"
CLEAN, VERDICT = "no attack", "every attack of the verdict"


@dataclass(frozen=True)
class Sweep:
    """What was found of the images `places` (m,): per epsilon the flags `right` (m,) and the `points` (m, C, H, W)."""

    places: np.ndarray
    steps: int
    right: Mapping[float, np.ndarray]
    points: Mapping[float, np.ndarray]

    @property
    def attack(self) -> str:
        """What every epsilon was attacked with."""
        return f"{ATTACK}, {self.steps} steps"

    def curve(self, threat: Threat, clean: Rate, robust: Rate) -> tuple[SweepPoint, ...]:
        """From epsilon 0 on; at 0 the clean rate and at the threat's epsilon the robust rate of the verdict itself."""
        found = [SweepPoint(epsilon, self.attack, Rate.of(flags)) for epsilon, flags in self.right.items()]
        known = [SweepPoint(0.0, CLEAN, clean), SweepPoint(threat.epsilon, VERDICT, robust)]
        return tuple(sorted(known + found, key=lambda point: point.epsilon))

    def arrays(self) -> dict[str, np.ndarray]:
        """What `Examination.save` writes: `sweep/places`, and per epsilon `sweep/right/E` and `sweep/points/E`."""
        kinds = {"right": self.right, "points": self.points}
        found = {f"sweep/{kind}/{epsilon:.6g}": array for kind, of in kinds.items() for epsilon, array in of.items()}
        return {"sweep/places": self.places, **found}


def sweep(
    twin: nn.Module,
    predict: Predict,
    images: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
    threat: Threat,
    *,
    count: int,
    steps: int,
    seed: int,
    progress: Callable[[float], None],
) -> Sweep:
    """Attack `count` of the images at each share of the threat's epsilon that is below 1.

    images float32 (n, C, H, W) in [0, 1]; labels and clean (right without an attack), each (n,). The images are drawn
    by the seed, because a test split may be sorted by class.
    """
    places = np.arange(len(images))
    if count < len(images):
        places = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    device = next((value.device for value in (*twin.parameters(), *twin.buffers())), torch.device("cpu"))
    x, y = torch.from_numpy(images[places]).to(device), torch.from_numpy(labels[places]).to(device)
    right, points = {}, {}
    epsilons = [share * threat.epsilon for share in SHARES if share * threat.epsilon < 1]
    for number, epsilon in enumerate(epsilons):
        progress(number / len(epsilons))
        ball = Threat(threat.norm, epsilon, steps, 2.5 * epsilon / steps)
        found = attack(ATTACK, twin, x, y, ball, seed=seed, steps=steps)
        points[epsilon] = np.ascontiguousarray(found.adversarial.cpu().numpy(), dtype=np.float32)
        right[epsilon] = clean[places] & (predict(points[epsilon]).argmax(1) == labels[places])
    return Sweep(places, steps, right, points)
