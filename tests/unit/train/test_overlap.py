"""Records that must not be trained on: by wording, and by id within one data set."""

from __future__ import annotations

import pytest

from factedit.errors import DataError
from factedit.facts import EditRequest, FactRecord
from factedit.train.overlap import SHOWN, overlapping, refuse_overlap


def record(case_id: str, subject: str, paraphrases: tuple[str, ...] = (), neighbours: tuple[str, ...] = ()):
    request = EditRequest(subject=subject, prompt="{} is in", target_new="a", target_true="b")
    return FactRecord(case_id=case_id, request=request, paraphrases=paraphrases, neighborhood=neighbours)


def test_wordings_count_in_whichever_role() -> None:
    asked = [record("1", "Paris", ("Where is Paris? In",)), record("2", "Rome")]
    training = [
        record("a", "Paris"),
        record("b", "Berlin", ("Rome is in",)),
        record("c", "Where is Paris? In"),
        record("d", "Oslo", ("So Oslo is in",), neighbours=("Paris is in", "Rome is in")),
    ]
    found = overlapping(training, asked, same_ids=False)
    assert [r.case_id for r in found] == ["a", "b"], "neighbours ask for other facts"


def test_ids_count_within_one_data_set_only() -> None:
    training, asked = [record("1", "Oslo"), record("2", "Bern")], [record("1", "Paris")]
    assert overlapping(training, asked, same_ids=False) == ()
    assert [r.case_id for r in overlapping(training, asked, same_ids=True)] == ["1"]


def test_a_set_that_overlaps_is_refused_with_a_list() -> None:
    many = [record(str(n), f"Place {n}") for n in range(30)]
    refuse_overlap(many[:3], many[3:], name="set", same_ids=True)
    with pytest.raises(DataError, match=r"2 of the 2 records to train on can be evaluated \(set\): 0, 1\. Take them"):
        refuse_overlap(many[:2], many, name="set", same_ids=False)
    with pytest.raises(DataError, match=f", {SHOWN - 1} and {30 - SHOWN} more"):
        refuse_overlap(many, many, name="set", same_ids=False)
