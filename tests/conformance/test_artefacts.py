"""One tiny model of every family: edit, save, apply, the same logits, revert, the same hash."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import randomised, tiny_tokenizer
from factedit.edit.artefact import Edit
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.check import verify
from factedit.stack.work import apply, revert
from stack_cases import random_edit
from tiny_families import tiny_family_lm

# rows whose layers differ, or store in a way of their own
MIXED = ("granite", "gemma4_text", "mpt", "lfm2", "olmo_hybrid", "falcon_h1", "jamba", "qwen2_moe", "llama4_text")

EXACT = {"rtol": 0.0, "atol": 0.0}


def any_experts(model: EditableModel) -> bool:
    return any(model.mixture(layer) for layer in range(model.n_layer))


@pytest.mark.parametrize("name", MIXED)
def test_a_layer_with_one_mlp_where_others_differ(name: str, tmp_path: Path) -> None:
    model = EditableModel(randomised(tiny_family_lm(name)), tiny_tokenizer(), name=name)
    _check(model, next(n for n in range(4) if model.places[n].matrices), tmp_path)


def test_edit_save_apply_revert(editable_family: EditableModel, tmp_path: Path) -> None:
    _check(editable_family, 1, tmp_path)


@torch.no_grad()
def _check(model: EditableModel, layer: int, tmp_path: Path) -> None:
    ids = torch.tensor([[5, 9, 200, 41]])
    edit = Edit.load(random_edit(model, layer).save(tmp_path / "e"))
    before = model.fingerprint()
    with edit.applied_to(model):
        wanted, edited = model.lm(input_ids=ids).logits, model.fingerprint()
    assert not torch.equal(wanted, model.lm(input_ids=ids).logits)
    apply(model, [edit], tmp_path / "m")
    loaded = load(str(tmp_path / "m"))
    # of experts, transformers chooses another order of summation on loading
    torch.testing.assert_close(loaded.lm(input_ids=ids).logits, wanted, **({} if any_experts(model) else EXACT))
    assert loaded.fingerprint() == edited
    verify(tmp_path / "m", model)
    revert(tmp_path / "m", edit)
    assert load(str(tmp_path / "m")).fingerprint() == before == model.fingerprint()
