"""Records of several facts: read, edited one after the other, and asked; every figure worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.data.cases import (
    CaseRecord,
    Hop,
    broken_cases,
    read_conflicts,
    read_mquake,
    requests_of,
)
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import Made
from factedit.errors import DataError, EditError
from factedit.evaluate.benchmarks.conflicts import CONFLICTS
from factedit.evaluate.benchmarks.mquake import MQUAKE
from factedit.evaluate.cases import make_cases
from factedit.evaluate.column import Column
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.measurable import not_measurable, without
from factedit.evaluate.metric import Answered
from factedit.evaluate.metrics.multihop import MultiHop
from factedit.evaluate.probability import Question, Score
from factedit.evaluate.regime import Each, Joint, RegimeJob
from factedit.evaluate.texts import Greedy, continue_texts
from factedit.evaluate.together import Together
from factedit.evaluate.writing import exact
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel

YES, NO, BROKEN = Score((-1.0,), (True,)), Score((-2.0,), (False,)), Score((math.nan,), (True,))


def case(number: int, *subjects: str, **fields: Any) -> CaseRecord:
    first, *rest = (EditRequest(subject=s, prompt="{} is in", target_new="Rome", target_true="Oslo") for s in subjects)
    return CaseRecord(case_id=str(number), request=first, further=tuple(rest), **fields)


@dataclass(frozen=True)
class Halving:
    """A method whose change is of what the matrix is now, so that edits made in turn differ from edits made apart."""

    model: EditableModel
    scope: str = "each"
    name: str = "halving"
    paper: str = "own"

    def edit(self, requests: Sequence[EditRequest], state: Any = None) -> Made:
        if any(request.subject == "Nowhere" for request in requests):
            raise EditError("there is no such place")
        weight = self.model.weight(1).detach()
        made = []
        for request in requests:
            left = torch.zeros(weight.shape[0], 1)
            left[len(request.subject)] = 1
            effect = LowRank(1, left, -0.5 * weight[len(request.subject)][None].clone())
            made.append((request, effect))
        if self.scope == "joint":
            whole = Edit(method=self.name, requests=tuple(requests), effects=tuple(e for _, e in made), made_for="x")
            return Made((whole,))
        return Made(tuple(Edit(method=self.name, requests=(r,), effects=(e,), made_for="x") for r, e in made))

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def test_the_facts_of_a_record_are_edited_one_after_the_other(model: EditableModel) -> None:
    """ "Paris" twice: halved and halved again, a quarter; "Oslo" once. Edits made apart would leave nothing of it."""
    records = [case(1, "Paris", "Paris", "Oslo"), FactRecord(case_id="2", request=case(2, "Oslo").request)]
    before = model.weight(1).clone()
    made = make_cases(model, records, [Halving(model)])["halving"]
    assert torch.equal(model.weight(1), before)
    assert made.cost.facts == 4
    edit, single = (place[0] for place in made.places)  # type: ignore[misc]
    assert [request.subject for request in edit.requests] == ["Paris", "Paris", "Oslo"]
    assert len(single.effects) == 1
    with Together(model).plus([edit]).on(model):
        after = model.weight(1).clone()
        alone = continue_texts(model, ["Paris is in"], [None], tokens=6)
    assert torch.allclose(after[5], before[5] / 4, atol=1e-6)
    assert torch.allclose(after[4], before[4] / 2, atol=1e-6)
    assert continue_texts(model, ["Paris is in", "Oslo is in"], [edit, single], tokens=6)[0] == alone[0]


def test_a_joint_method_gets_all_facts_of_a_record_at_once(model: EditableModel) -> None:
    made = make_cases(model, [case(1, "Paris", "Oslo")], [Halving(model, "joint")])["halving"]
    edit = made.places[0][0]  # type: ignore[index]
    assert len(edit.requests) == 2
    before = model.weight(1).clone()
    with Together(model).plus([edit]).on(model):
        assert torch.allclose(model.weight(1)[[4, 5]], before[[4, 5]] / 2, atol=1e-6)


def test_a_fact_that_fails_fails_its_record_and_others_go_on(model: EditableModel) -> None:
    records = [case(1, "Paris", "Nowhere"), case(2, "Oslo", "Rome")]
    made = make_cases(model, records, [Halving(model)])["halving"]
    assert made.places[0] == "there is no such place"
    assert not isinstance(made.places[1], str)


def test_regimes_know_the_facts_of_a_record(model: EditableModel) -> None:
    records = [case(1, "Paris", "Oslo"), case(2, "Seattle", "Nowhere")]
    job = RegimeJob(model, [Halving(model)], records, {"halving", "halving, 2 at once"}, 8)
    [[each]] = Each().rounds(job)
    assert [isinstance(place, str) for place in each.made or ()] == [False, True]
    [[joint]] = list(Joint(2).rounds(job))
    assert [isinstance(place, str) for place in joint.made or ()] == [False, True]
    assert joint.cost.facts == 3, "Nowhere is left out of what is put on together"


MULTI = case(
    1, "Paris", "Oslo", asked=("Where is Paris?", "Where is Oslo?"), multihop=("a?", "b?", "c?"),
    answers_before=("Oslo City",), answers=("Rome", "The Roma"), shots="Q: x A: y",
    hops=(Hop("Paris is in", ("Rome",), True), Hop("The mayor of Rome is", ("Ann",), False)),
)  # fmt: skip


def test_multi_hop_by_hand() -> None:
    """Right if any question is, by any name, on the first line alone, normalised."""
    metric = MultiHop()
    assert metric.asks(MULTI)[0] == Greedy("Q: x A: y\nQ: a? A:", 20)
    found = metric.scored(Answered(MULTI, [" Paris\nRome", " roma.\nQ: z", " Oslo"], [" oslo city", " x", " y"]))
    old = {"multihop": 100, "multihop_old": 0, "multihop_hops": math.nan, "multihop_unedited": 100}
    assert found.scores == pytest.approx(old, nan_ok=True)
    found = metric.scored(Answered(MULTI, [" Paris\nRome", " in Rome", " the Oslo City!"], [" x", " x", "\n\n y"]))
    new = {"multihop": 0, "multihop_old": 100, "multihop_hops": math.nan, "multihop_unedited": 0}
    assert found.scores == pytest.approx(new, nan_ok=True)
    asked = replace(MULTI, hops=tuple(replace(hop, question=f"Q: e A: f\nQ: {hop.cloze}? A:") for hop in MULTI.hops))
    assert metric.asks(asked)[3:] == [Greedy(hop.question, 20) for hop in asked.hops]
    texts = [" x", " x", " x", " the Rome", " Joan\nAnn"]
    assert metric.scored(Answered(asked, texts, texts)).scores["multihop_hops"] == 0, "one of two facts is not answered"
    texts[-1] = " ann"
    assert metric.scored(Answered(asked, texts, texts)).scores["multihop_hops"] == 100
    assert metric.lacks(case(1, "Paris")) == "multi-hop questions"
    assert "mquake_multihop_prompts.txt" in metric.lacks(replace(MULTI, shots=""))
    assert MultiHop.for_records([case(1, "Paris")]) is None


def test_a_name_of_which_nothing_is_left_to_compare_is_no_answer() -> None:
    """SQuAD's normalisation leaves nothing of "The" and of "!!", which an empty line would equal."""
    nameless = replace(MULTI, answers=("The", "!!"), answers_before=("A",))
    found = MultiHop().scored(Answered(nameless, [" ", "\n", " the"], ["", "", ""])).scores
    assert (found["multihop"], found["multihop_old"], found["multihop_unedited"]) == (0, 0, 0)
    assert not exact("", "The")
    assert exact(" the Rome. And", "Rome")


def test_a_score_whose_task_the_unedited_model_cannot_do_is_not_given() -> None:
    columns = [Column("a", "", needs=("check", 10.0)), Column("b", ""), Column("check", "")]
    table = {name: {"a": Estimate(90, 1, 5), "b": Estimate(50, 1, 5), "check": Estimate(value, 1, 5)}
             for name, value in (("unedited", 9.0), ("rome", 50.0))}  # fmt: skip
    found = not_measurable(table, columns)
    assert found == {"a": "a is not measurable on this model: unedited it reaches 9.0 in check, and 10 is needed."}
    assert without(table, found)["rome"].keys() == {"b", "check"}
    assert not not_measurable({"unedited": {"check": Estimate(10, 1, 5)}}, columns)
    assert "reaches nothing" in not_measurable({"unedited": {}}, columns)["a"]


def test_single_facts_of_a_case_by_hand() -> None:
    asked = MQUAKE.questions(MULTI)
    assert asked == [
        Question("Paris is in", "Rome"), Question("Oslo is in", "Rome"), Question("Q: Where is Paris? A:", "Rome"),
        Question("Q: Where is Oslo? A:", "Rome"), Question("The mayor of Rome is", "Ann"),
    ]  # fmt: skip
    scores = [YES, NO, BROKEN, YES, NO]
    assert MQUAKE.numbers(MULTI, scores) == {"edit_wise": 50, "edit_asked": 100, "path_kept": 0}
    assert MQUAKE.tests(MULTI, scores) == {"edit_wise": (2, 0), "edit_asked": (1, 1), "path_kept": (1, 0)}
    plain = FactRecord(case_id="1", request=MULTI.request)
    assert MQUAKE.numbers(plain, [YES]) == pytest.approx(
        {"edit_wise": 100, "edit_asked": math.nan, "path_kept": math.nan}, nan_ok=True
    )


def test_which_of_two_conflicting_edits_wins_by_hand() -> None:
    """Later: −1 against −2, wins; in other words a tie and a loss; the earlier one: not finite."""
    pair = case(1, "Paris", "Oslo", reworded=("Oslo lies in", "Oslo?"))
    asked = CONFLICTS.questions(pair)
    assert [question.prompt for question in asked[::2]] == ["Oslo is in", "Oslo lies in", "Oslo?", "Paris is in"]
    assert {question.answer for question in asked[::2]} == {"Rome"}
    assert {question.answer for question in asked[1::2]} == {"Oslo"}
    scores = [YES, NO, NO, NO, NO, YES, YES, BROKEN]
    assert CONFLICTS.numbers(pair, scores) == pytest.approx(
        {"later_wins": 100, "later_reworded": 0, "earlier_wins": math.nan}, nan_ok=True
    )
    assert CONFLICTS.tests(pair, scores)["earlier_wins"] == (0, 1)
    assert CONFLICTS.lacks(case(1, "Paris")) == "second edit"


def test_cases_that_others_break(tmp_path: Path) -> None:
    """Case 2 gives Q90 another country than the path of case 1 has; case 3 is alone."""
    one = case(1, "Paris", path=(("Q90", "P17", "Q1"), ("Q1", "P36", "Q2")), changes=(("Q90", "P17", "Q1"),))
    two = case(2, "Lyon", path=(("Q90", "P17", "Q3"),), changes=(("Q90", "P17", "Q3"),))
    three = case(3, "Bonn", path=(("Q5", "P17", "Q1"), ("Q1", "P36", "Q2")), changes=(("Q5", "P17", "Q1"),))
    assert broken_cases([one, two, three]) == {"1", "2"}
    assert broken_cases([one, three]) == frozenset()
    (tmp_path / "c.jsonl").write_text(json.dumps({"edits": []}) + "\n")
    with pytest.raises(DataError, match="holds no record"):
        read_conflicts(tmp_path / "c.jsonl")
    with pytest.raises(DataError, match="the field 'requested_rewrite' is missing"):
        read_mquake(tmp_path / "c.jsonl")


def test_a_case_of_one_hop_and_one_whose_texts_are_empty(tmp_path: Path) -> None:
    """One hop is a path like any other; an empty text is refused by its name."""
    edit = {"prompt": "{} is in", "subject": "Paris", "question": "Where is Paris?", "relation_id": "P17",
            "target_new": {"str": "Rome"}, "target_true": {"str": "Oslo"}}  # fmt: skip
    row = {
        "case_id": 1, "requested_rewrite": [edit], "questions": ["Where is Paris?"], "answer": "Oslo",
        "answer_alias": [], "new_answer": "Rome", "new_answer_alias": ["Roma"], "single_hops": [],
        "new_single_hops": [{"question": "Where is Paris?", "cloze": "Paris is in", "answer": "Rome"}],
        "orig": {"new_triples": [["Q1", "P17", "Q2"]], "edit_triples": [["Q1", "P17", "Q2"]]},
    }  # fmt: skip
    (tmp_path / "mquake_multihop_prompts.txt").write_text("Q: Where? A: There")
    (tmp_path / "mquake_rel_prompts.json").write_text(json.dumps({"P17": "Q: Where is Bonn? A: Germany"}))
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps(row))
    [one] = read_mquake(file).records
    metric = MultiHop()
    assert metric.lacks(one) == ""
    asked = ["Q: Where? A: There\nQ: Where is Paris? A:", "Q: Where is Bonn? A: Germany\nQ: Where is Paris? A:"]
    assert [ask.prompt for ask in metric.asks(one)] == asked
    found = metric.scored(Answered(one, [" roma", " Rome"], [" Oslo", " x"])).scores
    assert found == {"multihop": 100, "multihop_old": 0, "multihop_hops": 100, "multihop_unedited": 100}
    assert broken_cases([one]) == frozenset()
    for field, empty in (("questions", [""]), ("new_answer", " "), ("new_single_hops", [{"cloze": "", "answer": "x"}])):
        file.write_text(json.dumps(row | {field: empty}))
        with pytest.raises(DataError, match=rf"line 1: the field '{field}.* is empty"):
            read_mquake(file)
    file.write_text(json.dumps(row | {"questions": []}))
    assert metric.lacks(read_mquake(file).records[0]) == "multi-hop questions"


@pytest.mark.data
def test_the_published_cases(data_dir: Path) -> None:
    """One to four edits a case; 886 of the 2 700 have a path that another case's edit changes (of all 3 000: 998)."""
    path = data_dir / "multihop_ripple" / "mquake_cf_2700.jsonl.gz"
    records = read_mquake(path).records
    assert [sum(len(requests_of(r)) == n for r in records) for n in (1, 2, 3, 4)] == [992, 954, 515, 239]
    assert len(broken_cases(records)) == 886
    assert len(read_mquake(path, unbroken=True).records) == 2700 - 886
    assert all(MultiHop().lacks(record) == "" for record in records)
    assert all(hop.question.count("Q: ") == 9 for record in records for hop in record.hops)  # type: ignore[attr-defined]
    pairs = read_conflicts(data_dir / "conflicts" / "gpt2xl_composite_edit.jsonl.gz").records
    assert all(CONFLICTS.lacks(pair) == "" and len(pair.reworded) == 10 for pair in pairs)  # type: ignore[attr-defined]
