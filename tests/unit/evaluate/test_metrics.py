"""The scores by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from factedit.errors import RequestError, UsageError
from factedit.evaluate.case import numbers, questions
from factedit.evaluate.free import entropy, free_match, generation_entropy
from factedit.evaluate.metrics import harmonic, mean, pairs, summarise
from factedit.evaluate.probability import Score
from factedit.facts import EditRequest, FactRecord

REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Spain", target_true="France")
RECORD = FactRecord(case_id="1", request=REQUEST, paraphrases=("a", "b"), neighborhood=("c", "d", "e"))


def p(probability: float) -> Score:
    return Score((math.log(probability),), (probability > 0.5,))


def test_counterfact_by_hand() -> None:
    asked = questions(RECORD)
    assert [q.prompt for q in asked] == ["Paris is in"] * 2 + ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    assert [q.answer for q in asked[:2]] == ["Spain", "France"]
    new_true = [(0.6, 0.1), (0.3, 0.2), (0.1, 0.2), (0.1, 0.4), (0.5, 0.5), (0.3, 0.2)]
    found = numbers(RECORD, [p(x) for pair in new_true for x in pair])
    assert found["ES"] == 100
    assert found["EM"] == pytest.approx(50)
    assert found["PS"] == 50
    assert found["PM"] == pytest.approx(0, abs=1e-6)
    assert found["NS"] == pytest.approx(100 / 3), "a tie is no success"
    assert found["NM"] == pytest.approx(100 * (0.3 + 0 - 0.1) / 3)


def test_zsre_by_hand() -> None:
    record = FactRecord(case_id="1", request=REQUEST, paraphrases=("a",), neighborhood=("b?",), loc_answer="soleus")
    assert [(q.prompt, q.answer) for q in questions(record)] == [
        ("Paris is in", "Spain"), ("a", "Spain"), ("b?", "soleus"),
    ]  # fmt: skip
    scores = [Score((-1, -1), (True, True)), Score((-1, -1), (True, False)), Score((-1, -1, -1), (False, False, True))]
    found = numbers(record, scores)
    assert found == {"efficacy": 100, "paraphrase": 50, "specificity": pytest.approx(100 / 3)}


def test_a_record_without_a_rival_is_refused() -> None:
    lonely = FactRecord(case_id="7", request=EditRequest(subject="a", prompt="{}", target_new="b"))
    with pytest.raises(RequestError, match="Record 7 has no target_true"):
        questions(lonely)


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
    found = summarise(rows)
    assert found["S"].value == pytest.approx(3 / (1 / 100 + 1 / 75 + 1 / 70))
    assert found["S"].half_width > 0
    assert summarise(rows)["S"] == found["S"], "the bootstrap is seeded"
    assert harmonic([100, 0, 50]) == 0


def test_bootstrap_interval_has_the_right_width() -> None:
    """For S of one score three times over it must agree with the normal interval of that score."""
    values = np.random.default_rng(0).normal(70, 10, 400)
    rows = [{"ES": v, "PS": v, "NS": v} for v in values]
    assert summarise(rows)["S"].half_width == pytest.approx(mean(list(values)).half_width, rel=0.1)


def test_missing_parts_do_not_count() -> None:
    halves = [{"ES": 1.0, "PS": math.nan, "NS": 1.0}, {"ES": 1.0, "PS": 1.0, "NS": math.nan}]
    assert "S" not in summarise(halves), "no record has all three"
    found = summarise([{"PS": 50.0}, {"PS": math.nan}])
    assert (found["PS"].value, found["PS"].n) == (50, 1)
    assert pairs([], [])[0] != pairs([], [])[0]


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        (" Paris, the capital. And", "Paris", True),
        ("paris", "Paris", True),
        ("Parisian", "Paris", False),
        ("\nParis", "Paris", True),
        ("the city of Paris", "Paris", False),
        (" New York City", "New York", True),
        (" St. Louis, where", "St. Louis", True),
        (" St. Paul", "St. Louis", False),
    ],
)
def test_free_match(text: str, target: str, expected: bool) -> None:
    assert free_match(text, target) is expected


def test_entropy_by_hand() -> None:
    assert entropy("a b a b a", 2) == pytest.approx(1.0)
    assert entropy("a a a a", 2) == 0
    trigrams = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))  # aba twice, bab once
    assert generation_entropy(["a b a b a"]) == pytest.approx(100 * (2 / 3 * 1.0 + 4 / 3 * trigrams) / 2)
