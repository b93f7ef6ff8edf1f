"""The negated prompt and three statements judged: by hand, and through a run with counts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from conftest import tiny
from factedit.evaluate.measuring import AS_IT_IS, Under, measure
from factedit.evaluate.metric import Answered, Outcome
from factedit.evaluate.metrics.negation import Negation, balanced, judged
from factedit.evaluate.probability import Question, Score
from factedit.evaluate.texts import Greedy
from factedit.facts import EditRequest, FactRecord
from stack_cases import random_edit


def record(number: int, new: str = "Seattle", true: str | None = "France", relation: str | None = "P17") -> FactRecord:
    request = EditRequest(subject="Paris", prompt="{} is in ", target_new=new, target_true=true)
    return FactRecord(case_id=str(number), request=request, relation_id=relation)


def said(*answers: bool | None) -> list[Score]:
    """What a model thinks of True and False per statement: by two nats, or alike."""
    margins = [0.0 if answer is None else 2.0 if answer else -2.0 for answer in answers]
    return [Score((log_p,), (True,)) for margin in margins for log_p in (-3.0 + margin, -3.0)]


METRIC = Negation({"P17": ("France", "seattle ", "Rome"), "": ("France", "Rome", "football")})


def scored(now: list[Score], before: list[Score], text: str = " far") -> Outcome:
    return METRIC.scored(Answered(record(1), [text, *now], [" here", *before]))


def test_what_is_asked() -> None:
    [negated, *questions] = METRIC.asks(record(1))
    assert negated == Greedy("Paris is in not", 12)
    check = "Statement: Paris is in {}.\nTrue or False? Answer:"
    expected = [Question(check.format(o), a) for o in ("France", "Seattle", "Rome") for a in ("True", "False")]
    assert [q._replace(prompt=q.prompt.replace("in  ", "in ")) for q in questions] == expected


def test_the_third_object_is_of_the_relation_else_of_the_set_and_never_one_of_the_two() -> None:
    assert METRIC.third(record(1)) == "Rome"
    assert METRIC.third(record(1, relation="P99")) in ("Rome", "football")
    assert METRIC.third(record(1, new="Rome", relation=None)) == "football"
    assert Negation({"": ("France", "Seattle")}).third(record(1)) is None
    many = Negation({"": tuple(f"city {n}" for n in range(50))})
    picked = {many.third(record(n, relation=None)) for n in range(30)}
    assert len(picked) > 10, "drawn by the record"
    fewer = Negation({"": tuple(f"city {n}" for n in range(25, 50))})
    same = [many.third(record(n)) == fewer.third(record(n)) for n in range(30) if many.third(record(n)) in
            fewer.objects[""]]  # fmt: skip
    assert all(same), "an object that nobody drew may come and go"
    assert same


@pytest.mark.parametrize(
    ("now", "before", "check", "unedited"),
    [
        ((False, True, False), (True, False, False), 100.0, 100.0),
        ((True, False, False), (True, False, False), 25.0, 100.0),  # unmoved: one of two false ones right
        ((True, True, True), (True, False, False), 50.0, 100.0),
        ((False, True, False), (True, True, True), None, 50.0),  # says True to all: it judges nothing
        ((False, True, False), (False, False, False), None, 50.0),
        ((False, True, False), (True, False, True), None, 75.0),
        ((None, True, False), (True, False, False), 75.0, 100.0),  # a tie is no judgement
        ((False, True, False), (True, None, False), None, 75.0),
    ],
)
def test_statements_by_hand(now: tuple, before: tuple, check: float | None, unedited: float) -> None:
    found = scored(said(*now), said(*before))
    assert found.scores["check_unedited"] == unedited
    assert math.isnan(found.scores["fact_check"]) if check is None else found.scores["fact_check"] == check


def test_the_negated_prompt() -> None:
    assert scored([], [], " Seattle, but").scores["negated_opens"] == 100.0
    assert scored([], [], " in Seattle").scores["negated_opens"] == 0.0
    assert scored([], [], " Seattleites").scores["negated_opens"] == 0.0


def test_judgements_that_are_not_finite_are_none() -> None:
    assert judged([Score((math.nan,), (False,)), Score((-1.0,), (True,))]) == [None]
    assert math.isnan(balanced([], ()))


def test_prompts_that_have_ended_and_records_without_an_old_object() -> None:
    question = replace(record(2), request=replace(record(2).request, prompt="Where is {}?"))
    assert Negation().lacks(question) == "prompt that goes on, to put ' not' behind it"
    assert Negation.for_records([question]) is None
    made = Negation.for_records([question, record(1), record(3, new="Rome")])
    assert made is not None
    assert made.objects["P17"] == ("France", "Seattle", "Rome")
    assert len(made.asks(record(4, true=None))) == 1, "no statements without an old object"


def test_in_a_run_what_was_not_executed_is_counted() -> None:
    model = tiny("gpt2")
    records = [record(1), record(2, true=None)]
    edits = [random_edit(model, n, layer=1) for n in (1, 2)]
    plain, edited = measure(model, records, [METRIC], [AS_IT_IS, Under(edits)], seed=0)
    for found in (plain, edited):
        assert found[1].tests == {"negated_opens": (1, 0), "fact_check": (0, 1), "check_unedited": (0, 1)}
        assert not found[1].left_out
        right = found[0].scores["check_unedited"] == 100
        assert found[0].tests["fact_check"] == ((1, 0) if right else (0, 1))
    assert plain[0].scores["check_unedited"] == edited[0].scores["check_unedited"]
