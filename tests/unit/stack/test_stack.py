"""Apply, revert, log and verify on a folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.errors import DataError, EditError, ModelError, ResourceError, UnsafeFile, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.check import log, verify
from factedit.stack.folder import is_stack
from factedit.stack.work import apply, revert
from stack_cases import folder_bits, model_bits, random_edit
from tiny_folder import save, save_sharded


@pytest.fixture
def model() -> EditableModel:
    return tiny("gpt2")


def stack(model: EditableModel, folder: Path, count: int = 3, **changes: int | None) -> list[Edit]:
    edits = [random_edit(model, seed, **changes) for seed in range(count)]
    apply(model, edits, folder)
    return edits


def test_the_folder_loads_as_the_edited_model(model: EditableModel, tmp_path: Path) -> None:
    edits = [random_edit(model, 0), random_edit(model, 4, matrix="in", rank=None), random_edit(model, 8, rank=3)]
    before = model.fingerprint()
    entry = apply(model, edits, tmp_path / "m")
    assert model.fingerprint() == before
    assert entry.kind == "apply"
    assert [s.identity for s in entry.standing] == [e.identity for e in edits]
    loaded = load(str(tmp_path / "m"))
    with edits[0].applied_to(model), edits[1].applied_to(model, force=True), edits[2].applied_to(model, force=True):
        assert loaded.fingerprint() == model.fingerprint()
        ids = torch.tensor([[5, 9, 200]])
        assert torch.equal(loaded.lm(input_ids=ids).logits, model.lm(input_ids=ids).logits)
    assert verify(tmp_path / "m", model).matrices == 2
    assert is_stack(tmp_path / "m")
    assert not is_stack(tmp_path)


@pytest.mark.parametrize("out", [0, 1, 2])
def test_one_taken_from_anywhere_leaves_the_others_exactly(model: EditableModel, tmp_path: Path, out: int) -> None:
    """All three lie on one matrix, where floats added in another order give other bits."""
    edits = stack(model, tmp_path / "m", layer=1)
    revert(tmp_path / "m", edits[out])
    rest = [edit for n, edit in enumerate(edits) if n != out]
    assert folder_bits(tmp_path / "m") == model_bits(model, rest)
    entry = apply(tmp_path / "m", [edits[out]])
    assert folder_bits(tmp_path / "m") == model_bits(model, [*rest, edits[out]])
    assert [e.kind for e in log(tmp_path / "m")] == ["base", "apply", "revert", "apply"]
    assert entry.number == 3
    verify(tmp_path / "m", model)


def test_all_taken_off_is_the_base(model: EditableModel, tmp_path: Path) -> None:
    stack(model, tmp_path / "m")
    revert(tmp_path / "m")
    assert load(str(tmp_path / "m")).fingerprint() == model.fingerprint()
    with pytest.raises(UsageError, match=r"No edit is on .*: there is nothing to revert"):
        revert(tmp_path / "m")
    assert verify(tmp_path / "m").edits == 0


def test_edits_are_named_by_folder_or_digits(model: EditableModel, tmp_path: Path) -> None:
    edits = stack(model, tmp_path / "m")
    revert(tmp_path / "m", edits[0].save(tmp_path / "e"))
    revert(tmp_path / "m", edits[1].identity[:8])
    assert folder_bits(tmp_path / "m") == model_bits(model, edits[2:])
    with pytest.raises(UsageError, match=r"is not one of them.*Subject 2 is in"):
        revert(tmp_path / "m", edits[1].identity)
    with pytest.raises(UsageError, match="is not one of them"):
        revert(tmp_path / "m", "")


def test_an_edit_of_a_new_matrix_moves_it_out_of_its_shard(tmp_path: Path) -> None:
    base = load(str(save_sharded(tmp_path / "base")))
    edits = [random_edit(base, seed, layer=1, matrix=matrix) for seed, matrix in enumerate(("out", "in"))]
    apply(base, edits[:1], tmp_path / "m")
    shards = {p.name for p in (tmp_path / "m").glob("*.safetensors")}
    assert shards == {"model-1.safetensors", "model-2.safetensors", "edited-layer1-out.safetensors"}
    apply(tmp_path / "m", edits[1:])
    assert folder_bits(tmp_path / "m") == model_bits(base, edits)
    revert(tmp_path / "m")
    assert load(str(tmp_path / "m")).fingerprint() == base.fingerprint()
    verify(tmp_path / "m", base)


def test_a_stack_can_go_on_in_a_folder_of_its_own(model: EditableModel, tmp_path: Path) -> None:
    edits = stack(model, tmp_path / "m")
    before, further = folder_bits(tmp_path / "m"), random_edit(model, 7)
    apply(tmp_path / "m", [further], tmp_path / "n")
    assert folder_bits(tmp_path / "m") == before
    assert folder_bits(tmp_path / "n") == model_bits(model, [*edits, further])
    with pytest.raises(EditError, match="exists"):
        apply(tmp_path / "m", [random_edit(model, 9)], tmp_path / "n")


def test_an_edit_made_for_the_edited_model(model: EditableModel, tmp_path: Path) -> None:
    """It may stand on the edits it was made with, which then cannot be taken from under it."""
    first = random_edit(model, 0)
    with first.applied_to(model):
        second = random_edit(model, 1)
    apply(model, [first, second], tmp_path / "m")
    third = replace(random_edit(model, 2), made_for=load(str(tmp_path / "m")).fingerprint())
    entry = apply(tmp_path / "m", [third])
    assert [len(s.needs) for s in entry.standing] == [0, 1, 2]
    with pytest.raises(EditError, match=r"cannot be recomputed without it: .*Subject 1.* needs .*Subject 2.* needs"):
        revert(tmp_path / "m", first)
    assert revert(tmp_path / "m", third).forced is False
    assert revert(tmp_path / "m", first, force=True).forced is True
    assert folder_bits(tmp_path / "m") == model_bits(model, [second])


def test_an_edit_for_another_model_is_refused_unless_forced(model: EditableModel, tmp_path: Path) -> None:
    foreign = random_edit(tiny("gpt2", seed=3), 0)
    for source in (model, tmp_path / "m"):
        with pytest.raises(EditError, match=r"was made for weights .* Edits do not carry over"):
            apply(source, [random_edit(model, 1 if source is model else 2), foreign], tmp_path / "n")
        assert not (tmp_path / "n").exists()
        if source is model:
            apply(model, [random_edit(model, 1)], tmp_path / "m")
    assert apply(tmp_path / "m", [foreign], force=True).forced
    with pytest.raises(EditError, match="another model"):
        apply(tmp_path / "m", [random_edit(tiny("llama"), 0)], force=True)


def test_conflicts_and_repetitions(model: EditableModel, tmp_path: Path) -> None:
    edit = random_edit(model, 0)
    same = EditRequest(subject="subject  0", prompt="{} is in", target_new="Rome")
    other = EditRequest(subject="Subject 0", prompt="{} speaks", target_new="Latin")
    entry = apply(model, [edit, replace(edit, requests=(same,)), replace(edit, requests=(other,))], tmp_path / "m")
    [conflict] = entry.conflicts
    assert "Rome" in conflict
    assert "is about the same fact as" in conflict
    with pytest.raises(EditError, match="is on the model already"):
        apply(tmp_path / "m", [edit])


def test_wrong_use(model: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to apply"):
        apply(model, [], tmp_path / "m")
    with pytest.raises(UsageError, match="Name a folder"):
        apply(model, [random_edit(model, 0)])
    with pytest.raises(ModelError, match="There is no folder"):
        apply(str(tmp_path / "gone"), [random_edit(model, 0)], tmp_path / "m")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(EditError, match=r"mine exists\. To put further edits"):
        apply(model, [random_edit(model, 0)], tmp_path / "mine")
    with pytest.raises(DataError, match="holds no edits"):
        log(save(tmp_path / "plain"))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def change_ledger(folder: Path, change) -> None:
    path = folder / "factedit" / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(change(lines)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "was cut off"),
        (lambda lines: [], "Entry 0 .* is no entry"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "Entry 1 .* does not follow"),
        (lambda lines: lines[1:], "Entry 0 .* does not follow"),
        (lambda lines: [line.replace("Subject 0", "Subject 9") for line in lines], "Entry 1 .* was changed"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "Entry 3 .* is no entry"),
        (lambda lines: [*lines, lines[-1]], "Entry 4 .* does not follow"),
    ],
)
def test_a_ledger_that_was_tampered_with(model: EditableModel, tmp_path: Path, change, message: str) -> None:
    edits = stack(model, tmp_path / "m")
    for edit in edits[:2]:
        revert(tmp_path / "m", edit)
    change_ledger(tmp_path / "m", change)
    for use in (log, verify, revert):
        with pytest.raises(DataError, match=message):
            use(tmp_path / "m")


def test_every_file_is_verified(model: EditableModel, tmp_path: Path) -> None:
    """A byte changed in any file that undoing, or the weights, depend on is found."""
    stack(model, tmp_path / "m", 2)
    files = [p for p in (tmp_path / "m").rglob("*") if p.suffix in (".safetensors", ".jsonl") or p.name == "edit.json"]
    assert len(files) == 3 + 2 + 1 + 4
    for path in files:
        raw = path.read_bytes()
        for at in (len(raw) - 2, len(raw) // 2):
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            with pytest.raises((DataError, ModelError)):
                verify(tmp_path / "m")
        path.unlink()
        with pytest.raises((DataError, ModelError)):
            verify(tmp_path / "m")
        path.write_bytes(raw)
    verify(tmp_path / "m")


def test_weights_that_another_program_wrote(model: EditableModel, tmp_path: Path) -> None:
    stack(model, tmp_path / "m", 1)
    save_file({"a": torch.zeros(1)}, tmp_path / "m" / "extra.safetensors")
    with pytest.raises(DataError, match=r"not those of its ledger: extra\.safetensors"):
        verify(tmp_path / "m")
    (tmp_path / "m" / "extra.safetensors").unlink()
    index = tmp_path / "m" / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    del said["metadata"]["factedit_ledger"]
    index.write_text(json.dumps(said))
    with pytest.raises(DataError, match="does not name the ledger"):
        verify(tmp_path / "m")


def test_a_consistent_lie_is_found_by_the_recomputation(model: EditableModel, tmp_path: Path) -> None:
    """Weights changed and every hash put right: the matrix is still not its original with the edits on it."""
    from factedit.stack.folder import StackFolder
    from factedit.stack.ledger import next_entry

    stack(model, tmp_path / "m", 1)
    folder = tmp_path / "m"
    path = folder / "edited-layer0-out.safetensors"
    [(name, tensor)] = load_file(path).items()
    tensor[0, 0] += 1
    save_file({name: tensor}, path)
    from factedit.cache import sha256_file

    read = StackFolder(folder)
    lie = next_entry(read.head, shards={**read.head.shards, path.name: sha256_file(path)})
    (folder / "factedit" / "ledger.jsonl").write_text("".join(e.line() for e in [*read.entries, lie]))
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(read.head.hash, lie.hash))
    with pytest.raises(DataError, match="is not its original with the 1 edits on it"):
        verify(folder)


def test_the_base_is_compared(model: EditableModel, tmp_path: Path) -> None:
    stack(model, tmp_path / "m", 1)
    assert verify(tmp_path / "m", model).with_base
    with pytest.raises(EditError, match="began as the weights"):
        verify(tmp_path / "m", tiny("gpt2", seed=1))


def test_links_and_other_edits_in_its_place(model: EditableModel, tmp_path: Path) -> None:
    edits = stack(model, tmp_path / "m", 1)
    random_edit(model, 5).save(tmp_path / "m" / "factedit" / "edits" / edits[0].identity[:16], force=True)
    with pytest.raises(DataError, match="holds the edit"):
        verify(tmp_path / "m")
    (tmp_path / "m" / "factedit" / "ledger.jsonl").rename(tmp_path / "elsewhere")
    (tmp_path / "m" / "factedit" / "ledger.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFile, match="is a link"):
        verify(tmp_path / "m")


def test_paths_that_leave_the_folder(model: EditableModel, tmp_path: Path) -> None:
    stack(model, tmp_path / "m", 1)
    folder = tmp_path / "m"
    index = folder / "model.safetensors.index.json"
    said = index.read_text()
    index.write_text(said.replace('"edited-layer0-out.safetensors"', '"../edited-layer0-out.safetensors"'))
    with pytest.raises(UnsafeFile, match=r"names the shard '\.\./edited-layer0-out\.safetensors'"):
        verify(folder)
    index.write_text(said)
    ledger = folder / "factedit" / "ledger.jsonl"
    entry = json.loads(ledger.read_text().splitlines()[1])
    ledger.write_text(ledger.read_text().replace(entry["edits"][0], "../../../elsewhere"))
    with pytest.raises(DataError, match=r"Entry 1 .* is no entry"):
        verify(folder)


def test_a_full_disk_changes_nothing(model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = stack(model, tmp_path / "m")
    before = folder_bits(tmp_path / "m")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for use in (
        lambda: revert(tmp_path / "m", edits[1]),
        lambda: apply(tmp_path / "m", [random_edit(model, 8)]),
        lambda: apply(model, edits, tmp_path / "n"),
    ):
        with pytest.raises(ResourceError, match="is full"):
            use()
    monkeypatch.undo()
    assert folder_bits(tmp_path / "m") == before
    verify(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_other_types_of_weights(tmp_path: Path) -> None:
    model = tiny("llama")
    model.lm.to(torch.bfloat16)
    edits = stack(model, tmp_path / "m", 2, layer=1)
    loaded = load(str(tmp_path / "m"), dtype="bfloat16")
    assert loaded.fingerprint() != model.fingerprint()
    assert folder_bits(tmp_path / "m") == model_bits(model, edits)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["dtype"] == "bfloat16"
    revert(tmp_path / "m")
    assert load(str(tmp_path / "m"), dtype="bfloat16").fingerprint() == model.fingerprint()


def test_in_a_new_process_as_its_user_would(model: EditableModel, tmp_path: Path) -> None:
    [edit] = stack(model, tmp_path / "m", 1)
    code = (
        "import sys, torch; from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "m, t = (a.from_pretrained(sys.argv[1]) for a in (AutoModelForCausalLM, AutoTokenizer))\n"
        "torch.set_num_threads(1); print(m(**t('Paris is in', return_tensors='pt')).logits.double().sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m")], capture_output=True, text=True, check=True)
    ids = torch.tensor([model.tokenizer("Paris is in")["input_ids"]])
    with edit.applied_to(model):
        assert float(done.stdout) == model.lm(input_ids=ids).logits.double().sum().item()
