"""The attacks on one artefact, in order: what each of them leaves of it, example by example.

Points are made on the twin (FGSM, PGD, then the headline: APGD-CE, APGD-T, Square), on the reference (the headline),
and on the artefact itself (Square, from the worst point so far). Every point is shown to the artefact; an example
counts as robust if it is right on the clean image and on all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rcnas_edge import masking
from rcnas_edge.attacks import AttackResult, Threat, attack, headline
from rcnas_edge.checkpoint import write_whole
from rcnas_edge.errors import InputError, UncheckedError
from rcnas_edge.evaluate import Rate
from rcnas_edge.export import TOLERANCE, Predict, relative_drift
from rcnas_edge.square import margins, square
from rcnas_edge.sweep import Sweep, sweep
from rcnas_edge.verdict import AttackRow, Comparison, Findings, Loss

ARTEFACT, CHECKPOINT, REFERENCE = "artefact", "checkpoint", "reference"
BATCH = 256
ROUNDING = 1e-6
"""Float32 rounding that a point may stand outside the ball or the box, in units of [0, 1] pixels."""

Flags = tuple[np.ndarray, np.ndarray]
"""Per example (N,): right on the clean image, and right under every attack."""

Progress = Callable[[str, float], None]
"""Told what is done now and the share of all the work that is done."""


@dataclass(frozen=True)
class Level:
    """How much a verdict costs: images, seeds of the headline, queries per image of Square on the twin and on the file.

    `margin` is the largest loss of robust accuracy against the checkpoint, a fraction, that still counts as none. The
    sweep over epsilon takes `sweep_images` of the images and attacks each with `sweep_steps`; with 0 there is none.
    """

    images: int
    seeds: int
    square_queries: int
    artefact_queries: int
    margin: float
    sweep_images: int = 0
    sweep_steps: int = 0


@dataclass(frozen=True)
class Subject:
    """What is verified: the artefact as a function, and the networks that are attacked in its place.

    `predict` takes images float32 (N, C, H, W) in [0, 1] to logits (N, classes). `differentiable` is its twin in torch,
    without which a verdict is never "robust". `reference` is the network to lose against, the teacher.
    """

    predict: Predict
    differentiable: nn.Module | None = None
    reference: nn.Module | None = None


class Examination:
    """One artefact on its examples. `run` attacks; `save` writes what `run` found of every example."""

    def __init__(
        self,
        subject: Subject,
        images: np.ndarray,
        labels: np.ndarray,
        threat: Threat,
        *,
        depth: Level,
        seed: int,
        tell: Progress,
    ) -> None:
        """images float32 (n, C, H, W) in [0, 1], labels int64 (n,)."""
        self.subject, self.threat, self.depth, self.seed, self.tell = subject, threat, depth, seed, tell
        self.images, self.labels, self.n = images, labels, len(images)
        self.rows: list[AttackRow] = []
        self.flags: list[str] = []
        self.drift: dict[str, float] = {}
        self.saved: dict[str, np.ndarray] = {}
        self.swept: Sweep | None = None
        self.blind = False
        tell("clean images", 0.0)
        logits = self._predict(images)
        self.classes = logits.shape[1]
        if labels.min() < 0 or labels.max() >= self.classes:
            raise InputError(
                f"labels are classes of the artefact, got {labels.min()} to {labels.max()} for {self.classes} logits: "
                "check that the artefact belongs to the data"
            )
        self.clean = logits.argmax(1) == labels
        self.robust = self.clean.copy()
        self.worst, self.margin = images.copy(), margins(logits, labels)
        self.permuted, self.same = False, np.zeros(0, dtype=bool)
        self.twin_clean = self.twin_robust = self.same_adversarial = self.same
        if subject.differentiable is not None:
            expected = self._twin_logits(images)
            self.twin_clean = expected.argmax(1) == labels
            self.twin_robust = self.twin_clean.copy()
            self.same = logits.argmax(1) == expected.argmax(1)
            self._measure_drift("clean", expected, logits)
            self.permuted = self.drift["clean_max"] > TOLERANCE and same_but_for_order(expected, logits)
        self._check_steady(images, "clean", logits)

    def run(self, reference: Flags | None) -> Findings:
        """Every attack; `reference` are flags of a reference that was attacked before."""
        twin = self.subject.differentiable
        if twin is not None:
            self._white_box(twin)
            self.same = np.concatenate([self.same, self.same_adversarial])
        before = self._left()
        compared = self._reference(reference)
        self._raise_if_beaten("transfer from the reference", before)
        before = self._left()
        self._square()
        self._raise_if_beaten("Square on the artefact", before, least=masking.CONTINUED)
        if twin is not None:
            self._large_epsilon(twin)
            self._sweep(twin)
        self._check_steady(self.worst, "adversarial", self._predict(self.worst))
        self.tell("verified", 1.0)
        return Findings(
            threat=str(self.threat),
            n=self.n,
            classes=self.classes,
            clean=Rate.of(self.clean),
            robust=self.rate,
            attacks=tuple(self.rows),
            parity=None if twin is None else Rate.of(self.same),
            drift=self.drift,
            parity_fault=self._parity_fault(),
            checkpoint=None if twin is None else self._comparison((self.twin_clean, self.twin_robust)),
            reference=None if compared is None else self._comparison(compared),
            flags=tuple(dict.fromkeys(self.flags)),
            eps_sweep=() if self.swept is None else self.swept.curve(self.threat, Rate.of(self.clean), self.rate),
        )

    def save(self, path: Path, indices: np.ndarray) -> None:
        """Write indices, labels, images, and per attack flags and the very points that were replayed (npz), whole.

        Keys: `clean`, `robust`, `checkpoint/clean`, `checkpoint/robust`, `right/SOURCE/ATTACK` (n,) and
        `points/SOURCE/ATTACK` float32 (n, C, H, W). `robust` is `clean` and every `right`. The sweep over epsilon has
        `sweep/places` (m,) in these arrays, `sweep/right/EPSILON` (m,) and `sweep/points/EPSILON` (m, C, H, W).
        """
        flags = {"clean": self.clean, "robust": self.robust}
        if self.subject.differentiable is not None:
            flags |= {"checkpoint/clean": self.twin_clean, "checkpoint/robust": self.twin_robust}
        known = {"indices": indices, "labels": self.labels, "images": self.images, **flags, **self.saved}

        def write(aside: Path) -> None:
            with open(aside, "wb") as file:
                np.savez_compressed(file, **known)  # type: ignore[arg-type]

        write_whole(path, write)

    # What the models say ---------------------------------------------------------------------------------------------

    def _predict(self, points: np.ndarray) -> np.ndarray:
        logits = np.concatenate([self.subject.predict(points[at : at + BATCH]) for at in range(0, len(points), BATCH)])
        if logits.ndim != 2 or len(logits) != len(points):
            raise InputError(f"an artefact gives logits (N, classes), got {logits.shape} for {len(points)} images")
        if not np.isfinite(logits).all():
            raise UncheckedError(
                "robustness is of finite logits, the artefact gives NaN or infinity: nothing is claimed about it"
            )
        return logits

    def _twin_logits(self, points: np.ndarray) -> np.ndarray:
        assert self.subject.differentiable is not None
        return logits_of(self.subject.differentiable, points)

    def _measure_drift(self, kind: str, expected: np.ndarray, logits: np.ndarray) -> None:
        drift = relative_drift(expected, logits)
        for label, value in (("max", drift.max()), ("mean", drift.mean())):
            self.drift[f"{kind}_{label}"] = max(self.drift.get(f"{kind}_{label}", 0.0), float(value))

    def _check_steady(self, points: np.ndarray, of: str, logits: np.ndarray) -> None:
        self.flags += masking.unsteady_flags(self.subject.predict, points, logits, self._predict(points), of=of)

    def _parity_fault(self) -> str:
        worst = max(self.drift.get("clean_max", 0.0), self.drift.get("adversarial_max", 0.0))
        if worst <= TOLERANCE:
            return ""
        hint = "; its classes stand in another order" if self.permuted else ""
        return (
            f"logits differ by up to {worst:.2g} of the largest ({TOLERANCE:g} is allowed), and "
            f"{100 * self.same.mean():.1f} % of the inputs get the same class{hint}"
        )

    def _comparison(self, other: Flags) -> Comparison:
        return Comparison(Rate.of(other[0]), Rate.of(other[1]), Loss.of(other[1], self.robust))

    # Attacks ---------------------------------------------------------------------------------------------------------

    def _replay(self, name: str, source: str, points: np.ndarray, spent: tuple[int, int, float]) -> None:
        """Show points (n, C, H, W) to the artefact, and to its twin, and keep what they do."""
        off = max(float(np.abs(points - self.images).max()) - self.threat.epsilon, -float(points.min()))
        if not max(off, float(points.max()) - 1) <= ROUNDING:
            raise UncheckedError(f"points of {name} must be in the ball of {self.threat} and in [0, 1], they are not")
        logits = self._predict(points)
        right, margin = logits.argmax(1) == self.labels, margins(logits, self.labels)
        self.robust &= right
        lower = margin < self.margin
        self.worst[lower], self.margin[lower] = points[lower], margin[lower]
        if self.subject.differentiable is not None:
            expected = self._twin_logits(points)
            self.twin_robust &= expected.argmax(1) == self.labels
            self._measure_drift("adversarial", expected, logits)
            self.same_adversarial = logits.argmax(1) == expected.argmax(1)
        self.rows.append(AttackRow(name, source, Rate.of(self.robust), spent[0], spent[1], round(spent[2], 3)))
        self.saved[f"right/{source}/{name}"] = right
        self.saved[f"points/{source}/{name}"] = points

    def _white_box(self, twin: nn.Module) -> None:
        """FGSM, PGD and the headline on the twin; where it has no gradient at all they would be blind."""
        images, labels = on(self.images, twin), on(self.labels, twin)
        zero = masking.zero_gradients(twin, images, labels)
        self._raise(masking.zero_gradient_flag(zero))
        self.blind = bool(zero.all())
        if self.blind:
            return
        left = {}
        for name in ("fgsm", "pgd"):
            self.tell(name, 0.02)
            found = attack(name, twin, images, labels, self.threat, seed=self.seed)
            left[name] = int(found.robust.sum())
            self._replay(name, CHECKPOINT, numpy_of(found.adversarial), spent_by(found))
        self._raise(masking.beaten_flag("FGSM", "PGD", left["pgd"] - left["fgsm"], self.n))
        for number in range(self.depth.seeds):
            self._headline(twin, images, labels, number)

    def _headline(self, twin: nn.Module, images: Tensor, labels: Tensor, number: int) -> None:
        """APGD-CE, APGD-T and Square on the twin; a second and third seed only where it is still right."""
        alive = np.arange(self.n) if number == 0 else np.flatnonzero(self.twin_robust)
        if not len(alive):
            return
        index = torch.from_numpy(alive).to(images.device)
        results = headline(
            twin,
            images[index],
            labels[index],
            self.threat,
            seed=self.seed + number,
            square_queries=self.depth.square_queries,
            progress=lambda text, share: self.tell(text, 0.05 + 0.65 * (number + share) / self.depth.seeds),
        )
        for name, found in results.items():
            points = self.images.copy()
            points[alive] = numpy_of(found.adversarial)
            title = name if number == 0 else f"{name} (seed {self.seed + number})"
            before = self._left()
            self._replay(title, CHECKPOINT, points, spent_by(found))
            if name == "square":
                self._raise_if_beaten("Square", before)

    def _reference(self, known: Flags | None) -> Flags | None:
        """The reference's flags; what fools it is shown to the artefact too."""
        reference = self.subject.reference
        if known is not None or reference is None:
            return known
        clean = logits_of(reference, self.images).argmax(1) == self.labels
        results = headline(
            reference,
            on(self.images, reference),
            on(self.labels, reference),
            self.threat,
            seed=self.seed,
            square_queries=self.depth.square_queries,
            progress=lambda text, share: self.tell(f"{text} on the reference", 0.7 + 0.1 * share),
        )
        for name, found in results.items():
            self._replay(name, REFERENCE, numpy_of(found.adversarial), spent_by(found))
        return clean, clean & results["square"].robust.cpu().numpy()

    def _square(self) -> None:
        """Square on the artefact, on what is still right, from the point with the least margin."""
        alive = np.flatnonzero(self.robust)
        if not len(alive):
            return
        began = time.perf_counter()
        found = square(
            self._predict,
            self.images[alive],
            self.labels[alive],
            self.threat.epsilon,
            queries=self.depth.artefact_queries,
            generator=np.random.default_rng(self.seed),
            start=self.worst[alive] if self.rows else None,
            batch_size=BATCH,
            progress=lambda share: self.tell("square on the artefact", 0.8 + 0.15 * share),
        )
        points = self.images.copy()
        points[alive] = found.points
        self._replay("square", ARTEFACT, points, (found.forwards, 0, time.perf_counter() - began))

    def _large_epsilon(self, twin: nn.Module) -> None:
        self.tell("masking flags", 0.96)
        left = torch.from_numpy(np.flatnonzero(self.twin_robust))
        images, labels = on(self.images, twin), on(self.labels, twin)
        index = left.to(images.device)
        self._raise(masking.large_epsilon_flag(twin, images[index], labels[index], total=self.n, seed=self.seed))

    def _sweep(self, twin: nn.Module) -> None:
        """Other epsilons, with less effort; a twin without gradients would only look robust at all of them."""
        if self.blind or not self.depth.sweep_images:
            return
        self.swept = sweep(
            twin,
            self._predict,
            self.images,
            self.labels,
            self.clean,
            self.threat,
            count=self.depth.sweep_images,
            steps=self.depth.sweep_steps,
            seed=self.seed,
            progress=lambda share: self.tell("sweep over epsilon", 0.97 + 0.03 * share),
        )
        self.saved |= self.swept.arrays()
        self._raise(
            masking.rising_flag(
                {epsilon: int(flags.sum()) for epsilon, flags in self.swept.right.items()}, len(self.swept.places)
            )
        )

    def _raise_if_beaten(self, weaker: str, before: int, *, least: float = masking.BEATEN) -> None:
        """What an attack without gradients takes beyond those with gradients is a flag."""
        if self.subject.differentiable is not None:
            self._raise(masking.beaten_flag(weaker, "white-box", before - self._left(), self.n, least=least))

    @property
    def rate(self) -> Rate:
        """Still right, so far."""
        return Rate.of(self.robust)

    def _left(self) -> int:
        return int(self.robust.sum())

    def _raise(self, flag: str | None) -> None:
        if flag is not None:
            self.flags.append(flag)


def logits_of(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits float32 (N, classes) of a network in eval mode, on its own device, for images (N, C, H, W)."""
    with masking.evaluating(model), torch.no_grad():
        logits = torch.cat([model(part).float().cpu() for part in on(images, model).split(BATCH)])
    if not torch.isfinite(logits).all():
        raise UncheckedError(
            "robustness is of finite logits, the attacked network gives NaN or infinity: nothing is claimed about it"
        )
    return logits.numpy()


def on(array: np.ndarray, model: nn.Module) -> Tensor:
    """A copy of the array on the model's device."""
    first = next((value for value in (*model.parameters(), *model.buffers())), torch.empty(0))
    return torch.from_numpy(array).to(first.device, copy=True)


def numpy_of(points: Tensor) -> np.ndarray:
    """Points (N, C, H, W) as contiguous float32."""
    return np.ascontiguousarray(points.detach().cpu().numpy(), dtype=np.float32)


def spent_by(found: AttackResult) -> tuple[int, int, float]:
    """Forwards, backwards and seconds."""
    return found.forwards, found.backwards, found.seconds


def same_but_for_order(expected: np.ndarray, logits: np.ndarray) -> bool:
    """Whether logits (N, classes) are the expected ones with the classes in another order."""
    apart = np.abs(expected[:, :, None] - logits[:, None, :]).mean(axis=0)
    order = apart.argmin(axis=1)
    if len(set(order.tolist())) < len(order):
        return False
    return bool(relative_drift(expected, logits[:, order]).max() <= TOLERANCE)
