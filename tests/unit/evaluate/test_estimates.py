"""Means with their intervals, and the headline that is made of several."""

from __future__ import annotations

import math

import numpy as np
import pytest

from factedit.errors import UsageError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.estimates import half_range, harmonic, mean, plus_minus, summarise

S = [COUNTERFACT.headline]


def test_intervals() -> None:
    found = mean([0, 100, 100, 100])
    assert found.value == 75
    assert found.half_width == pytest.approx(1.96 * 50 / 2, rel=1e-3)
    assert math.isnan(mean([5]).half_width)
    with pytest.raises(UsageError, match="no records"):
        mean([])
    with pytest.raises(UsageError, match="no records"):
        summarise([])


def test_s_is_the_harmonic_mean_of_the_means() -> None:
    rows = [{"ES": 100.0, "PS": 50.0, "NS": 80.0}, {"ES": 100.0, "PS": 100.0, "NS": 60.0}]
    found = summarise(rows, S)
    assert found["S"].value == pytest.approx(3 / (1 / 100 + 1 / 75 + 1 / 70))
    assert found["S"].half_width > 0
    assert summarise(rows, S)["S"] == found["S"], "the bootstrap is seeded"
    assert harmonic([100, 0, 50]) == 0


def test_bootstrap_interval_has_the_right_width() -> None:
    """For S of one score three times over it must agree with the normal interval of that score."""
    values = np.random.default_rng(0).normal(70, 10, 400)
    rows = [{"ES": v, "PS": v, "NS": v} for v in values]
    assert summarise(rows, S)["S"].half_width == pytest.approx(mean(list(values)).half_width, rel=0.1)


def test_missing_parts_do_not_count() -> None:
    halves = [{"ES": 1.0, "PS": math.nan, "NS": 1.0}, {"ES": 1.0, "PS": 1.0, "NS": math.nan}]
    assert "S" not in summarise(halves, S), "no record has all three"
    found = summarise([{"PS": 50.0}, {"PS": math.nan}])
    assert (found["PS"].value, found["PS"].n) == (50, 1)


@pytest.mark.parametrize(
    ("value", "half", "decimals", "sign", "expected"),
    [
        (75.04, 9.96, 1, False, "75.0 ±10.0"),
        (75.04, math.nan, 1, False, "75.0"),
        (0.0423, 0.00071, 4, False, "0.0423 ±0.0007"),
        (2.0, 0.5, 1, True, "+2.0 ±0.5"),
        (-2.0, math.nan, 2, True, "-2.00"),
        (math.inf, math.nan, 1, False, "inf"),
        (math.nan, math.nan, 1, False, "nan"),
    ],
)
def test_a_mean_in_words(value: float, half: float, decimals: int, sign: bool, expected: str) -> None:
    assert plus_minus(value, half, decimals, sign=sign) == expected


def test_one_record_has_no_interval_wherever_it_is_told() -> None:
    alone = mean([5])
    assert str(alone) == alone.told() == f"{alone}" == "5.0"
    assert alone.told(3) == "5.000"
    assert str(mean([5, 6])) == f"5.5 ±{1.959964 * 0.5**0.5 / 2**0.5:.1f}"


def test_means_are_summed_exactly_and_infinities_have_no_interval() -> None:
    assert mean([1e16, 1.0, -1e16]).value == pytest.approx(1 / 3)
    endless = mean([math.inf, 1.0])
    assert endless.value == math.inf
    assert math.isnan(endless.half_width)


def test_a_headline_of_one_record_has_no_interval_and_a_zero_makes_it_zero() -> None:
    [headline] = S
    row = {"ES": 60.0, "PS": 30.0, "NS": 20.0}
    one = headline.estimate([row], seed=0)
    assert one.value == pytest.approx(3 / (1 / 60 + 1 / 30 + 1 / 20))
    assert math.isnan(one.half_width)
    assert headline.estimate([{**row, "PS": 0.0}] * 3, seed=0).value == 0
    assert harmonic([-5.0, 50.0]) == 0, "a margin below zero has no harmonic mean"
    assert not headline.is_of({"ES": 1.0, "PS": 1.0}), "a part that is missing"


def test_the_middle_of_resamples() -> None:
    """Of 0 … 1000 the middle 95 % are 25 … 975, half of which is 475."""
    drawn = np.arange(1001.0)
    assert half_range(drawn, 2) == pytest.approx(475)
    assert math.isnan(half_range(drawn, 1))


def test_an_empty_column_is_no_column() -> None:
    found = summarise([{"a": math.nan}, {"b": 1.0}])
    assert list(found) == ["b"]
    assert found["b"].n == 1
