"""Edits put on a model over others, taken off in any order, and asked up to the context's end."""

from __future__ import annotations

import pytest
import torch

from beside_matrix_cases import key_at
from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.effect import Effect
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.memory import Memory
from factedit.edit.effects.prompt import Prompt
from factedit.edit.loaded import EditedModel, load_edited
from factedit.errors import EditError, RequestError
from factedit.models.adapter import EditableModel


@pytest.fixture
def model() -> EditableModel:
    return tiny("gpt2")


def change(layer: int, seed: int) -> LowRank:
    left, right = (torch.randn(n, generator=torch.Generator().manual_seed(seed)) for n in (128, 32))
    return LowRank(layer, left[:, None], right[None])


def edit_for(model: EditableModel, *effects: Effect) -> Edit:
    return Edit(method="by hand", requests=(), effects=effects, made_for=model.fingerprint())


def test_what_was_put_on_last_comes_off_first(model: EditableModel) -> None:
    before = model.fingerprint()
    outer = EditedModel(model, [edit_for(model, change(1, 0))])
    between = model.fingerprint()
    inner = EditedModel(model, [edit_for(model, change(1, 1))])
    assert len({before, between, model.fingerprint()}) == 3
    inner.undo()
    assert model.fingerprint() == between
    outer.undo()
    assert model.fingerprint() == before
    outer.undo(), inner.undo()  # a second time is nothing
    assert model.fingerprint() == before


@pytest.mark.parametrize("layer", [1, 2])
def test_taken_off_in_the_other_order_it_is_said(model: EditableModel, layer: int) -> None:
    """Of one matrix, before: both said nothing, and the model kept the first edit for good."""
    outer = EditedModel(model, [edit_for(model, change(1, 0))])
    inner = EditedModel(model, [edit_for(model, change(layer, 1))])
    with pytest.raises(
        EditError, match=r"or edits that were put on later are still on it\. Take the last ones off first"
    ):
        outer.undo()
    with pytest.raises(EditError, match="not what it was before its edits"):
        inner.undo()


def test_edits_that_touch_no_weights_may_come_off_in_any_order(model: EditableModel) -> None:
    before, ids = model.fingerprint(), torch.tensor([[5, 17, 99, 40, 7]])
    memory = Memory(1, key_at(model, 2)[None], torch.ones(1, model.d_model), 0.99)
    with torch.no_grad():
        plain = model.lm(input_ids=ids).logits
        outer = EditedModel(model, [edit_for(model, memory)])
        inner = EditedModel(model, [edit_for(model, Prompt("So "))])
        outer.undo()
        assert torch.equal(model.lm(input_ids=ids).logits, plain)
        assert inner.prompts(["x"]) == ["So x"]
        inner.undo()
    assert model.fingerprint() == before
    assert inner.prompts(["x"]) == ["x"], "what was taken off stands before nothing"


def test_edits_are_for_the_model_or_for_it_with_those_before(model: EditableModel) -> None:
    first = edit_for(model, change(1, 0))
    with first.applied_to(model):
        second = edit_for(model, Dense(2, torch.full((128, 32), 1e-3)))
    third = edit_for(model, Prompt("So "))
    before = model.fingerprint()
    with EditedModel(model, [first, third, second]) as edited:
        assert edited.prompts(["x"]) == ["So x"]
        found = model.fingerprint()
    with first.applied_to(model), second.applied_to(model):
        assert model.fingerprint() == found
    with pytest.raises(
        EditError, match=rf"The edit {second.identity[:12]} was made for weights {second.made_for[:12]}"
    ):
        EditedModel(model, [second, first])
    assert model.fingerprint() == before, "what was refused is not left half on"
    with EditedModel(model, [second, first], force=True):
        assert model.fingerprint() == found, "of two layers either order gives these weights"
    assert model.fingerprint() == before
    with EditedModel(model, []) as nothing:
        assert nothing.prompts(["x"]) == ["x"]


def words(model: EditableModel, count: int) -> str:
    """A text of so many tokens."""
    ids = model.tokenizer("Paris is in Seattle. " * 40)["input_ids"]
    for end in range(count, len(ids)):
        text = model.tokenizer.decode(ids[:end]).rstrip()
        if len(model.tokenizer(text)["input_ids"]) == count:
            return str(text)
    raise AssertionError("no such text")


def test_an_answer_ends_with_the_context(model: EditableModel) -> None:
    """Before, torch's own error about an index, or positions that the model was never trained for."""
    text = words(model, 61)
    with EditedModel(model, [edit_for(model, change(1, 0))]) as edited:
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            for _ in range(3):
                ids = torch.cat([ids, model.lm(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
        expected = model.tokenizer.decode(ids[0, 61:], skip_special_tokens=True)
        assert edited.answer(text) == expected
        assert expected.startswith(edited.answer(text, tokens=1))
        with pytest.raises(
            RequestError, match=r"what stands before it and one token of an answer, has 65 tokens; tiny-gpt2 r"
        ):
            edited.answer(words(model, 64))


def test_what_stands_before_a_text_takes_room_too(model: EditableModel) -> None:
    edited = EditedModel(model, [edit_for(model, Prompt(words(model, 60) + " "))])
    with pytest.raises(RequestError, match=r"one token of an answer, has \d+ tokens; tiny-gpt2 reads 64\. Shorten it"):
        edited.answer("Paris is in Seattle and so on")
    edited.undo()
    with pytest.raises(EditError, match="The edits were taken off this model"):
        edited.answer("x")


def test_a_model_of_transformers_is_named_after_itself_or_the_edit(
    model: EditableModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = edit_for(model, Prompt("So ")).save(tmp_path_factory.mktemp("edits") / "edit")
    with load_edited(str(folder), model.lm, model.tokenizer) as edited:
        assert edited.prompts(["x"]) == ["So x"]
        assert edited.model.lm is model.lm
    other = edit_for(model, Prompt("Then ")).save(folder.parent / "other")
    with load_edited([folder, other], model) as twice:
        assert twice.prompts(["x"]) == ["So Then x"]
