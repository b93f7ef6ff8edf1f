"""What stands in matrices' places for a while, and a model as it was with fewer of them on."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.errors import EditError
from factedit.models.adapter import EditableModel


@pytest.fixture(params=["gpt2", "gemma3_text", "mixtral"])
def model(request: pytest.FixtureRequest) -> EditableModel:
    return tiny(request.param)


def place(model: EditableModel, layer: int) -> str:
    return "out.1" if model.mixture(layer) is not None else "out"


def test_the_later_ones_are_off_for_a_while_and_on_again(model: EditableModel) -> None:
    names = {layer: place(model, layer) for layer in (1, 2)}
    before = {layer: model.weight(layer, names[layer]).clone() for layer in (1, 2)}
    unedited = model.fingerprint()
    with model.with_weight(1, 2 * before[1], names[1]):
        once = model.fingerprint()
        with model.with_weight(2, 3 * before[2], names[2]), model.with_weight(1, 5 * before[1], names[1]):
            thrice = model.fingerprint()
            assert len(model.changes) == 3
            with model.with_first_changes(1):
                assert model.fingerprint() == once
                assert len(model.changes) == 1
                assert torch.equal(model.weight(1, names[1]), 2 * before[1])
                assert torch.equal(model.weight(2, names[2]), before[2])
                with model.with_weight(2, 7 * before[2], names[2]):  # a change meanwhile goes with its own block
                    assert torch.equal(model.weight(2, names[2]), 7 * before[2])
                assert model.fingerprint() == once
            with model.with_first_changes(0):
                assert model.fingerprint() == unedited
            assert model.fingerprint() == thrice
            assert torch.equal(model.weight(1, names[1]), 5 * before[1])
        assert model.fingerprint() == once
    assert model.fingerprint() == unedited
    assert len(model.changes) == 0


def test_they_are_on_again_after_an_error(model: EditableModel) -> None:
    name, before = place(model, 1), model.fingerprint()
    with model.with_weight(1, 2 * model.weight(1, name), name):
        edited = model.fingerprint()
        with pytest.raises(EditError), model.with_first_changes(0):
            model.matrix(1, name).replaced(model.weight(1, name)[:1]).__enter__()
        assert model.fingerprint() == edited
    assert model.fingerprint() == before


def test_a_change_that_is_refused_is_not_counted(model: EditableModel) -> None:
    name = place(model, 1)
    with pytest.raises(EditError, match="not finite"), model.with_weight(1, model.weight(1, name) * torch.nan, name):
        pass
    assert len(model.changes) == 0


def test_the_fingerprint_that_is_known_is_of_what_is_on(model: EditableModel) -> None:
    name, before = place(model, 1), model.fingerprint()
    with model.unchanged():
        assert model.fingerprint() == before
        with model.with_weight(1, 2 * model.weight(1, name), name):
            edited = model.fingerprint()
            assert edited != before
            with model.with_first_changes(0):
                assert model.fingerprint() == before
            assert model.fingerprint() == edited
        assert model.fingerprint() == before
