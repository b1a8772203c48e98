"""Whether a file and its re-import give the same answers: without that, an attack on one says nothing of the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnas_edge.evaluate import Rate
from rcnas_edge.export import TOLERANCE, relative_drift

QUANTISED_TOLERANCE = 1e-3
"""Largest difference of the logits of a file that rounds, in units of their range.

A sum that lies on the border between two whole numbers is rounded by its last bit. Where ONNX Runtime adds up integers
a re-import finds the same bit: of a WRN-16-2 for CIFAR-10 in u8s8 (x86-64 with VNNI, the first 1,000 test images) it
gives 99.9 % the very same logits and all the same class, the others 3.5e-4 apart. In s8s8 the runtime adds up real
numbers there, in an order of its own: 16 % are more than 1e-3 apart, at most 5.0e-3, and 4 images get another class, so
that such a file does not agree.
"""


@dataclass(frozen=True)
class Agreement:
    """How far logits of a file and of its re-import are apart, on the same images.

    `argmax` is how many images get the same class, `within` how many images' logits agree within `tolerance`, `drift`
    the largest difference. Differences are in units of the largest |logit|, or for a file that rounds (`quantised`) of
    the logits' range.
    """

    argmax: Rate
    within: Rate
    drift: float
    tolerance: float
    quantised: bool

    @property
    def fault(self) -> str:
        """Why they do not agree, in a sentence; "" if they do.

        All logits are within the tolerance, and of a file that rounds every image gets the same class.
        """
        every = self.argmax.hits == self.argmax.total
        if self.drift <= self.tolerance and (every or not self.quantised):
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
    if quantised:
        drift = drift * float(np.abs(file_logits).max()) / max(float(file_logits.max() - file_logits.min()), 1e-12)
    same = file_logits.argmax(1) == twin_logits.argmax(1)
    return Agreement(Rate.of(same), Rate.of(drift <= tolerance), float(drift.max()), tolerance, quantised)
