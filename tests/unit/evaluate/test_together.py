"""Edits that are on a model together: the bits of a model that has them for good."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.prompt import Prompt
from factedit.edit.method_table import make_method
from factedit.errors import EditError
from factedit.evaluate.probability import Question
from factedit.evaluate.together import Together
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import edit_of
from stack_cases import random_edit
from throwaway.said import Prefix

IDS = torch.tensor([[5, 9, 200, 41]])


def logits(model: EditableModel) -> torch.Tensor:
    with torch.no_grad():
        return model.lm(input_ids=IDS).logits


def said(model: EditableModel, text: str) -> Edit:
    return Edit(method="said", requests=(), effects=(Prefix(text),), made_for=model.fingerprint())


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
def test_they_are_put_on_one_after_the_other(family: str) -> None:
    model = tiny(family)
    edits = [random_edit(model, seed, layer=layer) for seed, layer in ((1, 1), (2, 2), (3, 1))]
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.applied_to(model, force=True))
        wanted, weights = logits(model), model.fingerprint()
    before = model.fingerprint()
    with Together(model).plus(edits[:1]).plus(edits[1:]).on(model):
        assert torch.equal(logits(model), wanted)
        assert model.fingerprint() == weights
    assert model.fingerprint() == before


def test_each_matrix_is_held_once_however_many_edits_change_it() -> None:
    model = tiny("gpt2")
    together = Together(model)
    for seed in range(5):
        left = torch.randn(model.d_mlp, 1, generator=torch.Generator().manual_seed(seed))
        together = together.plus([edit_of(model, 1, (left, torch.ones(1, model.d_model)))])
    assert list(together.weights) == [(1, "out")]
    assert together.others == ()


def test_further_edits_leave_what_was_there_as_it_was() -> None:
    model = tiny("gpt2")
    one = Together(model).plus([random_edit(model, 1)])
    kept = {place: weight.clone() for place, weight in one.weights.items()}
    one.plus([random_edit(model, 1), random_edit(model, 2)])
    assert all(torch.equal(one.weights[place], weight) for place, weight in kept.items())


def test_texts_of_edits_stand_one_after_the_other() -> None:
    model = tiny("gpt2")
    facts = [EditRequest(subject=name, prompt="{} is in", target_new="Seattle") for name in ("Paris", "Rome")]
    ice = make_method("ice", model, None).edit(facts).edits  # type: ignore[arg-type]
    together = Together(model).plus(ice[:1]).plus(ice[1:])
    [[found]] = together.asked([[Question("Who?", "x")]])
    assert found.prompt == "New Fact: Paris is in Seattle\nNew Fact: Rome is in Seattle\nPrompt: Who?"
    other = Edit(method="by hand", requests=(), effects=(Prompt("Note: x\n", "Q: "),), made_for="any")
    [[found]] = together.plus([other]).asked([[Question("Who?", "x")]])
    assert found.prompt.startswith("Note: x\nQ: New Fact: Paris"), "with another word before the prompt they stay apart"


def test_edits_of_prompts_of_other_kinds_are_nested_in_their_order_and_touch_no_weights() -> None:
    model = tiny("gpt2")
    together = Together(model).plus([said(model, "One. "), random_edit(model, 1), said(model, "Two. ")])
    asked = together.asked([[Question("Paris is in", "France")], []])
    assert asked == [[Question("Two. One. Paris is in", "France")], []]
    assert len(together.others) == 2
    assert Together(model).asked([[Question("as it is", "x")]]) == [[Question("as it is", "x")]]


def test_an_edit_of_another_model_is_refused() -> None:
    other = tiny("gpt2", n_embd=64, hidden_size=64)
    with pytest.raises(EditError, match="was made for another model"):
        Together(tiny("gpt2")).plus([random_edit(other, 1)])
