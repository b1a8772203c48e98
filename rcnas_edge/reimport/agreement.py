"""Whether a file and its re-import give the same answers: without that, an attack on one says nothing of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnas_edge.evaluate import Rate
from rcnas_edge.export import TOLERANCE, relative_drift

QUANTISED_TOLERANCE = 1e-3
"""Largest difference of the logits of a file that rounds, in units of their range."""

WITHIN, FURTHEST = 0.95, 1e-2
"""Of a file that rounds: the least share of images within the tolerance, and how far apart the others may be.

A sum that lies on the border between two whole numbers is rounded by its last bit, which depends on the order of the
summands. ONNX Runtime itself is further apart from its own unoptimised session than a re-import is from it: a WRN-16-2
for CIFAR-10 in s8s8, 200 test images, was more than 1e-3 apart on 15.5 % (at most 3.1e-3) with the optimisations off,
and its re-import on 1.5 % (1.8e-3). In u8s8 the re-import gave 99.5 % of the images the very same logits (5.7e-4).
"""


@dataclass(frozen=True)
class Agreement:
    """How far logits of a file and of its re-import are apart, on the same images.

    `argmax` is how many images get the same class, `alike` counts those as well whose two classes the file itself puts
    no more than twice the tolerance apart; `within` is how many images' logits agree within `tolerance`, `drift` the
    largest difference. Differences are in units of the largest |logit|, or for a file that rounds (`quantised`) of the
    logits' range.
    """

    argmax: Rate
    alike: Rate
    within: Rate
    drift: float
    tolerance: float
    quantised: bool

    @property
    def fault(self) -> str:
        """Why they do not agree, in a sentence; "" if they do.

        All logits are within the tolerance; of a file that rounds every class is alike, and a few images whose sums lie
        between two whole numbers may be as far apart as FURTHEST.
        """
        fine = self.drift <= self.tolerance
        if self.quantised:
            every = self.alike.hits == self.alike.total
            fine = every and self.drift <= FURTHEST and self.within.value >= WITHIN
        if fine:
            return ""
        return (
            f"the re-imported network is not the file: logits differ by up to {self.drift:.2g} of their "
            f"{'range' if self.quantised else 'size'} ({self.tolerance:g} is allowed), and "
            f"{100 * self.argmax.value:.4g} % of {self.argmax.total} inputs get the same class"
        )


def agreement(file_logits: np.ndarray, twin_logits: np.ndarray, *, quantised: bool) -> Agreement:
    """Compare logits (N, classes) that a file and its re-import give for the same images; `quantised`: the file rounds.

    The tolerance is 1e-4 of the largest |logit|, or 1e-3 of the range of a file that rounds. InputError for logits of
    other shapes.
    """
    drift, tolerance = relative_drift(file_logits, twin_logits), QUANTISED_TOLERANCE if quantised else TOLERANCE
    unit = float(np.abs(file_logits).max())
    if quantised:
        reach = max(float(file_logits.max() - file_logits.min()), 1e-12)
        drift, unit = drift * unit / reach, reach
    same = file_logits.argmax(1) == twin_logits.argmax(1)
    second = np.take_along_axis(file_logits, twin_logits.argmax(1)[:, None], axis=1)[:, 0]
    alike = same | (file_logits.max(axis=1) - second <= 2 * tolerance * unit)
    within = Rate.of(drift <= tolerance)
    return Agreement(Rate.of(same), Rate.of(alike), within, float(drift.max()), tolerance, quantised)
