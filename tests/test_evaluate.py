"""Intervals of paired differences: the bootstrap is the one by resampled examples, and both kinds agree."""

from __future__ import annotations

import numpy as np
import pytest

from rcnas_edge.evaluate import Interval, mcnemar, paired_bootstrap, paired_difference


def flags(only_first: int, only_second: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models on the same examples, so many of which only one, both or neither gets right."""
    counts = (only_first, only_second, both, neither)
    return np.repeat([True, False, True, False], counts), np.repeat([False, True, True, False], counts)


@pytest.mark.parametrize("cells", [(30, 10, 400, 60), (3, 0, 50, 7), (8, 8, 40, 44)])
def test_the_bootstrap_is_that_of_resampled_examples(cells):
    """Against the plain form: draw n examples with replacement, 4,000 times, and take the quantiles of the mean."""
    first, second = flags(*cells)
    n = len(first)
    draw = np.random.default_rng(1)
    apart = first.astype(int) - second.astype(int)
    means = [apart[draw.integers(0, n, n)].mean() for _ in range(4000)]
    found = paired_bootstrap(first, second)
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=1.5 / n)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=1.5 / n)


def test_the_bootstrap_depends_on_the_seed_alone_and_not_on_the_order():
    first, second = flags(30, 10, 400, 60)
    order = np.random.default_rng(0).permutation(len(first))
    assert paired_bootstrap(first, second) == paired_bootstrap(first[order], second[order])
    assert paired_bootstrap(first, second, resamples=500) != paired_bootstrap(first, second, resamples=500, seed=1)
    assert paired_bootstrap(first, first) == Interval(0.0, 0.0)
    with pytest.raises(ValueError, match="one shape"):
        paired_bootstrap(first, second[1:])


def test_both_intervals_and_the_test_agree_where_n_is_large():
    first, second = flags(300, 200, 400, 100)
    value, low, high = paired_difference(first, second)
    found = paired_bootstrap(first, second)
    assert value == pytest.approx(0.1)
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.004)
    assert (low > 0) == (mcnemar(first, second) < 0.05)
