"""Other facts of the edited subject: which are asked, which count, by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from factedit.evaluate.metric import Answered
from factedit.evaluate.metrics.same_subject import SameSubject
from factedit.evaluate.texts import Greedy
from factedit.facts import EditRequest, FactRecord

FACTS = {
    "paris": [
        ("P17", "Paris is a city in the country of", "France"),
        ("P36", "Paris is the capital of", "France"),
        ("P30", "Paris lies on the continent of", "Europe"),
        ("P206", "Paris lies on the river", "Seine"),
        ("P37", "In Paris they speak", "French"),
    ]
}
METRIC = SameSubject(FACTS, 5)
REQUEST = EditRequest(
    subject="Paris", prompt="{} is a city in the country of", target_new="Italy", target_true="France"
)
GERMANY = FactRecord(
    case_id="2",
    request=EditRequest(subject="Germany", prompt="{} lies in", target_new="Asia", target_true="Europe"),
    relation_id="P30",
)
RECORD = FactRecord(case_id="1", request=REQUEST, relation_id="P17")


def test_which_facts_are_asked() -> None:
    """Neither the edited relation nor facts with the old object; without a relation's name its prompt tells it."""
    asked = ["Paris lies on the continent of", "Paris lies on the river", "In Paris they speak"]
    assert METRIC.asks(RECORD) == [Greedy(prompt, 5) for prompt in asked]
    nameless = replace(RECORD, relation_id=None, request=replace(REQUEST, subject="The  paris", target_true=None))
    assert len(METRIC.asks(nameless)) == 5, "another spelling of the prompt"
    assert len(METRIC.asks(replace(nameless, request=replace(REQUEST, target_true=None)))) == 4
    assert len(METRIC.asks(replace(RECORD, relation_id="P206"))) == 2


def test_only_what_the_unedited_model_answered_counts() -> None:
    now, before = [" Europe, and", " Loire", " French"], [" europe.", " Seine", " Dutch"]
    found = METRIC.scored(Answered(RECORD, now, before))
    assert found.scores == {"same_subject": 50.0}, "the third was not known: passing it counts for nothing"
    assert found.tests == {"same_subject": (2, 1)}
    none = METRIC.scored(Answered(RECORD, before, [" x", " y", " z"]))
    assert math.isnan(none.scores["same_subject"])
    assert none.tests == {"same_subject": (0, 3)}


def test_sets_without_such_facts_are_left_out() -> None:
    other = replace(RECORD, request=replace(REQUEST, subject="Nowhere"))
    assert METRIC.lacks(other) == "other facts of its subject in worldfacts or a panel (--panel)"
    assert SameSubject.for_records([other]) is None
    assert SameSubject.for_records([other, GERMANY])


def test_facts_of_a_panel_about_the_subject_count_too(tmp_path: Path) -> None:
    """But for the edited prompt itself, the old object, and what stands there already."""
    rows = [
        {"prompt": "{} sings in", "subject": "Marie  Blue", "target": "French"},
        {"prompt": "{} was born in", "subject": "Marie Blue", "target": "Lyon"},
        {"prompt": "{} is a singer from", "subject": "Marie Blue", "target": "Lyon"},
        {"prompt": "{} plays the", "subject": "Marie Blue", "target": "harp"},
        {"prompt": "The unit of money in {} is the", "subject": "Germany", "target": "euro"},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    edit = EditRequest(subject="Marie Blue", prompt="{} plays the", target_new="drum", target_true="Lyon")
    record = FactRecord(case_id="1", request=edit, relation_id="P1303")
    assert SameSubject.for_records([record]) is None
    made = SameSubject.for_records([record], panel=tmp_path / "p.jsonl")
    assert made is not None
    assert made.others(record) == [("Marie  Blue sings in", "French")]
    assert made.others(GERMANY) == [("The unit of money in Germany is the", "euro")]
    assert made.describe() != SameSubject().describe()
    assert SameSubject.for_records([GERMANY]) == SameSubject(), "without a panel its place in the key is what it was"


def test_the_embedded_facts() -> None:
    assert SameSubject().others(GERMANY) == [("The unit of money in Germany is the", "euro")]
    assert SameSubject().describe()["facts"] == SameSubject().describe()["facts"]
    assert SameSubject().describe() != METRIC.describe()
