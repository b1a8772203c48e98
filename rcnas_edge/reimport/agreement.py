"""Whether a file and its re-import give the same answers: without that, an attack on one says nothing of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnas_edge.evaluate import Rate
from rcnas_edge.export import TOLERANCE, relative_drift

QUANTISED_TOLERANCE = 1e-3
"""Largest difference of the logits of a file that rounds, in units of their range."""


@dataclass(frozen=True)
class Agreement:
    """How far logits of a file and of its re-import are apart, on the same images.

    `drift` is the largest difference, in units of the largest |logit|, or for a file that rounds (`quantised`) of the
    logits' range; `argmax` is how many images get the same class.
    """

    argmax: Rate
    drift: float
    tolerance: float
    quantised: bool

    @property
    def fault(self) -> str:
        """Why they do not agree, in a sentence; "" if they do. A file that rounds must also give every class alike."""
        apart = not self.drift <= self.tolerance  # a drift that is not a number is a fault too
        if not (apart or (self.quantised and self.argmax.hits < self.argmax.total)):
            return ""
        of = "range" if self.quantised else "size"
        return (
            f"the re-imported network is not the file: logits differ by up to {self.drift:.2g} of their {of} "
            f"({self.tolerance:g} is allowed), and {100 * self.argmax.value:.4g} % of {self.argmax.total} inputs get "
            "the same class"
        )


def agreement(file_logits: np.ndarray, twin_logits: np.ndarray, *, quantised: bool) -> Agreement:
    """Compare logits (N, classes) that a file and its re-import give for the same images.

    fp32: relative drift <= 1e-4; a file that rounds: every class alike, and differences <= 1e-3 of the logits' range.
    """
    same = file_logits.argmax(1) == twin_logits.argmax(1)
    drift = float(relative_drift(file_logits, twin_logits).max(initial=0.0))
    if quantised:
        reach = float(file_logits.max(initial=0.0) - file_logits.min(initial=0.0))
        largest = max(float(np.abs(file_logits).max(initial=0.0)), 1e-12)
        drift *= largest / max(reach, 1e-12)
    return Agreement(Rate.of(same), drift, QUANTISED_TOLERANCE if quantised else TOLERANCE, quantised)
