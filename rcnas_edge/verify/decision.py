"""From what the attacks left to a decision: robust, not robust, or inconclusive, and why.

How it decides, in this order:

1. A gate that is asked for and not met makes it "not robust", whatever else happened: attacks can only overrate a
   network, so a rate that is too low stays too low. Both gates are decided on the measured value, and the reason shows
   the 95 % interval: `min_robust` on the robust accuracy (value >= min), `max_robust_drop` on the paired loss against
   the reference, the teacher (value <= max). The reference meets the headline only, the artefact more than that, so
   the loss is, if anything, overstated.
2. It is "inconclusive" without a differentiable twin (no white-box attack was possible), without parity (the attacked
   network is not the artefact), with any flag raised (the attacks may have been misled), or if a gate could not be
   checked.
3. With gates, "robust": all of them are met.
4. Without gates the question is what the export cost: "robust" is non-inferior to the checkpoint, by the upper bound of
   the loss (Wellek 2010) below the level's margin, and above guessing; "not robust" a loss above the margin, or no
   better than guessing; and "inconclusive" where n is too small to tell. Where nobody gave a checkpoint and the twin
   was read back from the file, there is no loss, and above guessing is all that can be asked.

How outputs were repaired before they were attacked is said at the end of the reasons.
"""

from __future__ import annotations

from rcnas_edge.verdict import INCONCLUSIVE, NOT_ROBUST, ROBUST, Findings, Gates


def decide(found: Findings, gates: Gates, margin: float) -> tuple[str, tuple[str, ...]]:
    """The decision and its reasons, one sentence each, in the order of this module's opening."""
    decision, reasons = _decided(found, gates, margin)
    return decision, (*reasons, *found.repairs)


def _decided(found: Findings, gates: Gates, margin: float) -> tuple[str, tuple[str, ...]]:
    met, failed, unchecked = _gates(found, gates)
    doubts = _doubts(found) + unchecked
    if failed:
        return NOT_ROBUST, (*failed, *met, *doubts)
    if doubts:
        return INCONCLUSIVE, (*doubts, *met)
    if met:
        return ROBUST, tuple(met)
    return _without_gates(found, margin)


def _gates(found: Findings, gates: Gates) -> tuple[list[str], list[str], list[str]]:
    """Sentences about gates that are met, that failed, and that could not be checked."""
    met: list[str] = []
    failed: list[str] = []
    unchecked: list[str] = []
    if gates.min_robust is not None:
        asked = f"{100 * gates.min_robust:g} %"
        if found.robust.value >= gates.min_robust:
            doubt = (
                "" if found.robust.low >= gates.min_robust else f", although n = {found.n} leaves less than that open"
            )
            met.append(f"robust accuracy {found.robust} reaches the {asked} asked for{doubt}")
        else:
            failed.append(f"robust accuracy {found.robust} is below the {asked} asked for")
    if gates.max_robust_drop is not None:
        asked = f"{100 * gates.max_robust_drop:g} points"
        if found.reference is None:
            unchecked.append(f"a loss of at most {asked} was asked for and there is no reference to lose against")
        elif found.reference.loss.value <= gates.max_robust_drop:
            loss = found.reference.loss
            doubt = "" if loss.high <= gates.max_robust_drop else f", although n = {found.n} leaves more than that open"
            met.append(f"robust accuracy lost against the reference, {loss}, is within the {asked} allowed{doubt}")
        else:
            failed.append(
                f"robust accuracy lost against the reference, {found.reference.loss}, is above the {asked} allowed"
            )
    return met, failed, unchecked


def _doubts(found: Findings) -> list[str]:
    """Why the robust accuracy may be less than what was measured."""
    doubts = []
    if found.parity is None:
        doubts.append(
            "there is no differentiable twin, so no white-box attack was possible and robustness is not shown"
        )
    if found.parity_fault:
        doubts.append(f"parity failed, so the attacked network is not the artefact: {found.parity_fault}")
    if found.flags:
        count = len(found.flags)
        doubts.append(f"{count} flag{'s' if count > 1 else ''} raised, so the attacks may have been misled (see flags)")
    return doubts


def _without_gates(found: Findings, margin: float) -> tuple[str, tuple[str, ...]]:
    if found.robust.low <= 1 / found.classes:
        return NOT_ROBUST, (
            f"no gate was asked; robust accuracy {found.robust} is not above guessing among {found.classes} classes",
        )
    if found.checkpoint is None:
        return ROBUST, (
            f"no gate was asked, and no checkpoint given to lose against; robust accuracy {found.robust} is above "
            f"guessing among {found.classes} classes",
        )
    loss, points = found.checkpoint.loss, f"{100 * margin:g} points"
    if loss.value > margin:
        return NOT_ROBUST, (f"robust accuracy lost against the checkpoint, {loss}, is above {points}",)
    if loss.high > margin:
        return INCONCLUSIVE, (
            f"robust accuracy lost against the checkpoint, {loss}, may be above {points}: n = {found.n} images are too "
            "few to tell",
        )
    return ROBUST, (
        f"no gate was asked; robust accuracy {found.robust} is not inferior to the checkpoint's (loss {loss}, its "
        f"upper bound within {points})",
    )
