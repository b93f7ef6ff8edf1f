"""Differences between methods, record by record, against the formulas written out."""

from __future__ import annotations

import math
import statistics

import pytest

from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.compare import compare
from factedit.evaluate.estimates import Headline
from factedit.trace.effects import Z95

HEADLINE = Headline("S", "of both", ("ES", "NS"))
ROWS = {
    UNEDITED: {"1": {"ES": 10.0, "NS": 80.0}, "2": {"ES": 30.0, "NS": 90.0}, "3": {"ES": 20.0, "NS": 70.0}},
    "a": {"1": {"ES": 90.0, "NS": 79.0}, "2": {"ES": 80.0, "NS": 85.0}, "3": {"ES": 95.0, "NS": 71.0}},
    "b": {"1": {"ES": 50.0, "NS": 80.0}, "2": {"ES": 40.0, "NS": 90.0}, "4": {"ES": 100.0, "NS": 100.0}},
}


def test_a_change_is_the_mean_of_the_differences_of_the_records_that_both_have() -> None:
    found = compare(ROWS).change
    differences = [80.0, 50.0, 75.0]
    estimate = found["a"]["ES"]
    assert estimate.value == pytest.approx(statistics.mean(differences))
    assert estimate.half_width == pytest.approx(Z95 * statistics.stdev(differences) / math.sqrt(3))
    assert estimate.n == 3
    assert (found["b"]["NS"].value, found["b"]["NS"].n) == (0.0, 2), "record 4 has no unedited score"
    assert UNEDITED not in found


def test_the_best_is_ranked_over_the_records_that_all_methods_have() -> None:
    found = compare(ROWS, HEADLINE)
    assert found.best == "a"

    def harmonic(method: str) -> float:
        es, ns = (statistics.mean(ROWS[method][record][name] for record in ("1", "2")) for name in ("ES", "NS"))
        return 2 / (1 / es + 1 / ns)

    assert found.behind["a"].value == 0.0
    assert found.behind["a"].half_width == 0.0, "a method is not behind itself in any resample"
    assert found.behind["b"].value == pytest.approx(harmonic("a") - harmonic("b"))
    assert found.behind["b"].n == 2


def test_a_score_that_a_record_lacks_is_left_out_of_the_difference() -> None:
    rows = {UNEDITED: {"1": {"GE": 600.0}, "2": {"GE": math.nan}}, "a": {"1": {"GE": 610.0}, "2": {"GE": 620.0}}}
    estimate = compare(rows).change["a"]["GE"]
    assert (estimate.value, estimate.n) == (10.0, 1)
    assert math.isnan(estimate.half_width)
    rows["a"]["1"]["GE"] = math.nan
    assert compare(rows).change["a"] == {}


def test_without_common_records_there_is_no_best() -> None:
    rows = {"a": {"1": {"ES": 1.0, "NS": 2.0}}, "b": {"2": {"ES": 1.0, "NS": 2.0}}}
    found = compare(rows, HEADLINE)
    assert (found.best, found.behind, found.change) == (None, {}, {})
    assert compare(ROWS).best is None, "nothing is ranked without a headline"


def test_the_seed_draws_the_same_records_for_every_method() -> None:
    rows = {"a": ROWS["a"], "same": ROWS["a"]}
    behind = compare(rows, HEADLINE, seed=5).behind
    assert {name: (own.value, own.half_width) for name, own in behind.items()} == {"a": (0, 0), "same": (0, 0)}
