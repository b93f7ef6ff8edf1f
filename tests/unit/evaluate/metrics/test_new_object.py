"""P of the new object, of facts that name no old one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from factedit.evaluate.metric import Answered
from factedit.evaluate.metrics.new_object import NewObject
from factedit.evaluate.probability import Question, Score
from factedit.facts import EditRequest, FactRecord

RECORD = FactRecord(
    case_id="1", request=EditRequest(subject="Paris", prompt="{} is in", target_new="Rome"), paraphrases=("So", "Now")
)


def score(*p: float) -> Score:
    return Score(tuple(math.log(own) for own in p), tuple(False for _ in p))


def test_by_hand() -> None:
    metric = NewObject()
    assert metric.asks(RECORD) == [Question("Paris is in", "Rome"), Question("So", "Rome"), Question("Now", "Rome")]
    assert metric.lacks(RECORD) == ""
    broken = Score((math.nan,), (False,))
    found = metric.scored(Answered(RECORD, [score(0.25, 0.01), score(0.5), broken]))
    assert found.scores == {"new_P": pytest.approx(5.0), "reworded_P": pytest.approx(50.0)}, "√(.25 · .01) and .5"
    assert found.tests == {"new_P": (1, 0), "reworded_P": (1, 1)}
    alone = metric.scored(Answered(replace(RECORD, paraphrases=()), [score(0.5)]))
    assert math.isnan(alone.scores["reworded_P"])
    assert alone.tests["reworded_P"] == (0, 0)
