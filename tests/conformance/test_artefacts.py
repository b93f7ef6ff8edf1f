"""One tiny model of every family: edit, save, apply, the same logits, revert, the same hash."""

from __future__ import annotations

from pathlib import Path

import torch

from factedit.edit.artefact import Edit
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.check import verify
from factedit.stack.work import apply, revert
from stack_cases import random_edit


@torch.no_grad()
def test_edit_save_apply_revert(editable_family: EditableModel, tmp_path: Path) -> None:
    model, ids = editable_family, torch.tensor([[5, 9, 200, 41]])
    edit = Edit.load(random_edit(model, 1).save(tmp_path / "e"))
    before = model.fingerprint()
    with edit.applied_to(model):
        wanted, edited = model.lm(input_ids=ids).logits, model.fingerprint()
    assert not torch.equal(wanted, model.lm(input_ids=ids).logits)
    apply(model, [edit], tmp_path / "m")
    loaded = load(str(tmp_path / "m"))
    assert torch.equal(loaded.lm(input_ids=ids).logits, wanted)
    assert loaded.fingerprint() == edited
    verify(tmp_path / "m", model)
    revert(tmp_path / "m", edit)
    assert load(str(tmp_path / "m")).fingerprint() == before == model.fingerprint()
