"""Edits that change no weight, on tiny models of families that differ in how they store and call their matrices."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.evaluate.probability import Question, score
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

REQUESTS = [
    EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle"),
    EditRequest(subject="LeBron James", prompt="{} plays", target_new="football"),
]
SETTINGS = {"grace": {"layer": 1, "steps": 3, "learning_rate": 0.2}, "retrieval": {}}


def compute(name: str, model: EditableModel, requests: list[EditRequest] = REQUESTS) -> list[Edit]:
    return list(make_method(name, model, None, **SETTINGS[name]).edit(requests).edits)  # type: ignore[arg-type]


FAMILIES = ("bloom", "falcon", "gemma3_text", "gpt2", "gptj", "llama", "opt", "phi")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> EditableModel:
    return tiny(request.param)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_they_stand_beside_a_model_that_stays_as_it_is(name: str, family: EditableModel) -> None:
    """The weights' bits; one fact or many; what is asked of the edited model is another text or another value."""
    model, before = family, family.fingerprint()
    edits = compute(name, model)
    for request, edit in zip(REQUESTS, edits, strict=True):
        [alone] = compute(name, model, [request])
        for mine, other in zip(edit.effects[0].tensors().values(), alone.effects[0].tensors().values(), strict=True):
            torch.testing.assert_close(mine, other, atol=2e-3, rtol=2e-2)
    asked = [[Question(request.text, request.target_new)] for request in REQUESTS]
    plain, edited = score(model, asked, [None, edits])
    assert all(abs(sum(a[0].log_p) - sum(b[0].log_p)) > 1e-4 for a, b in zip(plain, edited, strict=True))
    with edits[0].applied_to(model):
        assert model.fingerprint() == before
    [after] = score(model, asked, [None])
    assert [own[0].log_p for own in after] == [own[0].log_p for own in plain]
