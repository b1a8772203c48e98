"""The adversaries by name, each with its paper's values, as rounds that attack survivors.

APGD and Square, of which the headline is made, are ours (`apgd`, `square`); torchattacks 3.5 has the others. Left alone
torchattacks runs AutoAttack's parts with a tenth of the iterations (10 steps for APGD and FAB, where the reference has
100), stretches Square's schedule over the queries asked for, ties no step size to the epsilon, and aims at every class.
The values are put right here; what surrounds an attack is put right in `rcnas_edge.attacks`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rcnas_edge.attacks.apgd import Objective, apgd, cross_entropy, dlr, targeted_dlr, targeted_margin
from rcnas_edge.attacks.square import SCHEDULE, search
from rcnas_edge.attacks.threat import Threat, pgd
from rcnas_edge.errors import InputError, UncheckedError

TARGETS = 9
"""Classes that APGD-T and FAB-T aim at, most likely first: AutoAttack's number, whatever the number of classes."""

CACHED = 1 << 17
"""Numbers in a batch of images beyond which a CPU's passes both ways get slower, not faster: 42 images of CIFAR-10."""

Round = Callable[[Tensor, Tensor], Tensor]
"""One run of an attack: images (n, C, H, W) and labels (n,) to points (n, C, H, W)."""


def _silent(share: float) -> None:
    """Tell nobody."""


class Counted(nn.Module):
    """A model that counts the images pushed forwards and backwards through it.

    It also owns an (empty) parameter on the model's device, where torchattacks looks for the device, so that models
    without parameters can be attacked.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.model = model
        self.forwards = 0
        self.backwards = 0
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        self.forwards += len(images)
        if images.requires_grad:
            # Some attacks view gradients as rows, which a gradient in channels-last layout does not allow.
            images = images.view_as(images)
            images.register_hook(Tensor.contiguous)
        logits = self.model(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"a model gives logits (N, classes), got {got} for {len(images)} images: wrap the model so that it does"
            )
        if logits.requires_grad:
            logits.register_hook(functools.partial(self._count_backward, len(images)))
            return logits
        if images.requires_grad and torch.is_grad_enabled():
            raise UncheckedError(
                "an attack by gradients needs a model that passes them to its input, this one passes none: "
                "attack it with 'square', or attack a differentiable twin of it"
            )
        # A copy, because Square writes into the logits, which may be a view on the images.
        return logits.clone()

    def _count_backward(self, count: int, gradient: Tensor) -> None:
        self.backwards += count


@dataclass(frozen=True)
class Setting:
    """What every adversary is built from.

    The counted model, the threat, the number of classes, the seed, and what a batch holds at most. `tell` is told the
    share of a round that is done.
    """

    victim: Counted
    threat: Threat
    classes: int
    seed: int
    batch_size: int = 256
    tell: Callable[[float], None] = _silent


@dataclass(frozen=True)
class Plan:
    """An attack as rounds, each on the survivors of the former, and a note on what differs from its paper.

    A round takes a batch, or with `whole` all survivors at once, which it brings into batches by itself.
    """

    rounds: Sequence[Round]
    note: str = ""
    whole: bool = False


def _fgsm(setting: Setting) -> Plan:
    import torchattacks

    return Plan((torchattacks.FGSM(setting.victim, eps=setting.threat.epsilon),))


def _pgd(setting: Setting, *, steps: int | None = None, alpha: float | None = None, random_start: bool = True) -> Plan:
    import torchattacks

    threat = setting.threat if steps is None else setting.threat.with_steps(steps)
    options = {"steps": threat.steps, "alpha": alpha or threat.step, "random_start": random_start}
    return Plan((torchattacks.PGD(setting.victim, eps=threat.epsilon, **options),))


def _cw(setting: Setting, *, steps: int = 40, random_start: bool = True) -> Plan:
    """CW as the adversarial-training literature reports it under L-infinity: PGD on the margin loss, 40 steps.

    Carlini and Wagner's own attack (2017; torchattacks' CW) minimises an L2 distance and knows no epsilon.
    """
    threat = setting.threat.with_steps(steps)
    generator = torch.Generator().manual_seed(setting.seed)

    def run(images: Tensor, labels: Tensor) -> Tensor:
        loss = functools.partial(_margin, labels=labels)
        return pgd(setting.victim, images, labels, threat, generator=generator, loss=loss, random_start=random_start)

    return Plan((run,))


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    right = logits.gather(1, labels[:, None]).squeeze(1)
    return (logits.scatter(1, labels[:, None], float("-inf")).amax(1) - right).sum()


def _apgd_ce(setting: Setting, *, steps: int = 100, n_restarts: int = 1, eot_iter: int = 1, rho: float = 0.75) -> Plan:
    return _climbing(setting, cross_entropy, (1,) * n_restarts, steps=steps, eot_iter=eot_iter, rho=rho)


def _apgd_dlr(setting: Setting, *, steps: int = 100, n_restarts: int = 1, eot_iter: int = 1, rho: float = 0.75) -> Plan:
    objective, note = (dlr, "") if setting.classes > 2 else (targeted_margin, _instead("apgd-dlr", 3, 2))
    ranks = (1 if setting.classes > 2 else 2,) * n_restarts
    return _climbing(setting, objective, ranks, note, steps=steps, eot_iter=eot_iter, rho=rho)


def _apgd_t(
    setting: Setting,
    *,
    steps: int = 100,
    n_targets: int | None = None,
    n_restarts: int = 1,
    eot_iter: int = 1,
    rho: float = 0.75,
) -> Plan:
    # The targeted DLR loss divides by a difference over the four largest logits; its numerator needs but two.
    few = setting.classes < 4
    objective, note = (targeted_margin, _instead("apgd-t", 4, setting.classes)) if few else (targeted_dlr, "")
    ranks = [rank for rank in _targets(setting, n_targets) for _ in range(n_restarts)]
    return _climbing(setting, objective, ranks, note, steps=steps, eot_iter=eot_iter, rho=rho)


def _instead(name: str, least: int, classes: int) -> str:
    return f"{name} climbs the plain margin, since the DLR loss needs {least} classes and there are {classes}"


def _climbing(setting: Setting, objective: Objective, ranks: Sequence[int], note: str = "", **options: Any) -> Plan:
    """APGD with one attempt per rank of the class to aim at."""
    generator = torch.Generator().manual_seed(setting.seed)

    def run(images: Tensor, labels: Tensor) -> Tensor:
        fitting = max(CACHED // images[0].numel(), 8) if images.device.type == "cpu" else setting.batch_size
        goals = labels[:, None].expand(-1, len(ranks))
        if set(ranks) != {1}:
            with torch.no_grad():
                logits = torch.cat([setting.victim(part) for part in images.split(setting.batch_size)])
            goals = logits.argsort(dim=1, descending=True)[:, [rank - 1 for rank in ranks]]
        return apgd(
            setting.victim,
            images,
            labels,
            goals,
            setting.threat.epsilon,
            objective=objective,
            generator=generator,
            batch_size=min(setting.batch_size, fitting),
            progress=setting.tell,
            **options,
        )

    return Plan((run,), note, whole=True)


def _targets(setting: Setting, count: int | None) -> range:
    """The ranks of the classes to aim at; 1 is the class of the highest logit, hence the right one."""
    most = setting.classes - 1
    if count is not None and not 1 <= count <= most:
        raise InputError(f"an attack aims at 1 to {most} of {setting.classes} classes, got n_targets={count}")
    return range(2, 2 + (min(TARGETS, most) if count is None else count))


def _fab_t(
    setting: Setting,
    *,
    steps: int = 100,
    n_targets: int | None = None,
    n_restarts: int = 1,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
) -> Plan:
    import torchattacks

    options = {"steps": steps, "alpha_max": alpha_max, "eta": eta, "beta": beta}
    adversary = torchattacks.FAB(
        setting.victim, norm="Linf", eps=setting.threat.epsilon, multi_targeted=True, **options
    )

    def run(rank: int, restart: int, images: Tensor, labels: Tensor) -> Tensor:
        adversary.target_class = rank
        with torch.no_grad():
            points = adversary.attack_single_run_targeted(images, labels, use_rand_start=restart > 0)
        # FAB looks for the nearest boundary; what it finds beyond the ball is pulled back and judged there.
        return setting.threat.project(points, images)

    ranks = _targets(setting, n_targets)
    return Plan([functools.partial(run, rank, restart) for rank in ranks for restart in range(n_restarts)])


def _square(
    setting: Setting, *, n_queries: int = 5000, n_restarts: int = 1, p_init: float = 0.8, give_up: bool = True
) -> Plan:
    """Square with the reference's schedule, which is that of 10,000 queries whatever their number."""
    generator = np.random.default_rng(setting.seed)

    def run(images: Tensor, labels: Tensor) -> Tensor:
        return search(
            setting.victim,
            images,
            labels,
            setting.threat.epsilon,
            queries=1 + n_queries,  # the start is one more
            schedule=SCHEDULE,
            generator=generator,
            batch_size=setting.batch_size,
            window=p_init,
            give_up=give_up,
            progress=setting.tell,
        ).points

    return Plan((run,) * n_restarts, whole=True)


def _named(name: str, setting: Setting, **options: Any) -> Plan:
    """Any class of torchattacks. Sizes and steps that the class takes follow the threat unless an option says else.

    A class that takes no epsilon (a minimum-norm attack, noise) is pulled back into the ball and judged there.
    """
    import torchattacks

    maker = getattr(torchattacks, name)
    takes = _takes(name)
    threat, bounded = setting.threat, bool(takes & {"eps", "max_epsilon"})
    given: dict[str, Any] = {"norm": "Linf", "seed": setting.seed, "n_classes": setting.classes}
    if bounded:
        steps = options.get("steps", options.get("num_iter_set", threat.steps))
        given |= {"eps": threat.epsilon, "max_epsilon": threat.epsilon, "steps": steps, "num_iter_set": steps}
        # Wong et al. 2020 (FFGSM) leave the ball by a quarter in their one step.
        given["alpha"] = threat.with_steps(steps).step if "steps" in takes else 1.25 * threat.epsilon
    adversary = maker(setting.victim, **{key: value for key, value in given.items() if key in takes} | options)

    if name == "JSMA":  # It aims at label + 1 modulo 10, whatever the number of classes.
        adversary.set_mode_targeted_by_function(lambda _, labels: (labels + 1) % setting.classes, quiet=True)

    def run(images: Tensor, labels: Tensor) -> Tensor:
        points = adversary(images, labels)
        return points if bounded else threat.project(points.to(images.dtype), images)

    return Plan((run,))


ADVERSARIES: dict[str, Callable[..., Plan]] = {
    "fgsm": _fgsm,
    "pgd": _pgd,
    "cw": _cw,
    "apgd-ce": _apgd_ce,
    "apgd-dlr": _apgd_dlr,
    "apgd-t": _apgd_t,
    "fab-t": _fab_t,
    "square": _square,
}
AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
SAME = {
    "FGSM": "fgsm",
    "PGD": "pgd",
    "APGD": "apgd-ce",
    "APGDT": "apgd-t",
    "FAB": "fab-t",
    "Square": "square",
    "AutoAttack": "autoattack",
}
"""torchattacks' classes that are reached by their repaired form only."""

OTHER_BALL = ("PGDL2", "PGDRSL2")
"""Classes whose epsilon is an L2 radius: a threat in L-infinity says nothing about it."""


def names() -> tuple[str, ...]:
    """Every name of an attack: ours, then the classes of torchattacks."""
    import torchattacks

    classes = set(torchattacks.__all__) - set(torchattacks.__wrapper__) - set(SAME) - set(OTHER_BALL)
    return (*ADVERSARIES, "autoattack", *sorted(classes))


def stages(name: str, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The attacks that a name stands for, each with its options: one, or AutoAttack's four; refuses what none takes."""
    name = SAME.get(name, name)
    if name == "autoattack":
        takes = {"steps", "n_queries"}
        found = {stage: {"n_queries" if stage == "square" else "steps"} for stage in AUTOATTACK}
    elif name in names():
        takes = _takes(name)
        found = {name: takes}
    else:
        raise InputError(f"an attack is one of {', '.join(names())}; got {name!r}")
    if unknown := sorted(set(options) - takes):
        raise InputError(f"the attack {name!r} takes {_listed(takes)}, got the option {unknown[0]!r}")
    return {stage: {key: options[key] for key in options if key in keys} for stage, keys in found.items()}


def plan(name: str, setting: Setting, options: Mapping[str, Any]) -> Plan:
    """The rounds of one attack."""
    build = ADVERSARIES[name] if name in ADVERSARIES else functools.partial(_named, name)
    return build(setting, **options)


def _takes(name: str) -> set[str]:
    if name in ADVERSARIES:
        parameters = inspect.signature(ADVERSARIES[name]).parameters.values()
        return {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
    import torchattacks

    return set(inspect.signature(getattr(torchattacks, name).__init__).parameters) - {"self", "model"}


def _listed(options: Iterable[str]) -> str:
    return f"the options {', '.join(sorted(options))}" if options else "no options"
