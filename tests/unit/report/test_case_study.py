"""The page of the case study: objects marked, and nothing that a model writes is markup."""

from __future__ import annotations

from factedit.facts import EditRequest, FactRecord
from factedit.report.case_study import CaseTexts, marked, render

RECORD = FactRecord(
    case_id="1",
    request=EditRequest(subject="Paris", prompt="{} is in", target_new="Rome", target_true="France"),
    paraphrases=("Where is Paris? In", "never shown"),
    generation=("Paris is known for", "Paris is in", "Paris is near", "too many"),
)


def test_objects_are_marked_where_they_stand() -> None:
    assert marked("in Rome, not France", RECORD) == [
        ("", "in "), ("new", "Rome"), ("", ", not "), ("true", "France"),
    ]  # fmt: skip
    assert marked("nothing", RECORD) == [("", "nothing")]
    assert marked("", RECORD) == []


def test_what_a_model_writes_cannot_become_markup() -> None:
    case = CaseTexts(RECORD, ("<b>prompt",), {"unedited": ("<script>alert(1)</script> Rome",)})
    page = render([case], model="<i>model", tokens=6)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert '<span class="new">Rome</span>' in page
    assert "<i>model" not in page
