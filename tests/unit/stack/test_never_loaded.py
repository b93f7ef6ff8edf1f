"""A folder of edits is changed without loading its model: only the changed tensors are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from factedit.models.load import load
from factedit.stack.work import apply, revert
from stack_cases import folder_bits, random_edit
from tiny_folder import save


def test_further_edits_and_taking_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(str(save(tmp_path / "base")))
    first, second = random_edit(model, 0), random_edit(model, 1)
    apply(model, [first], tmp_path / "edited")
    one = folder_bits(tmp_path / "edited")

    def never(*_args: object, **_named: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("factedit.models.load.read_files", never)
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel.from_pretrained", never)
    apply(str(tmp_path / "edited"), [second])
    assert folder_bits(tmp_path / "edited") != one
    revert(tmp_path / "edited", second)
    assert folder_bits(tmp_path / "edited") == one
    revert(tmp_path / "edited")
