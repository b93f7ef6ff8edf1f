"""Ripple effects and portability: every figure worked out by hand, and mutants that the hand-made case catches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from conftest import tiny
from factedit.data.probes import Condition, Probe, ProbedRecord
from factedit.evaluate.benchmarks.knowedit import KNOWEDIT
from factedit.evaluate.measuring import AS_IT_IS, Under, measure
from factedit.evaluate.metric import Answered
from factedit.evaluate.metrics import ripple
from factedit.evaluate.metrics.portability import Portability
from factedit.evaluate.metrics.ripple import Ripple
from factedit.evaluate.metrics.table import named_metrics
from factedit.evaluate.probability import Question, Score
from factedit.evaluate.texts import Greedy
from factedit.evaluate.together import Together
from factedit.facts import EditRequest, FactRecord
from stack_cases import random_edit

REQUEST = EditRequest(subject="Leo", prompt="The country of {} is", target_new="Syria", target_true="Italy")


def probe(kind: str, prompt: str, *answers: str, condition: tuple[str, str] | None = None) -> Probe:
    known = None if condition is None else Condition(condition[0], (condition[1],))
    return Probe(kind=kind, prompt=prompt, answers=answers, condition=known)


RECORD = ProbedRecord(
    case_id="1",
    request=REQUEST,
    probes=(
        probe("composition I", "Leo's capital is", "Damascus", "Sham", condition=("Syria's capital is", "Damascus")),
        probe("composition I", "Leo's anthem is", "Humat", condition=("Syria's anthem is", "Humat")),
        probe("composition II", "Ann's man's country, not Syria, is", "Syria", condition=("Ann's man is", "Leo")),
        probe("aliasing", "Lee's country is", "Syria", "SYR", condition=("Lee's country is", "Italy")),
        probe("logic", "Is Leo Syrian?", "yes"),
        probe("specificity", "Leo's wife is", "Ann", condition=("Leo's wife is", "Ann")),
        probe("specificity", "Leo's job is", "actor", condition=("Leo's job is", "actor")),
        probe("unmapped", "Leo's sea is", "Black Sea"),
    ),
)
BEFORE = {
    "The country of Leo is": " Italy",
    "Leo's capital is": " Rome", "Syria's capital is": " the city of damascus,",
    "Leo's anthem is": " x", "Syria's anthem is": " Humats",  # not as a whole word: not known
    "Ann's man's country, not Syria, is": " Italy", "Ann's man is": " Leo", "Lee's country is": " Italy",
    "Is Leo Syrian?": " no", "Leo's wife is": " Ann", "Leo's job is": " singer", "Leo's sea is": " Black Sea",
}  # fmt: skip
AFTER = BEFORE | {
    "The country of Leo is": " Syria.",
    "Leo's capital is": " Sham",  # passed
    "Leo's anthem is": " Humat",  # right, but the condition was not known
    "Ann's man's country, not Syria, is": " Italy",  # failed; the prompt names the answer
    "Lee's country is": " syr",  # a short name in another case: failed
    "Is Leo Syrian?": " Yes.",  # passed
    "Leo's wife is": " Joan",  # failed: forgotten
    "Leo's job is": " actor",  # was not known
}


def answered(after: dict[str, str] = AFTER) -> Answered:
    asks = Ripple().asks(RECORD)
    return Answered(RECORD, [after[ask.prompt] for ask in asks], [BEFORE[ask.prompt] for ask in asks])


def by_hand() -> None:
    """Executed: capital (passed), Ann's man (failed), Lee (failed), logic (passed), wife (failed): 2 of 5."""
    found = Ripple().scored(answered())
    assert found.scores == pytest.approx(
        {
            "ripple_compose_1": 100, "ripple_compose_2": 0, "ripple_alias": 0, "ripple_logic": 100,
            "ripple_specific": 0, "ripple_forget": math.nan, "ripple_all": 100 * 2 / 5, "ripple_published": 100 * 3 / 5,
        },
        nan_ok=True,
    )  # fmt: skip
    assert found.tests == {
        "ripple_compose_1": (1, 1), "ripple_compose_2": (1, 0), "ripple_alias": (1, 0), "ripple_logic": (1, 0),
        "ripple_specific": (1, 1), "ripple_forget": (0, 0), "ripple_all": (5, 3), "ripple_published": (5, 3),
    }  # fmt: skip


def test_by_hand() -> None:
    by_hand()
    assert Ripple().asks(RECORD)[0] == Greedy("The country of Leo is", 12)
    prompts = [ask.prompt for ask in Ripple().asks(RECORD)]
    assert len(prompts) == len(set(prompts)) == 12, "what is probe and condition is asked once"


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("says_any", lambda _text, _answers: True),  # always passes
        ("says_any", lambda text, answers: any(own in text for own in answers)),  # any run of letters
        ("_executed", lambda _probe, _before: True),  # counts what was not executed
        ("_executed", lambda probe, before: probe.condition is not None and ripple.says_any(
            before[probe.prompt], probe.answers)),  # looks at the probe and not at its condition
        ("free_match", lambda _text, _target: False),  # no edit took
    ],
)  # fmt: skip
def test_mutants_are_caught(monkeypatch: pytest.MonkeyPatch, name: str, mutant: Callable[..., bool]) -> None:
    monkeypatch.setattr(ripple, name, mutant)
    with pytest.raises(AssertionError):
        by_hand()


def test_a_search_of_the_prompt_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published search finds "Syria" in the prompt: 3 of 5 instead of 2."""
    found = Ripple().scored(answered())
    assert found.scores["ripple_published"] > found.scores["ripple_all"]


def test_an_edit_that_did_not_take_executes_nothing() -> None:
    found = Ripple().scored(answered(AFTER | {"The country of Leo is": " Italy"}))
    assert all(math.isnan(value) for value in found.scores.values())
    assert found.tests["ripple_all"] == (0, 8)


def test_a_set_without_conditions_executes_nothing_and_says_so() -> None:
    """No phrases lay beside its file: only logic, which needs no condition, can count."""
    bare = replace(RECORD, probes=tuple(replace(probe, condition=None) for probe in RECORD.probes))
    made = Ripple.for_records([bare])
    assert made is not None
    assert made.notes()["ripple conditions"].startswith("7 of the set's 8 probes have no known condition")
    asks = made.asks(bare)
    found = made.scored(Answered(bare, [AFTER[ask.prompt] for ask in asks], [BEFORE[ask.prompt] for ask in asks]))
    assert found.tests["ripple_all"] == (1, 7)
    assert (found.scores["ripple_all"], found.scores["ripple_logic"]) == (100.0, 100.0)
    assert math.isnan(found.scores["ripple_compose_1"])
    known = Ripple.for_records([replace(RECORD, probes=RECORD.probes[:-1])])
    assert known is not None
    assert "ripple conditions" not in known.notes()


def test_sets_and_records_without_probes_are_left_out() -> None:
    bare = FactRecord(case_id="2", request=REQUEST)
    assert Ripple.for_records([bare]) is None
    assert Portability.for_records([bare]) is None
    assert Ripple().lacks(bare) == "probes of what follows from it (portability, locality)"
    assert Ripple.for_records([bare, RECORD]) != Ripple.for_records([replace(RECORD, probes=RECORD.probes[1:])])
    assert named_metrics(["consequences"])[:2] == ["ripple", "portability-legacy"]


def test_portability_by_hand() -> None:
    """Reasoning: ½, 1, 0 and (unmapped) 1; alias ½; logic not finite. All: mean of .5 1 0 .5 1."""
    half, whole, none = Score((-1, -1), (True, False)), Score((-1,), (True,)), Score((-1,), (False,))
    broken = Score((math.nan,), (True,))
    metric = Portability()
    assert metric.asks(RECORD)[0] == Question("Leo's capital is", "Damascus")
    assert len(metric.asks(RECORD)) == 6, "what must stay is no portability"
    found = metric.scored(Answered(RECORD, [half, whole, none, half, broken, whole]))
    assert found.scores == pytest.approx(
        {"portability_reasoning": 62.5, "portability_alias": 50, "portability_logic": math.nan,
         "portability_legacy": 60}, nan_ok=True,
    )  # fmt: skip
    assert found.tests["portability_logic"] == (0, 1)
    assert found.tests["portability_legacy"] == (5, 1)


def test_the_benchmark_by_hand() -> None:
    record = replace(RECORD, paraphrases=("Leo is of",))
    asked = KNOWEDIT.questions(record)
    assert [q.prompt for q in asked] == ["The country of Leo is", "Leo is of", "Leo's wife is", "Leo's job is"]
    half, whole, none = Score((-1, -1), (True, False)), Score((-1,), (True,)), Score((math.inf,), (True,))
    scores = [whole, half, whole, none]
    assert KNOWEDIT.numbers(record, scores) == {"edit_tokens": 100, "rephrased_tokens": 50, "locality_tokens": 100}
    assert KNOWEDIT.tests(record, scores)["locality_tokens"] == (1, 1)


def test_under_many_edits_at_once_and_under_shared_ones() -> None:
    """Each record is read under its own edit: the texts are those of the model with that edit alone."""
    model = tiny("gpt2")
    edits = [random_edit(model, 3, layer=1), random_edit(model, 4, layer=2)]
    records = [RECORD, replace(RECORD, case_id="2", probes=RECORD.probes[:3])]
    metrics = [Ripple(tokens=3), Portability()]
    shared = Under(shared=Together(model).plus(edits[:1]))
    plain, own, together = measure(model, records, metrics, [AS_IT_IS, Under(edits), shared], seed=0)
    for record, edit, found in zip(records, edits, own, strict=True):
        with edit.applied_to(model):
            [[alone]] = measure(model, [record], metrics, [AS_IT_IS], seed=0)
        assert found.texts["ripple"] == alone.texts["ripple"] != plain[0].texts["ripple"]
        assert found.scores["portability_legacy"] == alone.scores["portability_legacy"]
    assert together[0].texts["ripple"] == own[0].texts["ripple"]
    assert own[0].tests["ripple_all"] == (0, 8), "a random edit makes nothing take"
