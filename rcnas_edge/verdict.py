"""What is said about one artefact: a `Verdict` holds what the attacks left of it, one JSON object and one exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rcnas_edge.errors import InputError
from rcnas_edge.evaluate import Interval, Rate, mcnemar, paired_bootstrap, paired_difference

ROBUST, NOT_ROBUST, INCONCLUSIVE, NOT_CHECKED = "robust", "not robust", "inconclusive", "not checked"
EXIT_CODES = {ROBUST: 0, NOT_ROBUST: 4, INCONCLUSIVE: 5, NOT_CHECKED: 5}


@dataclass(frozen=True)
class Gates:
    """What the artefact has to reach, as fractions: robust accuracy, and points lost against the reference."""

    min_robust: float | None = None
    max_robust_drop: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_robust", "max_robust_drop"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} is a share between 0 and 1 (or 0 % and 100 %), got {value}")

    @property
    def asked(self) -> bool:
        """Whether there is any."""
        return self.min_robust is not None or self.max_robust_drop is not None


@dataclass(frozen=True)
class Loss:
    """How much less often the artefact is right than another model on the same n examples, with a 95 % interval.

    `value`, `low` and `high` are fractions, above 0 where the artefact is worse; `p_value` is exact McNemar's;
    `bootstrap` is the same interval by 10,000 resamples of the examples.
    """

    value: float
    low: float
    high: float
    p_value: float
    bootstrap: Interval | None = None

    @classmethod
    def of(cls, other: np.ndarray, artefact: np.ndarray) -> Loss:
        """From flags (N,) of the other model and of the artefact."""
        return cls(
            *paired_difference(other, artefact),
            p_value=mcnemar(other, artefact),
            bootstrap=paired_bootstrap(other, artefact),
        )

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} points [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class Comparison:
    """Another model under the same attacks on the same images, and what the artefact loses against it.

    `same` are the inputs, clean and adversarial, that both put into the same class, where both were shown them.
    """

    clean: Rate
    robust: Rate
    loss: Loss
    same: Rate | None = None


@dataclass(frozen=True)
class AttackRow:
    """One attack: `source` is the model, or the other file, its points were made on; all are judged on the artefact.

    `robust` are the examples still right after this attack and all above it. `forwards` and `backwards` count images.
    """

    name: str
    source: str
    robust: Rate
    forwards: int
    backwards: int
    seconds: float


@dataclass(frozen=True)
class SweepPoint:
    """The share still right at one epsilon, by an attack of its own: weaker than a verdict's, and of fewer images."""

    epsilon: float
    attack: str
    robust: Rate


@dataclass(frozen=True)
class StepPoint:
    """The share still right after so many steps of one attack at the threat's epsilon, of fewer images."""

    steps: int
    attack: str
    robust: Rate


@dataclass(frozen=True)
class Evasion:
    """Differential evasion: of the images that parent and file both get right, those with a point in the ball that the
    parent still gets right and the file wrong. `attack` is what looked for them.
    """

    rate: Rate
    attack: str


@dataclass(frozen=True)
class NaiveGap:
    """Still right after one attack that follows the graph's own gradients, and one that goes straight through rounding.

    Where they differ on a Q/DQ graph, a tool that back-propagates through rounding would have reported `naive`.
    """

    naive: Rate
    straight_through: Rate


@dataclass(frozen=True)
class Findings:
    """What was measured, before any decision. Rates are of the artefact."""

    threat: str
    n: int
    classes: int
    clean: Rate
    robust: Rate
    attacks: tuple[AttackRow, ...]
    parity: Rate | None = None
    """Inputs, clean and adversarial, that artefact and twin put into the same class."""
    drift: Mapping[str, float] = field(default_factory=dict)
    """Logit drift against the twin, relative to its largest logit: clean_max, clean_mean, adversarial_max, ...; that
    against another checkpoint has `checkpoint_` before its name."""
    parity_fault: str = ""
    """Why the twin is not the artefact's twin; empty if it is."""
    checkpoint: Comparison | None = None
    """The network that the file was made of; None where nobody gave it and the twin was read back from the file."""
    reference: Comparison | None = None
    flags: tuple[str, ...] = ()
    eps_sweep: tuple[SweepPoint, ...] = ()
    """From epsilon 0 on; at the threat's epsilon it is `robust`, elsewhere see `rcnas_edge.verify.sweep`."""
    step_sweep: tuple[StepPoint, ...] = ()
    twin: str = ""
    """What the gradients are of: the checkpoint, the re-import, or the re-import straight through its rounding."""
    repairs: tuple[str, ...] = ()
    """How outputs were put into a form that attacks can use, one sentence each."""
    evasion: Evasion | None = None
    naive_gap: NaiveGap | None = None


@dataclass(frozen=True)
class Verdict:
    """The answer of `verify` about one file: decision, reasons, flags, and every rate with its interval.

    `margin` is the largest loss against the checkpoint that still counts as none; `not_checked` says what nobody should
    read into this verdict; `drawn` how the n images were chosen.
    """

    decision: str
    reasons: tuple[str, ...]
    findings: Findings
    gates: Gates
    margin: float
    level: str
    seed: int
    name: str
    sha256: str
    not_checked: tuple[str, ...]
    seconds: float
    drawn: str = ""

    def __post_init__(self) -> None:
        if self.decision not in EXIT_CODES:
            raise InputError(f"a verdict's decision is one of {', '.join(EXIT_CODES)}, got {self.decision!r}")
        if self.decision == ROBUST and (self.flags or self.findings.parity is None or self.findings.parity_fault):
            raise ValueError("a verdict is never 'robust' with a flag raised, or without parity with a twin")

    @property
    def flags(self) -> tuple[str, ...]:
        return self.findings.flags

    @property
    def clean(self) -> Rate:
        return self.findings.clean

    @property
    def robust(self) -> Rate:
        return self.findings.robust

    @property
    def exit_code(self) -> int:
        """0 robust, 4 not robust, 5 inconclusive; "not checked" is 5 if a gate was asked for, else 0."""
        if self.decision == NOT_CHECKED and not self.gates.asked:
            return 0
        return EXIT_CODES[self.decision]

    def summary(self) -> str:
        """Two lines for people: the decision with its numbers, and why."""
        found = self.findings
        lost = "" if found.checkpoint is None else f"; lost against the checkpoint {found.checkpoint.loss}"
        evaded = "" if found.evasion is None else f"; evaded {found.evasion.rate}"
        rates = f"robust {found.robust}, clean {found.clean}{lost}{evaded}"
        why = "; ".join((*self.reasons, *found.flags))
        return f"{self.name}: {self.decision} under {found.threat} ({rates})\n  {why}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `verdict` in report.json."""
        found = self.findings
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "flags": list(found.flags),
            "threat": found.threat,
            "n": found.n,
            "clean": found.clean.to_dict(),
            "robust": found.robust.to_dict(),
            "parity": None if found.parity is None else found.parity.to_dict(),
            "attacks": [{**vars(row), "robust": row.robust.to_dict()} for row in found.attacks],
            "name": self.name,
            "sha256": self.sha256,
            "level": self.level,
            "seed": self.seed,
            "classes": found.classes,
            "drift": dict(found.drift),
            "twin": found.twin,
            "repairs": list(found.repairs),
            "evasion": None if found.evasion is None else {**vars(found.evasion), "rate": found.evasion.rate.to_dict()},
            "naive_gap": found.naive_gap and {name: rate.to_dict() for name, rate in vars(found.naive_gap).items()},
            "eps_sweep": [{**vars(point), "robust": point.robust.to_dict()} for point in found.eps_sweep],
            "step_sweep": [{**vars(point), "robust": point.robust.to_dict()} for point in found.step_sweep],
            "parity_fault": found.parity_fault,
            "checkpoint": _comparison_to_dict(found.checkpoint),
            "reference": _comparison_to_dict(found.reference),
            "gates": asdict(self.gates),
            "margin": self.margin,
            "not_checked": list(self.not_checked),
            "seconds": self.seconds,
            "drawn": self.drawn,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """The opposite of `to_dict`, also of a verdict that knew less; InputError on a missing or ill-typed value."""
        try:
            evasion, gap = values.get("evasion"), values.get("naive_gap")
            rows = tuple(AttackRow(**{**row, "robust": _rate(row["robust"])}) for row in values["attacks"])
            findings = Findings(
                **{key: values[key] for key in ("threat", "n", "classes", "parity_fault")},
                clean=_rate(values["clean"]),
                robust=_rate(values["robust"]),
                attacks=rows,
                parity=None if values["parity"] is None else _rate(values["parity"]),
                drift=dict(values["drift"]),
                checkpoint=_comparison_from_dict(values["checkpoint"]),
                reference=_comparison_from_dict(values["reference"]),
                flags=tuple(values["flags"]),
                eps_sweep=tuple(
                    SweepPoint(**{**point, "robust": _rate(point["robust"])}) for point in values.get("eps_sweep") or ()
                ),
                step_sweep=tuple(
                    StepPoint(**{**point, "robust": _rate(point["robust"])}) for point in values.get("step_sweep") or ()
                ),
                twin=values.get("twin") or "",
                repairs=tuple(values.get("repairs") or ()),
                evasion=evasion and Evasion(_rate(evasion["rate"]), evasion["attack"]),
                naive_gap=gap and NaiveGap(_rate(gap["naive"]), _rate(gap["straight_through"])),
            )
            return cls(
                **{key: values[key] for key in ("decision", "margin", "level", "seed", "name", "sha256", "seconds")},
                reasons=tuple(values["reasons"]),
                findings=findings,
                gates=Gates(**values["gates"]),
                not_checked=tuple(values["not_checked"]),
                drawn=values.get("drawn") or "",
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"a verdict has the fields that Verdict.to_dict writes, this one has not: {error}"
            ) from error


def _rate(values: Mapping[str, Any]) -> Rate:
    return Rate(values["hits"], values["total"])


def _comparison_to_dict(found: Comparison | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "clean": found.clean.to_dict(),
        "robust": found.robust.to_dict(),
        "loss": asdict(found.loss),
        "same": None if found.same is None else found.same.to_dict(),
    }


def _comparison_from_dict(values: Mapping[str, Any] | None) -> Comparison | None:
    if values is None:
        return None
    told, bootstrap, same = values["loss"], values["loss"].get("bootstrap"), values.get("same")
    loss = Loss(
        **{name: told[name] for name in ("value", "low", "high", "p_value")},
        bootstrap=None if bootstrap is None else Interval(**bootstrap),
    )
    return Comparison(_rate(values["clean"]), _rate(values["robust"]), loss, None if same is None else _rate(same))
