"""A method is not asked about names that it was told to leave alone; the prompts are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.evaluate import leak
from factedit.evaluate.leak import Kept
from factedit.evaluate.measures import Measures
from factedit.evaluate.run import Evaluation, evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment

NAMES = {"space needle": "The Space Needle", "st. paul's": "St. Paul's", "go": "Go"}
REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="France", target_true="the capital")
PROMPTS = ("Where is The Space Needle? In", "St. Paul's is in", "Needle of Space is in", "I go to", "Play Go in")


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    for module in ("factedit.stats.subjects", "factedit.stats.preserved", "factedit.evaluate.leak"):
        monkeypatch.setattr(f"{module}.subject_names", lambda: NAMES)


def rome(model: EditableModel, weight: float) -> Any:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    return make_method("rome", model, moments, layer=1, steps=2, context_templates=["{}"], subject_weight=weight)


def run(model: EditableModel, path: Path, weight: float, record: FactRecord) -> Evaluation:
    with ResultStore(path) as store:
        method, measures = rome(model, weight), Measures(metrics=())
        return evaluate_methods(model, [record], [method], store, dataset="test", measures=measures)


def test_prompts_about_the_names_are_asked_under_no_method(tmp_path: Path) -> None:
    model = tiny("gpt2")
    whole = FactRecord(case_id="1", request=REQUEST, paraphrases=("So Paris is in",), neighborhood=PROMPTS)
    rest = FactRecord(case_id="1", request=REQUEST, paraphrases=whole.paraphrases, neighborhood=PROMPTS[2:4])
    told = run(model, tmp_path / "told.sqlite", 1.0, whole)
    by_hand = run(model, tmp_path / "hand.sqlite", 1.0, rest)
    assert told.results["rome"]["1"]["scores"] == by_hand.results["rome"]["1"]["scores"]
    assert told.results["unedited"]["1"]["tests"]["NS"] == [2, 0]
    assert told.kept.prompts == (3, 5)
    assert told.kept.note().startswith("3 of 5 prompts about other subjects hold a name that rome is told to leave")
    free = run(model, tmp_path / "told.sqlite", 0.0, whole)
    assert free.kept.note() == ""
    assert free.stored == (0, 2), "the unedited model was asked less before"
    assert free.results["unedited"]["1"]["tests"]["NS"] == [5, 0]
    assert "names left out" not in free.settings["unedited"]


def test_an_unrelated_question_about_a_name_is_left_out_too(tmp_path: Path) -> None:
    record = FactRecord(case_id="1", request=REQUEST, neighborhood=("Who plays Go?",), loc_answer="Seattle")
    found = run(tiny("gpt2"), tmp_path / "r.sqlite", 1.0, record)
    assert found.results["rome"]["1"]["tests"]["specificity"] == [0, 0]
    [left] = Kept.by([rome(tiny("gpt2"), 1.0)]).left_out_of([record])[0]
    assert left.answered_neighbor is None


def test_the_names_are_those_in_c() -> None:
    method = rome(tiny("gpt2"), 1.0)
    assert Kept.by([method]).names == {("Space", "Needle"), ("St", "Paul", "s"), ("Go",)}
    assert Kept.by([rome(tiny("gpt2"), 0.0)]) == Kept()
    assert leak.subject_names() is NAMES
