"""Edits of experts in folders: applied, verified, edited again, taken off to the bit, merged; the oracle is memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.errors import EditError
from factedit.export.ship import ship
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.check import verify
from factedit.stack.opened import open_edits
from factedit.stack.work import apply, revert
from stack_cases import random_edit

IDS = torch.tensor([[5, 9, 200, 41]])
FAMILIES = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> EditableModel:
    return tiny(request.param)


def edits_of(model: EditableModel) -> list[Edit]:
    """Of two experts of one layer (in one edit of two effects), of a first matrix, and of what else a family has."""
    one, two = (random_edit(model, n, layer=1, matrix=f"out.{n}") for n in (1, 3))
    both = Edit(
        method="random", requests=(EditRequest(subject="Both", prompt="{} is in", target_new="Paris"),),
        effects=(*one.effects, *two.effects), made_for=model.fingerprint(),
    )  # fmt: skip
    more = ["out.shared"] if model.family.shared else ["out.0"]
    return [
        both,
        random_edit(model, 5, layer=2, matrix="in.2"),
        *(random_edit(model, 7, layer=1, matrix=m) for m in more),
    ]


@torch.no_grad()
def test_apply_verify_edit_again_and_revert_to_the_bit(model: EditableModel, tmp_path: Path) -> None:
    edits, before, folder = edits_of(model), model.fingerprint(), tmp_path / "m"
    with edits[0].applied_to(model):
        first = model.fingerprint()
        with edits[1].applied_to(model, force=True), edits[2].applied_to(model, force=True):
            wanted, all_on = model.lm(input_ids=IDS).logits, model.fingerprint()
    entry = apply(model, edits[:1], folder)
    assert [matrix.stacked for matrix in entry.matrices] == [True]
    assert load(str(folder)).fingerprint() == first
    apply(folder, edits[1:], force=True)
    loaded = load(str(folder))
    assert loaded.fingerprint() == all_on
    torch.testing.assert_close(loaded.lm(input_ids=IDS).logits, wanted)
    assert verify(folder, model).edits == 3
    assert open_edits(folder).base.fingerprint() == before
    for edit in edits[1:]:
        revert(folder, edit)
    assert load(str(folder)).fingerprint() == first
    revert(folder, edits[0])
    assert load(str(folder)).fingerprint() == before == model.fingerprint()
    verify(folder, model)


def test_merged_to_the_bit_and_adapters_refused(model: EditableModel, tmp_path: Path) -> None:
    edits, before = edits_of(model)[:1], model.fingerprint()
    with edits[0].applied_to(model):
        edited = model.fingerprint()
    shipped = ship(model, edits, tmp_path / "merged", "merged", base="tiny")
    assert shipped.proof.largest_logit_difference < 1e-4
    assert load(str(tmp_path / "merged")).fingerprint() == edited
    halves = ship(model, edits, tmp_path / "half", "merged", base="tiny", store_as="BF16")
    assert len(halves.stored) == 2
    assert all(0 < own.error < 0.05 for own in halves.stored)
    for form in ("peft", "llama-lora"):
        with pytest.raises(EditError, match=r"has no place for a change of one expert.*'out\.1' of layer 1.*'merged'"):
            ship(model, edits, tmp_path / form, form, base="tiny")
    assert model.fingerprint() == before


def test_an_edit_of_another_models_experts_is_refused(tmp_path: Path) -> None:
    model, dense = tiny("qwen3_moe"), tiny("qwen3")
    with pytest.raises(EditError, match="was made for"):
        apply(dense, edits_of(model)[:1], tmp_path / "m")
