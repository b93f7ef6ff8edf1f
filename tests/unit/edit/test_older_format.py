"""Edits and ledgers of format 2, written by the version before: read whole, under the names they had."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import ROOT, tiny
from factedit.edit.artefact import Edit
from factedit.edit.show import warnings
from factedit.errors import DataError, EditError
from factedit.models.load import load
from factedit.stack.check import log, verify
from factedit.stack.work import apply, revert
from stack_cases import folder_bits, model_bits, random_edit

OLDER = ROOT / "tests" / "golden" / "format-2"
NAMES = json.loads((OLDER / "identities.json").read_text())


def test_an_edit_is_read_whole_under_its_name(tmp_path: Path) -> None:
    edit = Edit.load(OLDER / "edit")
    assert edit.identity == NAMES["edit"]
    [note] = edit.notes
    assert (note.before["target_new"], note.after["continuation"]) == (0.01, " yes")
    assert note.diagnostics == {"denominator": 0.25, "losses": [[1.0, 0.5, 0.25, 0.25]]}
    assert edit.diagnostics == {"update_norm": 0.5, "weight_norm": 2.0}
    assert edit == random_edit(tiny("gpt2"), 1), "the same change, today"
    again = Edit.load(edit.save(tmp_path / "e"))
    assert json.loads((tmp_path / "e" / "edit.json").read_text())["format"] == 3
    assert again.identity == NAMES["edit"]


def test_an_edit_that_does_not_say_its_weights_is_applied_by_force_alone() -> None:
    edit, model = Edit.load(OLDER / "unbound"), tiny("gpt2")
    assert edit.identity == NAMES["unbound"]
    assert "it does not say which weights it was made for" in warnings(edit)
    with pytest.raises(EditError, match="made for weights unknown"), edit.applied_to(model):
        pass
    with edit.applied_to(model, force=True):
        assert model.fingerprint() != tiny("gpt2").fingerprint()


def test_a_ledger_goes_on_and_comes_off(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    shutil.copytree(OLDER / "stack", folder)
    assert [entry.kind for entry in log(folder)] == ["base", "apply", "revert"]
    assert [fact.text for fact in log(folder)[1].standing[1].facts] == ["Subject 2 is in → Needle"]
    verify(folder, tiny("gpt2"))
    third = random_edit(tiny("gpt2"), 3)
    apply(str(folder), [third])
    edits = [Edit.load(OLDER / "edit"), third]
    assert folder_bits(folder) == model_bits(tiny("gpt2"), edits)
    revert(folder)
    verify(folder)
    assert load(str(folder)).fingerprint() == tiny("gpt2").fingerprint()


def test_a_changed_older_entry_is_found_out(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    shutil.copytree(OLDER / "stack", folder)
    ledger = folder / "factedit" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("Subject 2", "Subject 5"))
    with pytest.raises(DataError, match=r"Entry 1 .* was changed after it was written"):
        log(folder)
