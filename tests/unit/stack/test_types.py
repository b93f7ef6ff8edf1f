"""Weights stay in the type they are stored in, and an edit made under another `--dtype` says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from factedit.errors import EditError
from factedit.export.ship import ship
from factedit.models.load import load
from factedit.stack.check import verify
from factedit.stack.work import apply, revert
from run_command import ok
from stack_cases import folder_bits, model_bits, random_edit
from tiny_folder import save


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A folder whose weights are stored as bfloat16."""
    folder = save(tmp_path / "half")
    tensors = {name: t.bfloat16() for name, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def kinds(folder: Path) -> set[torch.dtype]:
    return {tensor.dtype for path in folder.glob("*.safetensors") for tensor in load_file(path).values()}


def test_bfloat16_stays_bfloat16_through_apply_and_revert(half: Path, tmp_path: Path) -> None:
    """The edit is made as `factedit edit` does by default, under float32."""
    edits = [random_edit(load(str(half)), n, layer=1) for n in range(2)]
    folders = [edit.save(tmp_path / f"e{n}") for n, edit in enumerate(edits)]
    before = kinds(half)
    said = ok("apply", half, folders[0], "--out", tmp_path / "m", "--threads", 1)
    assert "was made under --dtype float32, and these are the same weights as bfloat16" in " ".join(said.split())
    entry = apply(tmp_path / "m", [edits[1]])
    assert any("was made under --dtype float32" in note for note in entry.conflicts)
    assert not entry.forced
    assert kinds(tmp_path / "m") == before == {torch.bfloat16}
    assert folder_bits(tmp_path / "m") == model_bits(load(str(half), dtype="stored"), edits)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"
    verify(tmp_path / "m", load(str(half), dtype="bfloat16"))
    revert(tmp_path / "m")
    assert load(str(tmp_path / "m"), dtype="stored").fingerprint() == load(str(half), dtype="stored").fingerprint()


def test_an_edit_made_under_another_type_says_so(half: Path, tmp_path: Path) -> None:
    wide, narrow = load(str(half)), load(str(half), dtype="bfloat16")
    for made, met in ((wide, narrow), (narrow, wide)):
        edit = random_edit(made, 1)
        own = str(made.dtype).removeprefix("torch.")
        with (
            pytest.raises(EditError, match=rf"made for as {own}: load them so \(--dtype {own}\)"),
            edit.applied_to(met),
        ):
            pass
        [note] = ship(met, [edit], tmp_path / f"out-{own}", "peft").notes
        assert f"made under --dtype {own}" in note
    other = random_edit(load(str(save(tmp_path / "other"))), 1)
    other = type(other)(**{**vars(other), "made_for": "0" * 64})
    with pytest.raises(EditError, match="Edits do not carry over"), other.applied_to(wide):
        pass
    with pytest.raises(EditError, match="Edits do not carry over"):
        apply(narrow, [other], tmp_path / "n")


def test_weights_of_several_types_are_widened_and_nothing_is_lost(half: Path, tmp_path: Path) -> None:
    tensors = load_file(half / "model.safetensors")
    tensors["transformer.ln_f.weight"] = tensors["transformer.ln_f.weight"].float() + 1e-4
    save_file(tensors, half / "model.safetensors", metadata={"format": "pt"})
    model = load(str(half), dtype="stored")
    assert model.dtype == torch.float32
    assert torch.equal(model.lm.transformer.ln_f.weight.data, tensors["transformer.ln_f.weight"])


def test_a_merged_export_says_that_it_is_wider_than_its_base(half: Path, tmp_path: Path) -> None:
    model = load(str(half))
    [note] = ship(model, [random_edit(model, 1)], tmp_path / "wide", "merged").notes
    assert note == "the base is stored as bfloat16, and this export as float32; --store-as BF16 keeps its type"
    assert ship(model, [random_edit(model, 1)], tmp_path / "narrow", "merged", store_as="BF16").notes == ()
    assert kinds(tmp_path / "narrow") == {torch.bfloat16}
    full = load(str(save(tmp_path / "full")))
    assert ship(full, [random_edit(full, 1)], tmp_path / "same", "merged").notes == ()
