"""What every metric must not do: pass whatever is written, find the answer in the prompt, count what was not executed.

Each figure is worked out in the test; `docs/metric_mutants.py` breaks each metric in these ways and sees a test fail.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from conftest import tiny
from factedit.data.cases import CaseRecord, Hop
from factedit.data.probes import Condition, Probe, ProbedRecord
from factedit.evaluate.ability.items import AbilityItem
from factedit.evaluate.judge import Judgement
from factedit.evaluate.measuring import AS_IT_IS, Under, measure
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.metrics.ability import Ability
from factedit.evaluate.metrics.consistency import Consistency, own_references
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.generation_entropy import GenerationEntropy
from factedit.evaluate.metrics.judged import Judged
from factedit.evaluate.metrics.multihop import MultiHop
from factedit.evaluate.metrics.negation import Negation
from factedit.evaluate.metrics.new_object import NewObject
from factedit.evaluate.metrics.panel import PanelFacts
from factedit.evaluate.metrics.portability import Portability
from factedit.evaluate.metrics.pressure import DISTRACTIONS, Pressure
from factedit.evaluate.metrics.ripple import Ripple
from factedit.evaluate.metrics.same_subject import SameSubject
from factedit.evaluate.metrics.table import METRICS
from factedit.evaluate.metrics.written import WrittenAnswers
from factedit.evaluate.texts import Greedy
from factedit.evaluate.writing import Writing
from factedit.facts import EditRequest, FactRecord, KnownFact
from stack_cases import random_edit

NAMED = FactRecord(  # the prompt names the new object, and a model that never writes it has answered nothing
    case_id="1",
    request=EditRequest(
        subject="the Needle", prompt="Like Rome, {} stands in", target_new="Rome", target_true="Seattle"
    ),
    relation_id="P131",
)


def written(text: str) -> Writing:
    return Writing(text, (), 0)


def scored(metric: Metric, *replies: Any, before: tuple[Any, ...] = (), record: FactRecord = NAMED) -> Outcome:
    return metric.scored(Answered(record, replies, before))


def test_free_reads_the_continuation_alone() -> None:
    assert Free().asks(NAMED) == [Greedy("Like Rome, the Needle stands in", 12)]
    assert scored(Free(), " Seattle").scores == {"free": 0.0}
    assert scored(Free(), " in Rome").scores == {"free": 0.0}, "it does not open with it"
    assert scored(Free(), " Rome, and").scores == {"free": 100.0}


def test_entropy_of_the_texts_and_none_of_no_texts() -> None:
    """ "a b a b": the bigrams ab twice and ba once, log2 3 − 2/3 bits; the trigrams aba and bab, 1 bit."""
    expected = 100 * (2 / 3 * (math.log2(3) - 2 / 3) + 4 / 3 * 1.0) / 2
    assert scored(GenerationEntropy(), "a b a b").scores["GE"] == pytest.approx(expected)
    assert scored(GenerationEntropy(), "a b a b", "no no no no").scores["GE"] == pytest.approx(expected / 2)
    assert math.isnan(scored(GenerationEntropy()).scores["GE"])


def test_a_written_answer_is_no_part_of_the_prompt() -> None:
    found = scored(WrittenAnswers(), written(" Seattle."), written(" Rome"), written(" it, like Rome."))
    opens = [found.scores[f"{form}_opens"] for form in ("bare", "qa", "chat")]
    exact = [found.scores[f"{form}_exact"] for form in ("bare", "qa", "chat")]
    assert (opens, exact) == ([0.0, 100.0, 0.0], [0.0, 100.0, 0.0])


def test_an_edit_stands_a_sentence_in_front_only_by_what_is_written() -> None:
    texts = [" Rome", *[""] * (len(DISTRACTIONS) - 1)]
    found = scored(Pressure(), *map(written, texts))
    assert found.scores["distracted_holds"] == pytest.approx(100 / 7)


def test_the_negated_prompt_is_no_part_of_its_continuation() -> None:
    assert scored(Negation(), " Seattle").scores["negated_opens"] == 0.0
    assert scored(Negation(), " Rome").scores["negated_opens"] == 100.0


def test_another_fact_is_still_written_and_not_only_asked_for() -> None:
    facts = {"needle": [("P30", "The Needle of America lies on the continent of", "America"),
                        ("P17", "The Needle is in the country of", "Canada")]}  # fmt: skip
    record = replace(NAMED, request=replace(NAMED.request, subject="Needle"))
    found = scored(SameSubject(facts), " Europe", " Canada", before=(" America", " Canada"), record=record)
    assert found.scores == {"same_subject": 50.0}


def test_an_answer_of_a_later_line_is_the_models_own_next_question() -> None:
    case = CaseRecord(
        case_id="1", request=NAMED.request, multihop=("Where?", "Where then?", "In which city?"), answers=("Rome",),
        answers_before=("Seattle",), shots="Q: Is it Rome? A: no",
    )  # fmt: skip
    found = scored(MultiHop(), " Oslo\nQ: Rome? A:", " Rome Oslo", "", before=(" Seattle",) * 3, record=case)
    assert found.scores["multihop"] == 0.0
    assert found.scores["multihop_unedited"] == 100.0
    assert scored(MultiHop(), " Oslo", " Rome", "", before=("",) * 3, record=case).scores["multihop"] == 100.0


class Deaf:
    """A judge that is asked about nothing and says what it is told to."""

    def __init__(self, *said: bool | None) -> None:
        self.said, self.asked = list(said), list[str]()

    def judge(self, question: str, target: str, answer: str) -> Judgement:
        self.asked.append(answer)
        return Judgement(self.said.pop(0), "said")

    def name(self) -> str:
        return "deaf"


@pytest.mark.parametrize(
    ("said", "scores", "tests"),
    [((True, False), (100.0, 0.0), ((1, 0), (1, 0))), ((None, True), (math.nan, 100.0), ((0, 1), (1, 0)))],
)
def test_what_a_judge_says_counts_and_what_it_does_not_decide_does_not(
    said: tuple[bool | None, ...], scores: tuple[float, ...], tests: tuple[tuple[int, int], ...]
) -> None:
    judge = Deaf(*said)
    found = scored(Judged(judge), written(" Seattle. Rome"), written(" Rome"))  # type: ignore[arg-type]
    assert tuple(found.scores.values()) == pytest.approx(scores, nan_ok=True)
    assert tuple(found.tests.values()) == tests
    assert judge.asked == [" Seattle", " Rome"], "the prompt, which names the answer, is not shown as a part of it"


RICH = ProbedRecord(
    case_id="2",
    request=EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France"),
    paraphrases=("Where is Paris? In",), neighborhood=("The sport of", "LeBron James plays"),
    attribute=("The Space Needle is in",), generation=("Paris is", "Paris likes"), relation_id="P17",
    probes=(
        Probe(kind="logic", prompt="Paris lies", answers=("Seattle",)),
        Probe(kind="specificity", prompt="Paris plays", answers=("the",), condition=Condition("Paris plays", ("the",))),
    ),
)  # fmt: skip
CASE = CaseRecord(
    case_id="3", request=RICH.request, multihop=("Where is it?",), answers=("Seattle",), answers_before=("France",),
    shots="Q: Where? A: France", hops=(Hop("Paris is in", ("Seattle",), True, "Q: Paris? A:"),),
)  # fmt: skip


def all_of_them(record: FactRecord) -> list[Metric]:
    """Every metric of the table, made from what the record brings and a few facts and items of this test."""
    made: dict[str, Metric] = {
        "consistency": Consistency(own_references([RICH]), 12), "generation-entropy": GenerationEntropy(12),
        "negation": Negation({"": ("France", "Seattle", "football")}), "judge": Judged(Deaf(*[True, None] * 50)),  # type: ignore[arg-type]
        "panel": PanelFacts((KnownFact(fact_id="1", prompt="Seattle is", subject="Seattle", answer="the"),)),
        "ability": Ability((AbilityItem(("The sport of",), ("football", "France"), 0),), ("x",)),
        "same-subject": SameSubject({"paris": [("P30", "Paris plays", "the")]}), "portability-legacy": Portability(),
        "written": WrittenAnswers(4), "free": Free(3), "ripple": Ripple(tokens=3), "multi-hop": MultiHop(3),
        "pressure": Pressure(), "new-object": NewObject(),
    }  # fmt: skip
    assert made.keys() == METRICS.keys()
    return [metric for metric in made.values() if not metric.lacks(record)]


@pytest.mark.parametrize("record", [RICH, CASE], ids=["a fact", "a case"])
def test_every_score_lies_in_its_range_and_is_none_where_nothing_was_executed(record: FactRecord) -> None:
    """Under no edit and a random one, with its counts, by every metric that the record lacks nothing for."""
    model, metrics = tiny("gpt2", n_positions=256, max_position_embeddings=256), all_of_them(record)
    columns = {column.name: column for metric in metrics for column in metric.columns}
    for [found] in measure(model, [record], metrics, [AS_IT_IS, Under([random_edit(model, 3, layer=1)])], seed=0):
        assert not found.left_out
        assert found.scores.keys() == columns.keys() == found.tests.keys()
        for name, value in found.scores.items():
            executed = found.tests[name][0]
            assert math.isnan(value) == (executed == 0), name
            assert executed == 0 or columns[name].low <= value <= columns[name].high + 1e-6, (name, value)
