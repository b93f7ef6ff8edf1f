"""Whatever is applied, reverted, killed and resumed: the bits are those of a legal state, and the history is whole."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit import disk
from factedit.cache import sha256_file
from factedit.edit.artefact import Edit
from factedit.export.ship import ship
from factedit.models.adapter import EditableModel
from factedit.stack.check import verify
from factedit.stack.work import apply, revert
from processes import killed
from stack_cases import folder_bits, model_bits, random_edit

INTERLEAVINGS, STEPS = (200 if os.environ.get("FACTEDIT_TRIALS") == "all" else 25), 4


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing through to the disk is for power failures, and kills do not need it."""
    monkeypatch.setattr(disk, "_sync", lambda _path, _flags: None)


def edits_of(model: EditableModel) -> list[Edit]:
    """Edits that share matrices and have matrices of their own."""
    places = (("out", 1, 1), ("out", 1, 2), ("in", 1, None), ("out", 2, 1))
    return [random_edit(model, n, matrix=m, layer=layer, rank=rank) for n, (m, layer, rank) in enumerate(places)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
def test_every_state_is_legal_whatever_is_killed(tmp_path: Path) -> None:
    """Random interleavings on a tiny model; each step is a legal operation, about half of them killed halfway."""
    model = tiny("gpt2", n_layer=3, n_embd=16, n_head=2)
    edits = edits_of(model)
    legal: dict[tuple[int, ...], str] = {}

    def bits(standing: tuple[int, ...]) -> str:
        return legal.setdefault(standing, model_bits(model, [edits[n] for n in standing]))

    kills = {"before": 0, "after": 0}
    for seed in range(INTERLEAVINGS):
        draw, folder = random.Random(seed), tmp_path / f"m{seed}"
        standing: tuple[int, ...] = ()
        for _ in range(STEPS):
            absent = [n for n in range(len(edits)) if n not in standing]
            if standing and (not absent or draw.random() < 0.5):
                gone = draw.choice(standing)
                after = tuple(n for n in standing if n != gone)
                action = lambda f=folder, g=gone: revert(f, edits[g])  # noqa: E731
            else:
                new = draw.choice(absent)
                after, source = (*standing, new), folder if folder.exists() else model
                action = lambda s=source, f=folder, n=new: apply(s, [edits[n]], f)  # noqa: E731
            if draw.random() < 0.5 and killed(action, draw.randrange(1, 90)):
                if not folder.exists():
                    assert not standing, "a folder that was there is gone"
                    kills["before"] += 1
                    continue
                found = folder_bits(folder)
                assert found in (bits(standing), bits(after))
                kills["after" if found == bits(after) else "before"] += 1
                standing = after if found == bits(after) else standing
            else:
                if not folder.exists() or folder_bits(folder) != bits(after):
                    action()
                standing = after
            assert folder_bits(folder) == bits(standing)
            assert verify(folder).edits == len(standing)
    assert kills["before"] > INTERLEAVINGS // 4, kills
    assert kills["after"] > INTERLEAVINGS // 40, kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
def test_an_export_that_is_killed_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    model = tiny("gpt2", n_layer=3, n_embd=16, n_head=2)
    old, new = edits_of(model)[:2]
    ship(model, [old], tmp_path / "out", "llama-lora")
    seen = set()
    for after in range(1, 400, 13 if INTERLEAVINGS > 100 else 40):
        killed(lambda: ship(model, [new], tmp_path / "out", "llama-lora", overwrite=True), after)
        record = json.loads((tmp_path / "out" / "factedit-export.json").read_text())
        assert {p.name for p in (tmp_path / "out").iterdir()} == {*record["files"], "factedit-export.json"}
        assert all(sha256_file(tmp_path / "out" / name) == sha for name, sha in record["files"].items())
        seen.add(record["edits"][0])
    assert seen == {old.identity, new.identity}


def test_the_order_of_edits_matters_to_the_bits() -> None:
    """Or the test above could not tell a folder that keeps the wrong order."""
    torch.manual_seed(0)
    model = tiny("gpt2")
    edits = [random_edit(model, n, layer=1) for n in range(2)]
    assert model_bits(model, edits) != model_bits(model, edits[::-1])
