"""What is compared after shipping: the very rows of tokens that an edit was made and scored on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny_tokenizers
from factedit.edit.artefact import Edit
from factedit.export.prove import NEIGHBOURS, OPENINGS, prompts_of
from factedit.export.ship import ship
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from stack_cases import random_edit
from tiny_tokenizers import model_with, pieces


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return model_with(tiny_tokenizers.gemma_like())


def edit_of(model: EditableModel, prompt: str, target: str) -> Edit:
    request = EditRequest(subject="Cat", prompt=prompt, target_new=target)
    return replace(random_edit(model, 1), requests=(request,))


@pytest.mark.parametrize(
    ("prompt", "target", "row", "first"),
    [
        ("The year of {} is", "1985", "<bos> The ▁year ▁of ▁Cat ▁is", "▁"),
        ("The year of {} is ", "1985", "<bos> The ▁year ▁of ▁Cat ▁is", "▁"),
        ("The year of {} is ", "Paris", "<bos> The ▁year ▁of ▁Cat ▁is", "▁Paris"),
        ("The cost of {} is $", "5", "<bos> The ▁cost ▁of ▁Cat ▁is ▁ $", "5"),
        ("<bos>The year of {} was", "1985", "<bos> The ▁year ▁of ▁Cat ▁was", "▁"),
    ],
)
def test_the_target_is_read_where_it_begins(
    model: EditableModel, tmp_path: Path, prompt: str, target: str, row: str, first: str
) -> None:
    """Against the whole model, run on tokens written by hand."""
    ids = model.tokenizer.convert_tokens_to_ids(row.split(" "))
    token = model.tokenizer.convert_tokens_to_ids(first)
    edit = edit_of(model, prompt, target)
    proof = ship(model, [edit], tmp_path / "out", "peft").proof
    with torch.no_grad():
        base = model.lm(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[token]
        with edit.applied_to(model):
            edited = model.lm(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[token]
    [found] = proof.targets
    assert found["base"] == pytest.approx(float(base), rel=1e-4)
    assert found["memory"] == pytest.approx(float(edited), rel=1e-4)
    assert found["shipped"] == pytest.approx(float(edited), rel=1e-3)
    assert proof.prompts == 1 + len(OPENINGS) + NEIGHBOURS


def test_openings_stand_after_a_start_token_that_the_prompt_brings(model: EditableModel) -> None:
    rows = prompts_of(model, [edit_of(model, "<bos>{} was", "1985")])
    found = [pieces(model, row) for row in rows]
    assert all(row.count("<bos>") == 1 and row[0] == "<bos>" for row in found)
    assert found[0] == ["<bos>", "Cat", "▁was"]
    assert found[1][1:4] == ["T", "o", "u"], "Tourists come from far away."


def test_what_the_user_names_is_compared_too_and_nothing_twice(model: EditableModel) -> None:
    edit = edit_of(model, "The year of {} is", "1985")
    alone = prompts_of(model, [edit])
    more = prompts_of(model, [edit], ["The answer is ", "The answer is", "The year of Cat is"])
    assert more[: len(alone)] == alone
    assert [pieces(model, row) for row in more[len(alone) :]] == [["<bos>", "The", "▁answer", "▁is"]]
    assert [pieces(model, row) for row in prompts_of(model, [])] == [["<bos>", "The"]]
