"""RC-NAS's reward: robust accuracy against the teacher's, and how far the network is compressed.

The paper (KDD 2024, arXiv 2406.06792) says that its reward balances accuracy, compression and budget and follows N2N;
its formula is not published. `budget` is ours and the default, `n2n` is N2N's, `linear` takes a penalty off.
"""

from __future__ import annotations

from collections.abc import Sequence

BUDGET, N2N, LINEAR = "budget", "n2n", "linear"
REWARDS = (BUDGET, N2N, LINEAR)
PENALTY = 0.2
"""What the whole of a budget costs in the reward `linear`, as a share of the teacher's robust accuracy."""
LEAST_TEACHER = 0.01
"""A teacher's robust accuracy counts as at least this, so that a broken teacher does not blow the reward up."""


def compression(ratios: Sequence[float], teacher: Sequence[float | None]) -> float:
    """C = min(1, (1 - cost / teacher) / (1 - limit / teacher)) over the binding budget, in [0, 1]; 1 without budgets.

    From cost / limit of each budget, of the network and of the teacher; budgets on several devices are several. The
    binding budget is the one with the smallest C. Within every budget C is 1: compressing further earns nothing. Where
    the teacher itself is within a budget, or its cost is not known, C is 1 within it and 0 beyond.
    """
    return min((_towards(*pair) for pair in zip(ratios, teacher, strict=True)), default=1.0)


def _towards(ratio: float, teacher: float | None) -> float:
    """C of one budget from cost / limit of the network and of the teacher."""
    if ratio <= 1.0:
        return 1.0
    return max(0.0, (teacher - ratio) / (teacher - 1.0)) if teacher is not None and teacher > 1.0 else 0.0


def reward(robust: float, teacher_robust: float, compressed: float) -> float:
    """R = (robust / teacher_robust) * C (2 - C), both accuracies as fractions.

    After N2N (Ashok et al., ICLR 2018), which RC-NAS says it follows: R = R_a * R_c with R_c = C (2 - C). Ours is
    the C above, and that no penalty is left to pay: masks keep every episode within the budgets, so that there is no
    overshoot to project back.
    """
    return robust / max(LEAST_TEACHER, teacher_robust) * compressed * (2.0 - compressed)


def reward_of(
    kind: str, robust: float, teacher_robust: float, ratios: Sequence[float], teacher: Sequence[float | None]
) -> float:
    """The reward of one of the `REWARDS`, from cost / limit of each budget, of the network and of the teacher.

    `budget`: as above, so that within the budgets the most robust network is the best. `n2n`: R_a C (2 - C) with
    C = 1 - cost / teacher of the budget that is compressed least, so that compressing further earns more. `linear`:
    R_a - PENALTY max(cost / limit). Without budgets all of them are R_a.
    """
    factor, offset = reward_terms(kind, ratios, teacher)
    return factor * robust / max(LEAST_TEACHER, teacher_robust) + offset


def reward_terms(kind: str, ratios: Sequence[float], teacher: Sequence[float | None]) -> tuple[float, float]:
    """(factor, offset) of a network: its reward is factor * R_a + offset, whatever its accuracy turns out to be."""
    if kind not in REWARDS:
        raise ValueError(f"a reward is one of {', '.join(REWARDS)}, got {kind!r}")
    if kind == LINEAR:
        return 1.0, -PENALTY * max(ratios, default=0.0)
    if kind == BUDGET or not ratios:
        compressed = compression(ratios, teacher)
    else:
        shares = [ratio / whole for ratio, whole in zip(ratios, teacher, strict=True) if whole]
        compressed = max(0.0, 1.0 - max(shares, default=0.0))
    return compressed * (2.0 - compressed), 0.0
