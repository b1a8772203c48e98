"""What of a task is measured on this machine, and what is predicted for devices that are not this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from rcnas_edge.cost import Cost, show
from rcnas_edge.errors import InputError
from rcnas_edge.measure import Timing, time_beside, time_model
from rcnas_edge.profile import Profile, Target, image_size, machine
from rcnas_edge.profile.fusion import CPU
from rcnas_edge.profile.provenance import MEASURED, TABLE
from rcnas_edge.space import Architecture, Layer
from rcnas_edge.task import Bench

Found = TypeVar("Found")
TIMED = CPU
"""Runtimes of a profile that a file is timed with here: ONNX Runtime on a CPU."""
ON_THE_DEVICE = "'python3 run.py bench' in the bundle measures the file there, 'rcnas-edge verify --import' takes it in"
"""What to do about a latency that was only predicted."""
ENOUGH = 0.98
"""The least share of measured rows that a prediction is given without a warning for."""


def is_here(profile: Profile) -> bool:
    """Whether the device is this machine: one that is measured where it is used, or this very processor and runtime."""
    if profile.runtime not in TIMED:
        return False
    return bool(_measured_here(profile)) or (profile.on_first_use and not _tables(profile))


def _tables(profile: Profile) -> list[Mapping[str, Any]]:
    """Provenance of the tables that were measured, on whatever machine."""
    return [entry for entry in profile.provenance if entry.get("kind") == MEASURED and TABLE in entry.get("covers", ())]


def _measured_here(profile: Profile) -> list[Mapping[str, Any]]:
    """Of these the ones of this very processor and runtime."""
    return [entry for entry in _tables(profile) if all(entry.get(key) == value for key, value in machine().items())]


def timed(bench: Bench) -> tuple[Target, ...]:
    """The targets that were this machine when the run began; on another machine it is read, and not timed anew."""
    return bench.here


def predicted(bench: Bench) -> tuple[Target, ...]:
    """The targets of a task that are not this machine: nothing is timed for them."""
    return tuple(target for target in bench.targets if target not in timed(bench))


@dataclass(frozen=True)
class Timed:
    """How long a file takes; where the limit is one in percent, `share`, of the teacher's `beside_ms` in turns with it.

    A share is measured as one: the teacher that the budget is of was timed at another moment, and the machine may have
    become slower since, or quicker.
    """

    timing: Timing
    share: float | None = None
    beside_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Timed:
        """The opposite of `to_dict`."""
        return cls(Timing(**values["timing"]), values["share"], values["beside_ms"])

    @property
    def words(self) -> str:
        """Its median, and that share."""
        share = "" if self.share is None else f" ({100 * self.share:.1f} % of the teacher's beside it)"
        return show("latency", self.timing.p50_ms) + share


def whole(bench: Bench) -> dict[Target, float]:
    """ms of the teacher on the targets whose latency limit is a share of it."""
    relative = (one for one in bench.budgets if one.quantity == "latency" and one.relative)
    return {one.target: one.teacher for one in relative if one.teacher is not None}


def counted(found: Mapping[Target, Timed], bench: Bench) -> dict[Target, float]:
    """ms of each file that its budget counts: the timing's, or its share of the teacher's latency in the budget."""
    teacher = whole(bench)
    return {
        target: one.timing.p50_ms if one.share is None else one.share * teacher[target] for target, one in found.items()
    }


def timed_how(bench: Bench, digest: str) -> dict[str, list[str]]:
    """What a timing of a run depends on: the targets that are this machine, and the teacher beside those in percent."""
    here = timed(bench)
    beside = [str(target) for target in here if target in whole(bench)]
    return {"timed": [str(target) for target in here], "beside": [digest, *beside] if beside else []}


def time_here(
    model: Path, bench: Bench, *, seconds: float, teacher: Callable[[], Path], patient: bool = True
) -> dict[Target, Timed]:
    """The latency of a run's file on its targets that are this machine, beside the `teacher` file where that counts.

    A share is nearly the same at any pace: where that is all that is wanted, the timing need not be `patient` until the
    machine is at rest. Raises InputError where a target was this machine when the run began and is no longer: budgets
    in percent are of a teacher that was timed there.
    """
    for target in timed(bench):
        if not is_here(bench.profiles[target]):
            raise InputError(
                f"a run is timed on one machine, {target} was measured on another one or with another runtime than "
                f"{machine()['runtime']}: continue there, or take another --out"
            )
    here, shares = {target: bench.profiles[target] for target in timed(bench)}, whole(bench)
    alone = time_on(model, {target: here[target] for target in here if target not in shares}, seconds=seconds)
    in_turns = _by_threads(
        {target: here[target] for target in here if target in shares},
        lambda threads, rest_ms: time_beside(
            model,
            teacher(),
            threads=threads,
            seconds=seconds,
            rest_ms=rest_ms,
            rest_seconds=None if patient else 0.0,
        ),
    )
    return {target: Timed(timing) for target, timing in alone.items()} | {
        target: Timed(one.timing, one.share, one.other.p50_ms) for target, one in in_turns.items()
    }


def time_on(model: Path, profiles: Mapping[Target, Profile], *, seconds: float) -> dict[Target, Timing]:
    """The latency of an ONNX file on targets that are this machine; those with the same threads share a timing."""
    return _by_threads(
        profiles, lambda threads, rest_ms: time_model(model, threads=threads, seconds=seconds, rest_ms=rest_ms)
    )


def _by_threads(profiles: Mapping[Target, Profile], time: Callable[[int, float | None], Found]) -> dict[Target, Found]:
    """What a timing on so many threads gives, and what the reference kernel takes at rest."""
    found = {
        threads: time(threads, at_rest(profiles.values(), threads))
        for threads in dict.fromkeys(target.threads for target in profiles)
    }
    return {target: found[target.threads] for target in profiles}


def at_rest(profiles: Iterable[Profile], threads: int) -> float | None:
    """ms of the reference kernel on so many threads at this machine's best pace that was noted; None if none was."""
    entries = [entry for profile in profiles for entry in _measured_here(profile) if entry.get("threads") == threads]
    return min((ms for entry in entries if isinstance(ms := entry.get("reference_ms"), int | float)), default=None)


def not_measured(target: Target, profile: Profile) -> str:
    """That a latency is a prediction, where its numbers are from, and what measures it: one sentence."""
    runtime = "" if profile.runtime in TIMED else f", with ONNX Runtime (the prediction is of {profile.runtime})"
    return (
        f"The latency on {target} was predicted, not measured, by numbers that are {profile.origin(target)}: "
        f"{ON_THE_DEVICE}{runtime}."
    )


def caution(target: Target, profile: Profile, layers: Sequence[Layer], cost: Cost) -> str | None:
    """What to know of a predicted latency that rests on less than ENOUGH measured rows, in a sentence."""
    if cost.latency is None or cost.measured >= ENOUGH:
        return None
    outside = profile.domain.outside(image_size(layers))
    asked = f"; it is asked for {outside}" if outside else ""
    share = f"{100 * cost.measured:.1f} %"
    return f"{share} of the latency predicted on {target} rests on measured rows, the rest is an estimate{asked}."


def cautions(bench: Bench, architecture: Architecture) -> dict[Target, str]:
    """That sentence for each target where there is one."""
    layers = bench.space.layers(architecture)
    found = {
        target: caution(target, bench.profiles[target], layers, cost)
        for target, cost in bench.costs(architecture).items()
    }
    return {target: sentence for target, sentence in found.items() if sentence}
