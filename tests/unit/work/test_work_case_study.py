"""The case study: the same prompts for every method, on a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import tiny
from factedit.edit.method import Made, make_method
from factedit.errors import DataError, EditError, UnknownName, UsageError
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.report.case_study import write_study
from factedit.work.case_study import case_study, study

RECORD = FactRecord(
    case_id="1",
    request=EditRequest(subject="Paris", prompt="{} is in", target_new="Rome", target_true="France"),
    paraphrases=("Where is Paris? In", "never shown"),
    generation=("Paris is known for", "Paris is in", "Paris is near", "too many"),
)


def test_every_method_writes_about_the_same_prompts(tmp_path: Path) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    methods = [
        make_method(name, model, lambda *_: None, **settings)  # type: ignore[arg-type, return-value]
        for name, settings in (("ft", {"layer": 1, "steps": 8, "learning_rate": 0.01}), ("kn", {"steps": 4}))
    ]
    done: list[int] = []
    [case] = study(model, [RECORD], methods, tokens=6, step=done.append)
    assert done == [1]
    assert case.prompts == ("Paris is in", "Where is Paris? In", "Paris is known for", "Paris is near")
    assert list(case.texts) == ["unedited", "ft", "kn"]
    assert {len(texts) for texts in case.texts.values()} == {4}
    assert case.texts["ft"] != case.texts["unedited"]
    assert model.fingerprint() == before
    write_study([case], tmp_path / "page.html", model="tiny", tokens=6)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<tr>") == 4 * 3
    assert "Paris is in → Rome" in page


def never() -> EditableModel:
    raise AssertionError("the model was loaded before the request was checked")


@pytest.fixture
def facts(tmp_path: Path) -> str:
    """A file of three requests."""
    row = {"prompt": "{} is in", "target_new": "Seattle", "target_true": "France"}
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps({"subject": s, **row}) + "\n" for s in ("Paris", "France", "Seattle")))
    return str(path)


def test_what_is_wrong_is_refused_before_the_model_is_loaded(facts: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 tokens were asked for"):
        case_study(never, facts, tokens=0)
    with pytest.raises(UnknownName, match="Did you mean rome"):
        case_study(never, facts, methods="rom")
    with pytest.raises(UsageError, match="No record 77"):
        case_study(never, facts, ids=["77"])
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        case_study(never, str(tmp_path / "nowhere.jsonl"))


def test_facts_by_their_ids(facts: str) -> None:
    told: list[tuple[str, float, float]] = []
    found = case_study(
        lambda: tiny("gpt2"), facts, ids=["1", "2"], methods="ft", tokens=3,
        progress=lambda *all_of_it: told.append(all_of_it),
    )  # fmt: skip
    assert [case.record.case_id for case in found.cases] == ["1", "2"]
    assert told == [("editing and writing (records)", n, 2) for n in (0, 1, 2)]
    assert found.tokens == 3
    [first, _] = found.as_json()
    assert list(first["texts"]) == ["unedited", "ft"]
    assert len(first["texts"]["ft"]) == len(first["prompts"]) == 1


def test_a_method_that_makes_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    method = make_method("ft", model, lambda *_: None, layer=1, steps=1)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(type(method), "edit", lambda *_: Made(()))
    with pytest.raises(EditError, match="Correct the method"):
        study(model, [RECORD], [method], tokens=2)
