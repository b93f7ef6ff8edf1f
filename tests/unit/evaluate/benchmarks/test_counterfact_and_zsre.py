"""The two benchmarks' scores by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from factedit.errors import RequestError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT, pairs
from factedit.evaluate.benchmarks.zsre import ZSRE
from factedit.evaluate.probability import Score
from factedit.facts import EditRequest, FactRecord

REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Spain", target_true="France")
RECORD = FactRecord(case_id="1", request=REQUEST, paraphrases=("a", "b"), neighborhood=("c", "d", "e"))


def p(probability: float) -> Score:
    return Score((math.log(probability),), (probability > 0.5,))


def test_counterfact_by_hand() -> None:
    asked = COUNTERFACT.questions(RECORD)
    assert [q.prompt for q in asked] == ["Paris is in"] * 2 + ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"]
    assert [q.answer for q in asked[:2]] == ["Spain", "France"]
    new_true = [(0.6, 0.1), (0.3, 0.2), (0.1, 0.2), (0.1, 0.4), (0.5, 0.5), (0.3, 0.2)]
    found = COUNTERFACT.numbers(RECORD, [p(x) for pair in new_true for x in pair])
    assert found["ES"] == 100
    assert found["EM"] == pytest.approx(50)
    assert found["PS"] == 50
    assert found["PM"] == pytest.approx(0, abs=1e-6)
    assert found["NS"] == pytest.approx(100 / 3), "a tie is no success"
    assert found["NM"] == pytest.approx(100 * (0.3 + 0 - 0.1) / 3)


def test_zsre_by_hand() -> None:
    record = FactRecord(case_id="1", request=REQUEST, paraphrases=("a",), neighborhood=("b?",), loc_answer="soleus")
    assert [(q.prompt, q.answer) for q in ZSRE.questions(record)] == [
        ("Paris is in", "Spain"), ("a", "Spain"), ("b?", "soleus"),
    ]  # fmt: skip
    scores = [Score((-1, -1), (True, True)), Score((-1, -1), (True, False)), Score((-1, -1, -1), (False, False, True))]
    found = ZSRE.numbers(record, scores)
    assert found == {"efficacy": 100, "paraphrase": 50, "specificity": pytest.approx(100 / 3)}


def test_a_record_without_a_rival_is_refused() -> None:
    lonely = FactRecord(case_id="7", request=EditRequest(subject="a", prompt="{}", target_new="b"))
    with pytest.raises(RequestError, match="Record 7 has no target_true"):
        COUNTERFACT.questions(lonely)
    with pytest.raises(RequestError, match="Record 7 has no loc_answer, which zsre asks for"):
        ZSRE.questions(lonely)


def test_a_record_without_other_prompts_has_no_score_for_them() -> None:
    """NaN, not zero: no paraphrase was asked, so none failed."""
    alone = FactRecord(case_id="1", request=REQUEST)
    assert math.isnan(pairs([], [])[0])
    assert {name for name, value in COUNTERFACT.numbers(alone, [p(0.6), p(0.1)]).items() if math.isnan(value)} == {
        "PS", "PM", "NS", "NM",
    }  # fmt: skip


def test_answers_far_below_what_floating_point_holds_are_told_apart() -> None:
    """Both probabilities are 0.0 in float32 (and 1e-400 in float64); which is likelier is told by the logarithms."""
    likelier, other = Score((-1000.0,), (False,)), Score((-1001.0,), (False,))
    assert likelier.probability == other.probability == 0.0
    record = FactRecord(case_id="1", request=REQUEST, paraphrases=("a",), neighborhood=("c", "d"))
    found = COUNTERFACT.numbers(record, [likelier, other, other, likelier, other, likelier, likelier, other])
    assert (found["ES"], found["PS"], found["NS"]) == (100, 0, 50)
    assert (found["EM"], found["PM"], found["NM"]) == (0, 0, 0)


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_what_is_not_finite_is_not_executed_in_success_and_magnitude_alike(broken: float) -> None:
    bad, record = Score((broken, -1.0), (False, True)), replace(RECORD, paraphrases=("a",))
    scores = [p(0.6), p(0.1), p(0.3), bad, bad, p(0.1), p(0.1), p(0.4), p(0.5), p(0.6)]
    found, tests = COUNTERFACT.numbers(record, scores), COUNTERFACT.tests(record, scores)
    assert (found["ES"], found["NS"]) == (100, 100)
    assert found["NM"] == pytest.approx(20)
    assert math.isnan(found["PS"])
    assert math.isnan(found["PM"])
    assert tests["ES"] == tests["EM"] == tests["efficacy_tokens"] == (1, 0)
    assert tests["PS"] == tests["PM"] == (0, 1)
    assert tests["NS"] == tests["NM"] == (2, 1)
    asked = FactRecord(case_id="1", request=REQUEST, paraphrases=("a",), neighborhood=("b?",), loc_answer="soleus")
    answered = [bad, Score((-1.0, -1.0), (True, False)), bad]
    assert ZSRE.numbers(asked, answered)["paraphrase"] == 50
    assert math.isnan(ZSRE.numbers(asked, answered)["specificity"])
    assert ZSRE.tests(asked, answered) == {"efficacy": (0, 1), "paraphrase": (1, 0), "specificity": (0, 1)}
