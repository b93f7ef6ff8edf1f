"""Means with their intervals, and the headline that is made of several."""

from __future__ import annotations

import math

import numpy as np
import pytest

from factedit.errors import UsageError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.estimates import harmonic, mean, summarise

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
