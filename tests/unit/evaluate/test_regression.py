"""R² and F of two linear models against numbers worked out by hand and distributions with closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from factedit.errors import UsageError
from factedit.evaluate.regression import SHUFFLES, f_tail, fit


def test_r_squared_and_f_by_hand() -> None:
    """Two layers, four facts. Layer 0: success 0 1 2 3 at effects 0 1 2 3 (a line, nothing left). Layer 1: success 4 6
    4 6 at effects 0 1 2 3: mean 5, slope Σ(x−1.5)(y−5)/5 = 2/5, explained 0.4² · 5 = 0.8 of 4.

    All: mean 3.25, Σ(y − 3.25)² = 118 − 8 · 3.25² = 33.5. Within layers 5 + 4 = 9 is left by their means, 3.2 by their
    lines. On the effect alone: slope (5 + 2)/10 = 0.7, explained 0.7² · 10 = 4.9.
    """
    success, effect = [[0, 4], [1, 6], [2, 4], [3, 6]], [[0, 0], [1, 1], [2, 2], [3, 3]]
    found = fit(success, effect)
    assert (found.n, found.facts, found.degrees) == (8, 4, (2, 4))
    assert found.layer == pytest.approx(1 - 9 / 33.5)
    assert found.both == pytest.approx(1 - 3.2 / 33.5)
    assert found.gain == pytest.approx(5.8 / 33.5)
    assert found.effect == pytest.approx(4.9 / 33.5)
    assert found.f == pytest.approx((5.8 / 2) / (3.2 / 4))
    assert found.p == pytest.approx((1 + 2 * 3.625 / 4) ** -2), "the closed form for two degrees of freedom"
    assert fit(success, effect) == found


def test_numbers_that_are_missing_are_left_out() -> None:
    success = [[0, 4], [1, 6], [2, 4], [3, 6], [math.nan, 9], [5, 9]]
    effect = [[0, 0], [1, 1], [2, 2], [3, 3], [7, math.nan], [math.nan, math.inf]]
    found = fit(success, effect)
    assert (found.n, found.facts, found.both) == (8, 4, pytest.approx(1 - 3.2 / 33.5))


@pytest.mark.parametrize(("f", "more", "rest", "p"), [(4.9646, 1, 10, 0.05), (2.5336, 5, 30, 0.05), (3.0, 1, 1, 1 / 3)])
def test_tails_of_f(f: float, more: int, rest: int, p: float) -> None:
    """Tabled critical values, and 1 − 2/π arctan √F for one and one degree of freedom."""
    assert f_tail(f, more, rest) == pytest.approx(p, abs=1e-5)


@pytest.mark.parametrize("rest", [1, 3, 8, 50, 4000])
@pytest.mark.parametrize("f", [0.0, 1e-6, 0.3, 2.0, 40.0])
def test_tails_of_f_with_two_degrees_of_freedom(f: float, rest: int) -> None:
    assert f_tail(f, 2, rest) == pytest.approx((1 + 2 * f / rest) ** (-rest / 2), rel=1e-8)
    assert math.isnan(f_tail(math.nan, 2, rest))


def test_the_permutation_test_deals_out_whole_facts() -> None:
    """Success hangs on the effect: no deal does as well. It hangs on the fact alone: many deals do."""
    drawn = np.random.default_rng(0)
    effect = drawn.random((14, 12))
    told = fit(effect + 0.1 * drawn.random((14, 12)), effect)
    assert told.gain > 0.5
    assert told.shuffled == 1 / (SHUFFLES + 1)
    own, other = drawn.random((14, 1)), drawn.random((14, 1))
    blind = fit(own + 0.05 * drawn.random((14, 12)), other + 0.05 * drawn.random((14, 12)))
    assert blind.shuffled > 0.05
    two = fit([[0, 4], [1, 6]], [[0, 1], [1, 0]])
    assert two.shuffled == 1.0, "of two facts both deals explain all"


def test_where_there_is_nothing_to_explain() -> None:
    for success in ([[1.0, 2.0]], [[1.0], [2.0]], [[1.0, 1.0], [1.0, 1.0]], [[math.nan, 1.0], [math.nan, 2.0]]):
        with pytest.raises(UsageError, match="leave nothing to explain: trace and edit at least two facts"):
            fit(success, [[0.0] * len(success[0])] * len(success))
    exact = fit([[0, 1], [1, 2]], [[0, 0], [1, 1]])
    assert math.isnan(exact.f)
    assert math.isnan(exact.p)
