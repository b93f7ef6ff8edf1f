"""What a folder of edits promises: the order of changes, and a ledger whose hashes hold everything that it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import tiny
from factedit.errors import DataError
from factedit.models.adapter import EditableModel
from factedit.stack.check import verify
from factedit.stack.work import apply
from plain import edit_of
from stack_cases import random_edit

CHANGED = r"Entry 2 .* was changed after it was written"
STEP = 2.0**-7  # of bfloat16 from 1 on; below 1 it is half as large


def ones_in_half() -> EditableModel:
    """A model whose layer 1 has a matrix of ones in bfloat16."""
    model = tiny("gpt2")
    model.lm.to(torch.bfloat16)
    with torch.no_grad():
        model.lm.transformer.h[1].mlp.c_proj.weight.fill_(1.0)
    return model


def adding(model: EditableModel, steps: float) -> tuple[Tensor, Tensor]:
    """Factors of a change that adds so many steps to every entry."""
    return torch.full((model.d_mlp, 1), steps * STEP), torch.ones(1, model.d_model)


@pytest.mark.parametrize(("order", "sum_"), [((0.501, -0.3), 1 + STEP), ((-0.3, 0.501), 1.0)])
def test_changes_of_one_matrix_are_made_one_after_the_other_each_rounded(
    order: tuple[float, float], sum_: float, tmp_path: Path
) -> None:
    """1 + 0.501 steps rounds to 1 + a step, from which 0.3 take nothing. The other way round 1 − 0.3 steps is 1 − ½.

    As one edit of two changes, and as two edits in a folder.
    """
    model = ones_in_half()
    weight = model.lm.transformer.h[1].mlp.c_proj.weight
    with edit_of(model, 1, *(adding(model, steps) for steps in order)).applied_to(model):
        assert (weight.float() == sum_).all()
    assert (weight.float() == 1.0).all()
    apply(model, [edit_of(model, 1, adding(model, steps)) for steps in order], tmp_path / "m")
    [stored] = load_file(tmp_path / "m" / "edited-layer1-out.safetensors").values()
    assert (stored.float() == sum_).all()


# -- the ledger, rewritten by somebody who knows how its hashes are made ------------------------------


def written(fields: dict[str, Any]) -> str:
    """A line as the ledger holds it: keys sorted, no spaces."""
    return json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def hash_of(fields: dict[str, Any]) -> str:
    return hashlib.sha256(written({k: v for k, v in fields.items() if k != "hash"}).encode()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tiny("gpt2")
    apply(model, [random_edit(model, 0)], tmp_path / "m")
    apply(str(tmp_path / "m"), [random_edit(model, 1)])
    return tmp_path / "m"


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = folder / "factedit" / "ledger.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["hash"] for entry in entries] == [hash_of(entry) for entry in entries], "the rule, by hand"
    assert [entry["previous"] for entry in entries] == ["", *(entry["hash"] for entry in entries[:-1])]
    change(entries)
    path.write_text("".join(written(entry) + "\n" for entry in entries))


def test_the_hash_of_an_entry_holds_the_hashes_of_the_weights(folder: Path) -> None:
    """A tensor that no edit touched is changed, and its file's new hash written into the last entry."""
    file = next(path for path in folder.glob("*.safetensors") if not path.name.startswith("edited"))
    tensors = load_file(file)
    tensors["transformer.wte.weight"][0, 0] += 1
    save_file(tensors, file)
    new = hashlib.sha256(file.read_bytes()).hexdigest()
    rewrite(folder, lambda entries: entries[-1]["shards"].update({file.name: new}))
    with pytest.raises(DataError, match=CHANGED):
        verify(folder)


def test_the_hash_of_an_entry_holds_that_of_the_one_before(folder: Path) -> None:
    """An early entry is changed with its hash, and the next one made to name it: the chain shows it at once."""

    def forge(entries: list[dict[str, Any]]) -> None:
        entries[1]["conflicts"] = ["never reported"]
        entries[1]["hash"] = hash_of(entries[1])
        entries[2]["previous"] = entries[1]["hash"]

    rewrite(folder, forge)
    with pytest.raises(DataError, match=CHANGED):
        verify(folder)


@pytest.mark.parametrize("field", ["kind", "time", "edits", "standing", "forced", "dtype", "matrices", "versions"])
def test_the_hash_of_an_entry_holds_every_field(folder: Path, field: str) -> None:
    others: dict[str, Any] = {
        "kind": "revert", "time": "2001-01-01T00:00:00+00:00", "edits": [], "standing": [], "forced": True,
        "dtype": "float16", "matrices": [], "versions": {},
    }  # fmt: skip
    rewrite(folder, lambda entries: entries[-1].update({field: others[field]}))
    with pytest.raises(DataError, match=CHANGED):
        verify(folder)
