"""Throwaway plug-ins, a file each: a joint method, an edit of prompts, a memory; from the table to the artefact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conftest import random_moment, tiny
from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.edit.show import show
from factedit.errors import DataError, EditError
from factedit.evaluate.probability import Question, score
from factedit.evaluate.texts import continue_texts
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stack.work import apply
from factedit.work.edit import describe, edit_facts
from stack_cases import folder_bits, model_bits
from throwaway import install

FACTS = [
    EditRequest(subject="The Space Needle", prompt="{} is in", target_new="Paris", target_true="Seattle"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
    EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Москва"),
]


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "site", monkeypatch, "two-layers", "said", "prefix", "remembered", "keyed")


def moments(model: EditableModel, _layer: int) -> Any:
    return random_moment(model.d_mlp)


def test_a_joint_edit_is_made_kept_shown_applied_and_undone(tmp_path: Path) -> None:
    model = tiny("llama")
    method = make_method("two-layers", model, moments, size=0.2)
    [edited] = edit_facts(model, method, FACTS, folder=tmp_path / "joint")
    edit = Edit.load(tmp_path / "joint")
    assert edit == edited.edit
    assert edit.layers == [1, 2]
    assert [note.diagnostics["place"] for note in edit.notes] == [0, 1, 2]
    told = show(tmp_path / "joint")
    assert [fact["subject"] for fact in told["facts"]] == [fact.subject for fact in FACTS]
    assert all(0 < fact["after"]["target_new"] < 1 for fact in told["facts"])
    assert "Paris is the capital of → Москва" in edit._repr_html_()
    row = describe(edited)
    assert (row["requests"], row["layer"], len(row["facts"])) == (3, [1, 2], 3)
    entry = apply(model, [edit], tmp_path / "folder")
    assert [fact.subject for fact in entry.standing[0].facts] == [fact.subject for fact in FACTS]
    assert "and 2 more" in entry.standing[0].text
    assert folder_bits(tmp_path / "folder") == model_bits(model, [edit])


def test_a_joint_edit_is_measured_as_the_edited_model_answers(tmp_path: Path) -> None:
    model = tiny("gpt2")
    [(edit, _)] = edit_facts(model, make_method("two-layers", model, moments), FACTS)
    with edit.applied_to(model):
        inside = score(model, [[Question(fact.text, fact.target_new)] for fact in FACTS], [None])[0]
    for note, [answer] in zip(edit.notes, inside, strict=True):
        assert note.after["target_new"] == pytest.approx(answer.probability, rel=1e-3)
        assert note.after["target_new"] != pytest.approx(note.before["target_new"], rel=1e-2)


def test_an_edit_of_prompts_is_asked_with_its_text(tmp_path: Path) -> None:
    model = tiny("gpt2")
    found = edit_facts(model, make_method("said", model, moments), FACTS, folder=tmp_path / "said")
    edits = [Edit.load(folder) for _, folder in found if folder is not None]
    assert edits == [edit for edit, _ in found]
    questions = [[Question("Where is it? It is in", "Paris")] for _ in FACTS]
    plain, edited = score(model, questions, [None, edits])
    for edit, fact, before, [after] in zip(edits, FACTS, plain, edited, strict=True):
        text = f"{fact.text} {fact.target_new}. Where is it? It is in"
        assert edit.on_prompt("Where is it? It is in") == text
        [[[by_hand]]] = score(model, [[Question(text, "Paris")]], [None])
        assert after.log_p == pytest.approx(by_hand.log_p, abs=1e-4)
        assert after.log_p != pytest.approx(before[0].log_p, abs=1e-3)
        assert continue_texts(model, ["It is in"], [edit], tokens=4) == continue_texts(
            model, [edit.on_prompt("It is in")], [None], tokens=4
        )
    with pytest.raises(EditError, match="acts by 'prefix', which is no change of weights"):
        apply(model, edits[:1], tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_memory_acts_where_its_key_is_met_and_nowhere_else(tmp_path: Path) -> None:
    model = tiny("gpt2")
    found = edit_facts(model, make_method("remembered", model, moments), FACTS, folder=tmp_path / "memory")
    edits = [Edit.load(folder) for _, folder in found if folder is not None]
    asked = [[Question(fact.text, fact.target_new), Question("Café Zürich", "Paris")] for fact in FACTS]
    plain, edited = score(model, asked, [None, edits])
    for fact, edit, before, after in zip(FACTS, edits, plain, edited, strict=True):
        assert after[1].log_p == pytest.approx(before[1].log_p, abs=1e-4), "another prompt is answered as before"
        assert after[0].log_p != pytest.approx(before[0].log_p, abs=1e-3)
        [memory] = edit.effects
        with model.on_matrix(memory.layer, memory.given):  # by hand, one model at a time
            [[[by_hand, _]]] = score(model, [[Question(fact.text, fact.target_new), asked[0][1]]], [None])
        assert after[0].log_p == pytest.approx(by_hand.log_p, abs=1e-4)
    with pytest.raises(EditError, match="acts by 'keyed', which is no change of weights"):
        apply(model, edits[:1], tmp_path / "folder")


def test_an_effect_of_a_kind_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gpt2")
    [(_, folder), *_] = edit_facts(model, make_method("said", model, moments), FACTS, folder=tmp_path / "said")
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"Unknown kind of effect 'prefix'.*may need a package"):
        Edit.load(str(folder))
