"""The artefact on disk: the same bytes for the same edit, and nothing changed goes unnoticed."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_tensors

from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.manifest import canonical, sealed
from factedit.errors import DataError, EditError, ResourceError, UnsafeFile
from factedit.facts import EditRequest


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def example(seed: int = 0) -> Edit:
    random = torch.Generator().manual_seed(seed)
    return Edit(
        method="rome",
        requests=(EditRequest(subject="Zürich", prompt="{} is in", target_new="東京", target_true="Switzerland"),),
        effects=(
            LowRank(1, torch.randn(6, 2, generator=random), torch.randn(2, 4, generator=random)),
            Dense(0, torch.randn(4, 6, generator=random), "in"),
        ),
        settings={"layer": 1, "clamp": 4.0, "context_templates": ["{}", "The. {}"]},
        notes=(Notes(diagnostics={"losses": [[0.1, 0.2]], "denominator": 1e-3}, after={"target_new": 0.9}),),
        diagnostics={"update_norm": 0.5},
        model_name="tiny",
        made_for="ab" * 32,
    )


def test_saving_and_loading_keeps_everything(tmp_path: Path) -> None:
    edit = example().with_export({"format": "merged", "largest": 0.0})
    again = Edit.load(edit.save(tmp_path / "e"))
    assert replace(again, effects=()).manifest() == replace(edit, effects=()).manifest()
    assert again == edit
    assert len({again, edit}) == 1
    assert [(type(c), *c.place) for c in again.effects] == [(LowRank, 1, "out"), (Dense, 0, "in")]
    for mine, theirs in zip(edit.effects, again.effects, strict=True):
        assert torch.equal(mine.delta(), theirs.delta())
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == ["edit.json", "edit.safetensors"]


def test_the_same_edit_gives_the_same_bytes(tmp_path: Path) -> None:
    first = files(example().save(tmp_path / "a"))
    reordered = replace(example(), settings=dict(reversed(example().settings.items())))
    assert files(reordered.save(tmp_path / "b")) == first
    assert files(Edit.load(tmp_path / "a").save(tmp_path / "c")) == first
    assert files(example(1).save(tmp_path / "d")) != first


def test_the_identity_is_of_the_change_and_not_of_its_measurement() -> None:
    edit = example()
    assert edit.with_outcomes([({}, {})]).identity == edit.identity
    assert edit.with_export({"format": "peft"}).identity == edit.identity
    others = (
        example(1),
        replace(edit, method="rome-original"),
        replace(edit, settings={}),
        replace(edit, made_for="cd" * 32),
        replace(edit, effects=edit.effects[:1]),
        replace(edit, requests=(), notes=()),
    )
    assert len({edit.identity, *(other.identity for other in others)}) == 1 + len(others)


def test_every_changed_byte_is_found(tmp_path: Path) -> None:
    """Each byte of both files, in turn (every third of the tensors')."""
    folder = example().save(tmp_path / "e")
    for name, step in (("edit.json", 1), ("edit.safetensors", 3)):
        raw = (folder / name).read_bytes()
        for at in range(0, len(raw), step):
            spoilt = bytearray(raw)
            spoilt[at] ^= 1
            (folder / name).write_bytes(spoilt)
            with pytest.raises(DataError):
                Edit.load(folder)
        (folder / name).write_bytes(raw)
    Edit.load(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda m: m.update(format=1), "has format 1; this version reads 2 and 3. Make the edit again"),
        (lambda m: m.update(format=4), "has format 4; .* A later version of factedit wrote it"),
        (lambda m: m.update(note="hello"), "note: Extra inputs are not permitted"),
        (lambda m: m.pop("method"), "method: Field required"),
        (lambda m: m["effects"][0].update(matrix="up"), "matrix: String should match pattern"),
        (lambda m: m["effects"][0].update(shape=[6, 5]), "describes"),
        (lambda m: m["effects"][0].update(kind="magic"), "Unknown kind of effect 'magic'"),
        (lambda m: m["notes"].pop(), "1 requests and notes on 0"),
        (lambda m: m["effects"].pop(), "describes"),
        (lambda m: m.update(files={"edit.safetensors": "00"}), "is not the file that edit.json names"),
    ],
)
def test_a_manifest_that_does_not_hold_is_refused(tmp_path: Path, spoil, message: str) -> None:
    """Also where whoever changed it made its own hash right again."""
    folder = example().save(tmp_path / "e")
    manifest = json.loads((folder / "edit.json").read_text())
    spoil(manifest)
    (folder / "edit.json").write_bytes(canonical(sealed(manifest)))
    with pytest.raises(DataError, match=message):
        Edit.load(folder)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"edit\.json: No such file"):
        Edit.load(tmp_path)
    folder = example().save(tmp_path / "e")
    (folder / "edit.safetensors").unlink()
    with pytest.raises(DataError, match=r"edit\.safetensors: No such file.* make it again"):
        Edit.load(folder)
    (folder / "edit.json").write_text("[]")
    with pytest.raises(DataError, match="does not hold a whole edit"):
        Edit.load(folder)


def test_tensors_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    folder = example().save(tmp_path / "e")
    manifest = json.loads((folder / "edit.json").read_text())
    (folder / "edit.safetensors").write_bytes(b"\x80\x04pickle")
    import hashlib

    manifest["files"] = {"edit.safetensors": hashlib.sha256(b"\x80\x04pickle").hexdigest()}
    (folder / "edit.json").write_bytes(canonical(sealed(manifest)))
    with pytest.raises(DataError, match="does not hold a whole edit"):
        Edit.load(folder)
    other = save_tensors({"0.left": torch.zeros(6, 2)})
    (folder / "edit.safetensors").write_bytes(other)
    manifest["files"] = {"edit.safetensors": hashlib.sha256(other).hexdigest()}
    (folder / "edit.json").write_bytes(canonical(sealed(manifest)))
    with pytest.raises(DataError, match="describes"):
        Edit.load(folder)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    folder = example().save(tmp_path / "e")
    (tmp_path / "elsewhere").write_bytes((folder / "edit.safetensors").read_bytes())
    (folder / "edit.safetensors").unlink()
    (folder / "edit.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFile, match="outside its folder"):
        Edit.load(folder)


def test_what_json_cannot_hold_is_named(tmp_path: Path) -> None:
    spoilt = replace(example(), diagnostics={"losses": [[1.0, float("nan")]]})
    with pytest.raises(EditError, match="/losses/0/1"):
        spoilt.save(tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example().save(tmp_path / "e")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="is full"):
        example(1).save(tmp_path / "e", force=True)
    monkeypatch.undo()
    assert Edit.load(tmp_path / "e").identity == example().identity
    assert [p.name for p in tmp_path.iterdir()] == ["e"]


# -- where edits lie -------------------------------------------------------------------------------


def test_saving_again_keeps_what_else_lies_there(tmp_path: Path) -> None:
    """As `ship` does to note its proof: notes, the export just written into it, an older edit inside."""
    folder = example().save(tmp_path / "e")
    kept = {"notes.txt": "mine", "peft/model": "an export", ".git/HEAD": "ref", "needle/edit.json": "an older edit"}
    for name, text in kept.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    again = Edit.load(folder).with_export({"form": "peft"})
    again.save(folder)
    example(1).save(folder, force=True)
    assert Edit.load(folder).identity == example(1).identity
    assert {name: (folder / name).read_text() for name in kept} == kept


def test_another_edit_is_not_replaced_unasked(tmp_path: Path) -> None:
    folder = example().save(tmp_path / "e")
    before = files(folder)
    with pytest.raises(EditError, match=r"holds an edit, which is not replaced unasked.*--force"):
        example(1).save(folder)
    (folder / "edit.safetensors").write_bytes(b"damaged")
    example().save(folder)  # the same edit mends it
    assert files(folder) == before
    (folder / "edit.json").write_bytes(b"damaged")
    with pytest.raises(EditError, match="not replaced unasked"):
        example().save(folder)
    example(1).save(folder, force=True)
    assert Edit.load(folder).identity == example(1).identity


def test_no_edit_inside_an_edit(tmp_path: Path) -> None:
    folder = example().save(tmp_path / "e")
    for place in (folder / "needle", folder / "a" / "b", folder / ".." / "e" / "c"):
        with pytest.raises(EditError, match=r"lies inside the edit .*e, and edits do not hold edits"):
            example(1).save(place, force=True)
    assert sorted(path.name for path in folder.iterdir()) == ["edit.json", "edit.safetensors"]


def test_the_shells_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "e").mkdir()
    monkeypatch.chdir(tmp_path / "e")
    node = Path().stat().st_ino
    example().save(".")
    example().save(".")
    assert (Path().stat().st_ino, Path("edit.json").exists()) == (node, True)
    Path("notes.txt").write_text("mine")
    (tmp_path / "f").mkdir()
    monkeypatch.chdir(tmp_path / "f")
    Path("notes.txt").write_text("mine")
    with pytest.raises(EditError, match="exists and is not an edit"):
        example().save(".", force=True)
    assert Path("notes.txt").read_text() == "mine"
