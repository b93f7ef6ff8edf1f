"""Words for several metrics, and what every metric must tell."""

from __future__ import annotations

import math

import pytest

from factedit.errors import UnknownName
from factedit.evaluate.metrics.table import METRICS, WORDS, find_metric, named_metrics
from factedit.work.lists import list_metrics
from run_command import ok


def test_words_stand_for_several_and_each_comes_once() -> None:
    assert named_metrics(["paper"]) == ["free", "generation-entropy", "consistency"]
    assert named_metrics(["negation", "paper", "free"]) == ["negation", "free", "generation-entropy", "consistency"]
    assert named_metrics(["all"]) == list(METRICS)
    assert not WORDS.keys() & METRICS.keys()


def test_a_wrong_name_is_answered_with_the_words_too() -> None:
    with pytest.raises(UnknownName, match=r"Unknown metric 'papers'. Did you mean paper"):
        find_metric("papers")


def test_every_score_has_a_name_of_its_own_a_direction_a_range_and_a_source() -> None:
    columns = [column for metric in METRICS.values() for column in metric.columns]
    assert len({column.name for column in columns}) == len(columns)
    for metric in METRICS.values():
        assert metric.source
        for column in metric.columns:
            assert column.what
            assert column.source, column.name
            assert column.better in ("higher", "lower")
            assert column.low < column.high
    assert {column.name for column in columns if column.better == "lower"} == {
        "written_repeats", "written_specials", "NKL", "NKL+", "negated_opens", "multihop_old", "panel_kl",
        "ability_changed",
    }  # fmt: skip
    assert {column.name for column in columns if math.isinf(column.high)} == {"GE", "NKL", "NKL+", "panel_kl"}
    assert {column.high for column in columns} == {100.0, math.inf}, "shares in percent, but for bits and nats"
    assert {column.low for column in columns} == {0.0}
    needs = {column.name: column.needs for column in columns if column.needs}
    assert needs == dict.fromkeys(("multihop", "multihop_old"), ("multihop_unedited", 10.0))


def test_they_are_listed() -> None:
    text = ok("metrics")
    for name in ("written", "pressure", "negation", "same-subject", "paper", "NKL+", "bare_exact"):
        assert name in text


def test_each_tells_its_protocol() -> None:
    rows = list_metrics()
    assert rows.keys() == METRICS.keys()
    assert all(len(row["protocol"]) > 100 and row["source"] for row in rows.values())
    told = " ".join(ok("metrics", "ripple").split())
    assert "A probe counts only where the unedited model answers its condition" in told
    assert "arXiv 2307.12976" in told
    assert all(column.name in told for column in METRICS["ripple"].columns)
