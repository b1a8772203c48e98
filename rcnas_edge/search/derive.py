"""From values per pick to one architecture within the budgets: argmax, then take back what loses least."""

from __future__ import annotations

from collections.abc import Sequence

from rcnas_edge.search.cached import CachedBench
from rcnas_edge.search.protocol import Bench
from rcnas_edge.space import Architecture


def derive(values: Sequence[Sequence[float]], bench: Bench) -> Architecture:
    """The picks of highest value; while over budget, the change that loses least value per unit of excess saved.

    `values` holds one number per option of each gene. The excess is the sum over the budgets of
    max(0, cost / limit - 1), so several budgets share one unit. Ends always: every change lowers the excess of a finite
    space; where no single change does, the genes go one by one, the least loss first, to the picks of the cheapest
    architecture, which fits. BudgetError if even that one does not.
    """
    genes = bench.space.genes
    if [len(row) for row in values] != [len(gene.options) for gene in genes]:
        raise ValueError(
            f"values have one number per option of each gene, {[len(gene.options) for gene in genes]}, "
            f"got {[len(row) for row in values]}"
        )
    known = CachedBench.of(bench)
    picks = [max(range(len(row)), key=row.__getitem__) for row in values]
    while not known.fits(Architecture(tuple(picks))) and (change := _least_loss(values, picks, known)) is not None:
        picks[change[0]] = change[1]
    while not known.fits(Architecture(tuple(picks))):
        position, pick = _towards_cheapest(values, picks, known)
        picks[position] = pick
    return Architecture(tuple(picks))


def _least_loss(values: Sequence[Sequence[float]], picks: list[int], known: CachedBench) -> tuple[int, int] | None:
    """The (gene, pick) that loses least value per unit of excess saved, or None if no change saves any."""
    before = known.excess(Architecture(tuple(picks)))
    best, best_price = None, float("inf")
    for position, row in enumerate(values):
        for pick in range(len(row)):
            saved = before - known.excess(Architecture((*picks[:position], pick, *picks[position + 1 :])))
            if saved <= 1e-12 * (1.0 + before):  # rounding is no saving, or two networks could alternate for ever
                continue
            price = (row[picks[position]] - row[pick]) / saved
            if best is None or price < best_price:
                best, best_price = (position, pick), price
    return best


def _towards_cheapest(values: Sequence[Sequence[float]], picks: list[int], known: CachedBench) -> tuple[int, int]:
    goal = known.cheapest.picks
    apart = [position for position, pick in enumerate(picks) if pick != goal[position]]
    position = min(apart, key=lambda position: values[position][picks[position]] - values[position][goal[position]])
    return position, goal[position]
