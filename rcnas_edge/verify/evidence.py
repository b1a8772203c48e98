"""What every point did: it is shown to the file, to its twin and to its parent, and what they answered is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import nn

from rcnas_edge.attacks.square import margins
from rcnas_edge.attacks.threat import Threat
from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import Rate
from rcnas_edge.export import TOLERANCE, weights_digest
from rcnas_edge.reimport.agreement import QUANTISED_TOLERANCE
from rcnas_edge.verdict import AttackRow, Comparison, Loss
from rcnas_edge.verify import masking
from rcnas_edge.verify.keeping import Fill, Keeping, array_sha256
from rcnas_edge.verify.making import check_inside
from rcnas_edge.verify.parity import Parity
from rcnas_edge.verify.subject import Flags, Subject
from rcnas_edge.verify.witness import Witness, asked


class Evidence:
    """One artefact, its twin and its parent on n examples: rows, flags and points of every attack, as they come in."""

    def __init__(self, subject: Subject, images: np.ndarray, labels: np.ndarray, threat: Threat, kept: Keeping) -> None:
        """images float32 (n, C, H, W) in [0, 1], labels int64 (n,)."""
        self.subject, self.images, self.labels, self.threat, self.kept = subject, images, labels, threat, kept
        self.n = len(images)
        self.rows: list[AttackRow] = []
        self.right: dict[str, np.ndarray] = {}
        self.file = Witness(asked(subject.predict), images, labels)
        self.classes = self.file.outputs.shape[1]
        if labels.min() < 0 or labels.max() >= self.classes:
            raise InputError(
                f"labels are classes of the artefact, got {labels.min()} to {labels.max()} for {self.classes} logits: "
                "check that the artefact belongs to the data"
            )
        self.margin = margins(self.file.form.logits(self.file.outputs), labels)
        self.nearest = np.full(self.n, -1)  # which of the kept keys has the point of least margin; -1 the clean image
        self.twin, self.parity = self._beside(subject.differentiable, quantised=subject.quantised)
        self.parent, self.likeness = self._beside(subject.own_parent, quantised=False)
        self.evaded = np.zeros(self.n, dtype=bool)

    def _beside(self, network: nn.Module | None, *, quantised: bool) -> tuple[Witness | None, Parity | None]:
        if network is None:
            return None, None
        witness = Witness.of_network(network, self.images, self.labels)
        return witness, Parity(self.file, witness, quantised=quantised)

    def show(self, name: str, source: str, fill: Fill, maker: Witness | None = None) -> np.ndarray:
        """Make points (n, C, H, W), or read them back, and show them to everybody.

        Returns which of the maker's answers (n,), by default the artefact's, are right.
        """
        points, spent = self.kept.made(f"points/{source}/{name}", self.images.shape, fill)
        check_inside(name, points, self.images, self.threat)
        outputs, right = self.file.shown(points)
        found: dict[Witness | None, np.ndarray] = {self.file: right}
        margin = margins(self.file.form.logits(outputs), self.labels)
        closer = margin < self.margin
        self.nearest[closer], self.margin[closer] = len(self.kept.keys) - 1, margin[closer]
        for witness, parity in ((self.twin, self.parity), (self.parent, self.likeness)):
            if witness is not None and parity is not None:
                others, found[witness] = witness.shown(points)
                parity.shown(outputs, others)
        if self.parent is not None:
            self.evaded |= self.both_right & found[self.parent] & ~right
        self.rows.append(
            AttackRow(name, source, self.rate, spent.forwards, spent.backwards, round(spent.seconds, 3))
        )  # fmt: skip
        self.right[f"right/{source}/{name}"] = right
        if self.checkpoint in found:
            self.right[f"checkpoint/right/{source}/{name}"] = found[self.checkpoint]
        maker = maker or self.file
        return found[maker] if maker in found else maker.shown(points)[1]

    def alone(self, source: str, *names: str) -> np.ndarray:
        """Which examples (n,) are right on the clean image and on the points of one source, by default of all names."""
        prefix = f"right/{source}/"  # that of the checkpoint's own answers begins otherwise
        found = [flags for key, flags in self.right.items() if key.startswith(prefix)]
        if names:
            found = [self.right[prefix + name] for name in names]
        return np.asarray(np.logical_and.reduce([self.file.clean, *found]))

    def least_sure(self, index: np.ndarray) -> np.ndarray:
        """Of the images at the index (m,), the points (m, C, H, W) that the artefact was least sure of."""
        points = self.images[index].copy()
        for number in np.unique(self.nearest[index]):
            if number >= 0:
                here = self.nearest[index] == number
                points[here] = self.kept.array(self.kept.keys[number])[index[here]]
        return points

    def unsteady(self, points: np.ndarray, of: str, outputs: np.ndarray) -> list[str]:
        """Flags of an artefact that answers the same points (n, C, H, W) otherwise than it did."""
        allowed = QUANTISED_TOLERANCE if self.subject.quantised else TOLERANCE
        again = self.file.ask(points)
        return masking.unsteady_flags(self.subject.predict, points, outputs, again, of=of, allowed=allowed)

    @property
    def rate(self) -> Rate:
        """Still right, so far."""
        return Rate.of(self.file.robust)

    @property
    def left(self) -> int:
        """How many are."""
        return int(self.file.robust.sum())

    @property
    def both_right(self) -> np.ndarray:
        """Which clean images (n,) the file and its parent get right."""
        return self.file.clean if self.parent is None else self.file.clean & self.parent.clean

    @property
    def checkpoint(self) -> Witness | None:
        """What the file is held against: its parent, or the twin where that was trained and not read back."""
        return self.parent if self.parent is not None or self.subject.reimported else self.twin

    @property
    def drift(self) -> dict[str, float]:
        """Of the logits against the twin, and against a parent that is another network."""
        found = {} if self.parity is None else dict(self.parity.drift)
        if self.likeness is not None:
            found |= {f"checkpoint_{name}": value for name, value in self.likeness.drift.items()}
        return found

    @property
    def repairs(self) -> tuple[str, ...]:
        """How outputs were brought into a form that attacks can use."""
        forms = [one.form for one in (self.file, self.twin, self.parent) if one is not None]
        return tuple(dict.fromkeys(str(form) for form in forms if not form.trivial))

    def against(self, other: Flags, same: Rate | None = None) -> Comparison:
        """What the artefact loses against another model's flags (clean, robust), each (n,)."""
        return Comparison(Rate.of(other[0]), Rate.of(other[1]), Loss.of(other[1], self.file.robust), same)

    def save(self, path: Path, indices: np.ndarray, more: dict[str, np.ndarray]) -> None:
        """Write indices, labels, images, and per attack flags and the very points that were replayed (npz), whole.

        Keys: `clean`, `robust`, `right/SOURCE/ATTACK` (n,) and `points/SOURCE/ATTACK` float32 (n, C, H, W). `robust` is
        `clean` and every `right`; the checkpoint has the same under `checkpoint/`; `evaded` (n,) are the differential
        evasions. `images/sha256` and `checkpoint/digest` say which images and which weights these are of.
        `more` are the flags of the curves, whose points are here already.
        """
        flags = {"clean": self.file.clean, "robust": self.file.robust}
        network = self.subject.own_parent or self.subject.differentiable
        if self.checkpoint is not None and network is not None:
            flags |= {"checkpoint/clean": self.checkpoint.clean, "checkpoint/robust": self.checkpoint.robust}
            flags |= {"checkpoint/digest": np.array(weights_digest(network))}
        if self.parent is not None:
            flags["evaded"] = self.evaded
        known = {"indices": indices, "labels": self.labels, "images/sha256": np.array(array_sha256(self.images))}
        self.kept.pack(path, {**known, **flags, **self.right, **more, "images": self.images})
