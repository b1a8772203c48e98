"""Whether the network that is attacked answers as the file does: only then do attacks by its gradients say anything."""

from __future__ import annotations

import numpy as np

from rcnas_edge.evaluate import Rate
from rcnas_edge.export import TOLERANCE, relative_drift
from rcnas_edge.reimport import Agreement, agreement
from rcnas_edge.verify.forms import softmax
from rcnas_edge.verify.witness import Witness


class Parity:
    """The file held against another witness, on clean images and then on every point that both were shown.

    Measured by `rcnas_edge.reimport.agreement`, for each attack's points by themselves. A verdict asks for all of them:
    in fp32 logits within 1e-4 of the largest; of a file that rounds every input in the same class, and logits within
    1e-3 of their range.
    """

    def __init__(self, file: Witness, other: Witness, *, quantised: bool) -> None:
        self.file, self.other, self.quantised = file, other, quantised
        self.drift: dict[str, float] = {}
        self.agreements: list[Agreement] = []
        self.clean = self._measured("clean", file.outputs, other.outputs)
        self.adversarial: np.ndarray | None = None
        apart = self.drift["clean_max"] > TOLERANCE
        self.permuted = apart and same_but_for_order(other.outputs, file.outputs)

    def shown(self, outputs: np.ndarray, other: np.ndarray) -> None:
        """Outputs (n, classes) of both for one point of each example."""
        same = self._measured("adversarial", outputs, other)
        self.adversarial = same if self.adversarial is None else self.adversarial & same

    @property
    def rate(self) -> Rate:
        """Inputs that both put into the same class: clean images, and images all of whose points they do."""
        both = [self.clean] if self.adversarial is None else [self.clean, self.adversarial]
        return Rate.of(np.concatenate(both))

    @property
    def fault(self) -> str:
        """Why the other is not the file's twin; empty if it is."""
        if not any(one.fault for one in self.agreements):
            return ""
        worst = max(self.agreements, key=lambda one: one.drift)
        of = "their range" if self.quantised else "the largest"
        hint = "; its classes stand in another order" if self.permuted else ""
        return (
            f"logits differ by up to {worst.drift:.2g} of {of} ({worst.tolerance:g} is allowed), and "
            f"{100 * self.rate.value:.1f} % of the inputs get the same class{hint}"
        )

    def _measured(self, kind: str, outputs: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Which inputs get the same class (n,); keeps how far apart they are."""
        outputs, other = self._alike(outputs, other)
        drift = relative_drift(other, outputs)
        for label, value in (("max", drift.max()), ("mean", drift.mean())):
            self.drift[f"{kind}_{label}"] = max(self.drift.get(f"{kind}_{label}", 0.0), float(value))
        self.agreements.append(agreement(outputs, other, quantised=self.quantised))
        return np.asarray(outputs.argmax(1) == other.argmax(1))

    def _alike(self, outputs: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both as probabilities where one of them gives those."""
        if self.file.form.probabilities and not self.other.form.probabilities:
            return outputs, softmax(other)
        if self.other.form.probabilities and not self.file.form.probabilities:
            return softmax(outputs), other
        return outputs, other


def same_but_for_order(expected: np.ndarray, logits: np.ndarray) -> bool:
    """Whether logits (N, classes) are the expected ones with the classes in another order."""
    apart = np.stack([np.abs(expected - logits[:, [column]]).mean(axis=0) for column in range(logits.shape[1])], axis=1)
    order = apart.argmin(axis=1)
    if len(set(order.tolist())) < len(order):
        return False
    return bool(relative_drift(expected, logits[:, order]).max() <= TOLERANCE)
