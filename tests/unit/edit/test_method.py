"""The contract of methods: made for one model, with scope and state, buildable elsewhere, checked."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace

import pytest

from conftest import random_moment, tiny
from factedit.edit.artefact import Edit
from factedit.edit.method import Made, check_made
from factedit.edit.method_table import MethodSpec, make_method
from factedit.edit.state import State
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.fingerprint import Fingerprint
from factedit.stats.second_moment import SecondMoment

REQUESTS = [
    EditRequest(subject="The Space Needle", prompt="{} is in", target_new="Paris"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
]
SETTINGS = {"layer": 1, "steps": 3, "context_templates": ("{}",)}


def moments(model: EditableModel, _layer: int) -> SecondMoment:
    return random_moment(model.d_mlp)


def test_a_spec_makes_the_same_method_in_another_process() -> None:
    spec = MethodSpec("rome", moments, SETTINGS)
    model = tiny("gpt2")
    ours = make_method("rome", model, moments, **SETTINGS).edit(REQUESTS).edits
    theirs = pickle.loads(pickle.dumps(spec)).build(tiny("gpt2")).edit(REQUESTS).edits
    assert [edit.identity for edit in ours] == [edit.identity for edit in theirs]


def test_an_edit_is_bound_from_birth() -> None:
    model = tiny("gpt2")
    for name, settings in (("rome", SETTINGS), ("ft", {"layer": 1, "steps": 2}), ("kn", {"threshold": 0.5})):
        [edit] = make_method(name, model, moments, **settings).edit(REQUESTS[:1]).edits
        assert edit.made_for == model.fingerprint()
        with pytest.raises(EditError, match="Edits do not carry over"), edit.applied_to(tiny("gpt2", seed=3)):
            pass
    with pytest.raises(EditError, match="does not say which weights"):
        replace(edit, made_for="")


def test_in_a_sequence_an_edit_is_bound_to_the_weights_as_they_are() -> None:
    model = tiny("gpt2")
    method = make_method("rome", model, moments, **SETTINGS)
    [first] = method.edit(REQUESTS[:1]).edits
    with first.applied_to(model):
        [second] = method.edit(REQUESTS[1:]).edits
        assert second.made_for == model.fingerprint() != first.made_for


class Wrong:
    name, paper, scope = "wrong", "", "each"

    def __init__(self, edits: Sequence[Edit]) -> None:
        self.edits = tuple(edits)

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        return Made(self.edits)

    def describe(self) -> dict[str, object]:
        return {}


def test_what_a_method_made_is_checked() -> None:
    edits = make_method("rome", tiny("gpt2"), moments, **SETTINGS).edit(REQUESTS).edits
    good = Wrong(edits)
    assert check_made(good, REQUESTS, good.edit(REQUESTS)).edits == edits
    for bad in (edits[:1], edits[::-1], ()):
        method = Wrong(bad)
        with pytest.raises(EditError, match=r"was given 2 requests and made .* Correct the method"):
            check_made(method, REQUESTS, method.edit(REQUESTS))
    good.scope = "joint"  # type: ignore[misc]
    with pytest.raises(EditError, match="makes one edit of all"):
        check_made(good, REQUESTS, good.edit(REQUESTS))


def test_the_weights_are_hashed_once_inside_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = tiny("gpt2"), []
    real = Fingerprint.now
    monkeypatch.setattr(Fingerprint, "now", lambda self: asked.append(1) or real(self))
    [edit] = make_method("rome", model, moments, **SETTINGS).edit(REQUESTS[:1]).edits
    asked.clear()
    with model.unchanged():
        before = model.fingerprint()
        with edit.applied_to(model):
            edited = model.fingerprint()
            assert model.fingerprint() == edited
        assert model.fingerprint() == before
    assert len(asked) == 2, "once unedited, once edited"
    with edit.applied_to(model):
        assert model.fingerprint() == edited
    model.lm.transformer.h[0].mlp.c_fc.weight.data[0, 0] += 1.0
    assert model.fingerprint() not in (before, edited), "outside, every question is answered anew"
