"""The attacks on one artefact, in order: what each of them leaves of it, example by example.

Points are made on the twin (FGSM, PGD, then the headline: APGD-CE, APGD-T, Square), on the parent and on the reference
(the headline, to transfer), on twin and parent at once (differential evasion), and on the artefact itself (Square, from
the worst point so far). Every point is shown to the artefact; an example counts as robust if it is right on the clean
image and on all of them. Points lie on disk from the moment that their attack is done (`rcnas_edge.verify.keeping`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from rcnas_edge.attacks import Threat
from rcnas_edge.evaluate import Rate
from rcnas_edge.verdict import Evasion, Findings, NaiveGap
from rcnas_edge.verify import masking
from rcnas_edge.verify.evidence import Evidence
from rcnas_edge.verify.keeping import Keeping
from rcnas_edge.verify.making import by_attack, by_evasion, by_square
from rcnas_edge.verify.saved import Saved
from rcnas_edge.verify.subject import Flags, Level, Progress, Subject
from rcnas_edge.verify.sweep import ATTACK, Sweep, Try, drawn_places, eps_curve, over_epsilon, over_steps, step_curve
from rcnas_edge.verify.telling import Telling
from rcnas_edge.verify.witness import Witness, on, pieces

ARTEFACT, CHECKPOINT, REIMPORT, REFERENCE = "artefact", "checkpoint", "re-import", "reference"
NAIVE = "re-import, naive"
STEADY = 1024
"""Adversarial points that are asked twice."""

HEADLINE: Mapping[str, float] = {"apgd-ce": 0.15, "apgd-t": 0.7, "square": 0.15}
"""The attacks of `rcnas_edge.attacks.headline`, in its order, with about their shares of its time."""
STEPS, TARGETS = 100, 9


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
        kept: Keeping,
        attacked_reference: bool = False,
        transferred: Path | None = None,
    ) -> None:
        """images float32 (n, C, H, W) in [0, 1], labels int64 (n,); `attacked_reference` says that one's flags are
        known, `transferred` are arrays with points that were made on the parent.
        """
        self.subject, self.threat, self.depth, self.seed, self.kept = subject, threat, depth, seed, kept
        self.transferred = transferred
        self.tell = Telling(
            tell,
            {
                "white-box": depth.seeds * (subject.differentiable is not None),
                "transfer": float(subject.own_parent is not None and transferred is None),
                "reference": float(subject.reference is not None and not attacked_reference),
                "evasion": 0.15 * (subject.own_parent is not None),
                "square": 0.3,
                "flags and curves": 0.3,
            },
        )
        self.tell("clean images", 0.0)
        self.evidence = Evidence(subject, images, labels, threat, kept)
        self.images, self.labels, self.all = images, labels, np.arange(len(images))
        self.own = REIMPORT if subject.reimported else CHECKPOINT
        self.flags = self.evidence.unsteady(images, "clean", self.evidence.file.outputs)
        self.sweeps: dict[str, Sweep] = {}
        self.gap: NaiveGap | None = None
        self.compared: Flags | None = None
        self.blind = False

    def run(self, reference: Flags | None) -> Findings:
        """Every attack; `reference` are flags of a reference that was attacked before."""
        shown = self.evidence
        twin, parent = shown.twin, shown.parent
        self._doubt_clean()
        if twin is not None:
            self._white_box(twin)
        if parent is not None:
            self._transfer(parent)
        before = shown.left
        self.compared = self._reference(reference)
        self._raise_if_beaten("transfer from the reference", before)
        if twin is not None and parent is not None and self.unlike and not self.blind:
            before = shown.left
            self._evasion(twin, parent)
            self._raise_if_beaten("differential evasion", before, least=masking.CONTINUED)
        before = shown.left
        self._square()
        self._raise_if_beaten("Square on the artefact", before, least=masking.CONTINUED)
        self.tell.stage("flags and curves")
        if twin is not None:
            self._large_epsilon(twin)
            self._curves(twin)
        worst = shown.least_sure(self.all[:STEADY])
        self.flags += shown.unsteady(worst, "adversarial", shown.file.ask(worst))
        self.tell("verified", 1.0)
        return self._findings()

    def save(self, path: Path, indices: np.ndarray) -> None:
        """Write everything that was shown (npz), whole: see `Evidence.save`.

        The reference's flags are under `reference/`. The curve over epsilon has `sweep/places` (m,) in those arrays,
        `sweep/right/EPSILON` (m,) and `sweep/points/EPSILON` (m, C, H, W); that over steps has the same under `steps/`.
        """
        more: dict[str, np.ndarray] = {}
        if self.compared is not None:
            more = {"reference/clean": self.compared[0], "reference/robust": self.compared[1]}
        for one in self.sweeps.values():
            more |= one.arrays()
        self.evidence.save(path, indices, more)

    def _findings(self) -> Findings:
        shown = self.evidence
        parity, checkpoint, clean = shown.parity, shown.checkpoint, Rate.of(shown.file.clean)
        by_epsilon, by_steps = self.sweeps.get("sweep"), self.sweeps.get("steps")
        same = None if shown.likeness is None else shown.likeness.rate
        lost = None if checkpoint is None else shown.against((checkpoint.clean, checkpoint.robust), same)
        straight = ", straight through its rounding" if self.subject.quantised else ""
        return Findings(
            threat=str(self.threat),
            n=shown.n,
            classes=shown.classes,
            clean=clean,
            robust=shown.rate,
            attacks=tuple(shown.rows),
            parity=None if parity is None else parity.rate,
            drift=shown.drift,
            parity_fault="" if parity is None else parity.fault,
            checkpoint=lost,
            reference=None if self.compared is None else shown.against(self.compared),
            flags=tuple(dict.fromkeys(self.flags)),
            eps_sweep=() if by_epsilon is None else eps_curve(by_epsilon, self.threat, clean, shown.rate),
            step_sweep=() if by_steps is None else step_curve(by_steps),
            twin="" if shown.twin is None else self.own + straight,
            repairs=shown.repairs,
            evasion=self._evaded(),
            naive_gap=self.gap,
        )

    # Attacks ---------------------------------------------------------------------------------------------------------

    def _attacked(
        self, maker: Witness, name: str, source: str, alive: np.ndarray, *, title: str, seed: int, **options: Any
    ) -> np.ndarray:
        """Attack a network on the images of alive (m,), and show the points; returns which it gets right (n,)."""
        fill = by_attack(
            name, maker.attacked, self.images, self.labels, alive, self.threat, seed=seed, options=options
        )  # fmt: skip
        return self.evidence.show(title, source, fill, maker)

    def _white_box(self, twin: Witness) -> None:
        """FGSM, PGD and the headline on the twin; where it has no gradient at all they would be blind."""
        self.tell.stage("white-box")
        zero = np.concatenate([self._zero_gradients(twin.attacked, part) for part in pieces(self.all, self.images)])
        self.blind = bool(zero.all())
        blind = f"zero gradients: none of {len(zero)} images has a gradient, so attacks by gradients are blind"
        self._raise(masking.zero_gradient_flag(zero) or (blind if self.blind else None))
        if self.blind:
            return
        left = {}
        for name in ("fgsm", "pgd"):
            self.tell(name, 0.02)
            right = self._attacked(twin, name, self.own, self.all, title=name, seed=self.seed)
            left[name] = int((twin.clean & right).sum())
        self._raise(masking.beaten_flag("FGSM", "PGD", left["pgd"] - left["fgsm"], self.evidence.n))
        self._naive()
        for number in range(self.depth.seeds):
            if number == 0 or twin.robust.any():
                self._headline(twin, self.own, "white-box", number, of=self.depth.seeds)

    def _zero_gradients(self, network: nn.Module, part: np.ndarray) -> np.ndarray:
        return masking.zero_gradients(network, on(self.images[part], network), on(self.labels[part], network))

    def _naive(self) -> None:
        """PGD on the re-import's own gradients, against PGD straight through its rounding, each by itself."""
        if self.subject.naive is None:
            return
        naive = Witness.of_network(self.subject.naive, self.images, self.labels)
        self._attacked(naive, "pgd", NAIVE, self.all, title="pgd", seed=self.seed)
        own, straight = self.evidence.alone(NAIVE), self.evidence.alone(self.own, "pgd")
        self.gap = NaiveGap(Rate.of(own), Rate.of(straight))
        if not self.subject.quantised:
            self._raise(masking.naive_flag(own, straight))

    def _headline(self, maker: Witness, source: str, stage: str, number: int = 0, *, of: int = 1) -> None:
        """APGD-CE, APGD-T and Square, each on the survivors of the former, as `rcnas_edge.attacks.headline` does.

        One at a time, so that each is on disk once it is done. The first of several takes every image, those after it
        only the ones that are still right.
        """
        self.tell.stage(stage)
        alive = np.flatnonzero(maker.robust) if number else self.all
        tag, where = (
            f" (seed {self.seed + number})" if number else "",
            "" if source == self.own else f" on the {source}",
        )
        begin = number / of
        for name, share in HEADLINE.items():
            queries = self.depth.square_queries
            options = {"n_queries": queries} if name == "square" else {"steps": STEPS}
            passes = len(alive) * (queries if name == "square" else STEPS * (TARGETS if name == "apgd-t" else 1))
            before = self.evidence.left
            with self.tell.counted(maker.attacked, f"{name}{where}", begin, share / of, passes):
                right = self._attacked(
                    maker, name, source, alive, title=f"{name}{tag}", seed=self.seed + number, **options
                )
            if name == "square" and maker is self.evidence.twin:
                self._raise_if_beaten("Square", before)
            alive = alive[(maker.clean & right)[alive]]
            begin += share / of

    @property
    def unlike(self) -> bool:
        """Whether the parent is another function than the file, or gradients of the twin are none."""
        likeness, parity = self.evidence.likeness, self.evidence.parity
        alike = likeness is not None and not likeness.fault and parity is not None and not parity.fault
        return not alike or self.blind

    def _transfer(self, parent: Witness) -> None:
        """The headline on the parent, made now or taken from the arrays of another of its files.

        Where parent and file are one function, points made on the twin are made on the parent too, unless the twin's
        gradients mislead: PGD on both tells.
        """
        shown, white_box = self.evidence, self.evidence.file.robust.copy()
        self.tell.stage("transfer")
        if not self.unlike:
            self._attacked(parent, "pgd", CHECKPOINT, self.all, title="pgd", seed=self.seed)
            flag = masking.transfer_flag(shown.alone(self.own, "pgd"), shown.alone(CHECKPOINT))
            self._raise(flag)
            if flag is None:
                return
        if self.transferred is None:
            self._headline(parent, CHECKPOINT, "transfer")
        else:
            with Saved(self.transferred) as saved:
                saved.check_images(self.images)
                for name, key in saved.made_on(CHECKPOINT, REIMPORT).items():
                    shown.show(f"{name} (transferred)", CHECKPOINT, saved.copied(key))
        if shown.twin is not None:
            quantised = self.subject.quantised
            self._raise(masking.transfer_flag(white_box, shown.alone(CHECKPOINT), quantised=quantised))

    def _reference(self, known: Flags | None) -> Flags | None:
        """The reference's flags; what fools it is shown to the artefact too."""
        if known is not None or self.subject.reference is None:
            return known
        reference = Witness.of_network(self.subject.reference, self.images, self.labels)
        self._headline(reference, REFERENCE, "reference")
        return reference.clean, reference.robust

    def _evasion(self, twin: Witness, parent: Witness) -> None:
        """Differential evasion, of the images that both get right and that nothing has evaded yet."""
        self.tell.stage("evasion")
        self.tell("differential evasion", 0.0)
        alive = np.flatnonzero(self.evidence.both_right & ~self.evidence.evaded)
        networks = twin.attacked, parent.attacked
        fill = by_evasion(
            *networks, self.images, self.labels, alive, self.threat, steps=self.depth.evasion_steps
        )  # fmt: skip
        self.evidence.show("diva", self.own, fill)

    def _evaded(self) -> Evasion | None:
        """Over every point that was shown: whatever found it, the parent is right there and the file wrong."""
        shown = self.evidence
        if shown.parent is None or shown.twin is None or self.blind or not shown.both_right.any():
            return None
        attack = f"DIVA, two rounds of {self.depth.evasion_steps} steps, and every other point"
        if not self.unlike:
            attack = "every point that was shown; no more, since the file answers as the checkpoint does"
        return Evasion(Rate.of(shown.evaded[shown.both_right]), attack)

    def _square(self) -> None:
        """Square on the artefact, on what is still right, from the point with the least margin."""
        shown = self.evidence
        self.tell.stage("square")
        alive = np.flatnonzero(shown.file.robust)
        if not len(alive):
            return
        fill = by_square(
            lambda points: shown.file.form.logits(shown.file.ask(points)),
            self.images,
            self.labels,
            alive,
            self.threat.epsilon,
            queries=self.depth.artefact_queries,
            seed=self.seed,
            start=shown.least_sure if shown.rows else None,
            told=lambda share: self.tell("square on the artefact", share),
        )
        shown.show("square", ARTEFACT, fill)

    # Flags and curves ------------------------------------------------------------------------------------------------

    def _doubt_clean(self) -> None:
        """Flags that need no attack: a file that knows nothing any more, or calls its classes by other names."""
        shown = self.evidence
        parent = None if shown.parent is None else Rate.of(shown.parent.clean)
        self._raise(masking.useless_flag(Rate.of(shown.file.clean), parent, shown.classes))
        self._raise(masking.swapped_flag(shown.file.outputs.argmax(1), self.labels, shown.classes))

    def _large_epsilon(self, twin: Witness) -> None:
        self.tell("masking flags", 0.0)
        left, total = np.flatnonzero(twin.robust), self.evidence.n
        images, labels = on(self.images[left], twin.attacked), on(self.labels[left], twin.attacked)
        self._raise(masking.large_epsilon_flag(twin.attacked, images, labels, total=total, seed=self.seed))

    def _curves(self, twin: Witness) -> None:
        """Other epsilons and steps, with less effort; a twin without gradients would look robust at all of them."""
        depth = self.depth
        if depth.sweep_images and not self.blind:
            tries = over_epsilon(self.threat, depth.sweep_steps)
            found = self._swept("sweep", twin, tries, depth.sweep_images, "over epsilon", 0.1)
            self._raise(masking.rising_flag(found.counts, len(found.places)))
        if depth.step_images and not self.blind:
            found = self._swept("steps", twin, over_steps(self.threat), depth.step_images, "over steps", 0.5)
            self._raise(masking.rising_flag(found.counts, len(found.places), of="steps"))
            self._raise(masking.falling_flag(found.counts, len(found.places)))

    def _swept(self, name: str, twin: Witness, tries: Sequence[Try], count: int, of: str, begin: float) -> Sweep:
        """One curve: its points are made on the twin and judged on the artefact."""
        file, shape = self.evidence.file, self.images.shape[1:]

        def judge(key: str, one: Try, places: np.ndarray) -> np.ndarray:
            images, labels = self.images[places], self.labels[places]
            options = {"steps": one.ball.steps}
            fill = by_attack(
                ATTACK, twin.attacked, images, labels, np.arange(len(places)), one.ball, seed=self.seed, options=options
            )
            points, _ = self.kept.made(key, (len(places), *shape), fill)
            return np.asarray(file.clean[places] & (file.ask(points).argmax(1) == labels))

        places = drawn_places(self.evidence.n, count, self.seed)
        found = Sweep.of(name, tries, places, judge, lambda share: self.tell(f"sweep {of}", begin + 0.4 * share))
        self.sweeps[name] = found
        return found

    def _raise_if_beaten(self, weaker: str, before: int, *, least: float = masking.BEATEN) -> None:
        """What an attack without gradients takes beyond those with gradients is a flag."""
        if self.evidence.twin is not None:
            more = before - self.evidence.left
            self._raise(masking.beaten_flag(weaker, "white-box", more, self.evidence.n, least=least))

    def _raise(self, flag: str | None) -> None:
        if flag is not None:
            self.flags.append(flag)
