"""What a change of a folder builds on is checked first; what is not factedit's own stays; nothing is shared."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from conftest import tiny
from factedit.errors import DataError, ResourceError, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.check import verify
from factedit.stack.folder import StackFolder
from factedit.stack.work import apply, revert
from stack_cases import folder_bits, model_bits, random_edit
from tiny_folder import save, save_sharded


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2", n_layer=3, n_embd=16, n_head=2)


def flip(path: Path) -> None:
    """Another bit in the last number of a file, in place."""
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        byte = file.read(1)
        file.seek(-2, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "spoilt",
    ["factedit/originals/layer1-out.safetensors", "model-00001-of-00001.safetensors", "edited-layer1-out.safetensors"],
)
@pytest.mark.parametrize("use", ["revert", "apply elsewhere", "apply on the same matrix", "apply to a new folder"])
def test_a_flipped_bit_is_found_before_anything_is_built_on_it(
    model: EditableModel, tmp_path: Path, spoilt: str, use: str
) -> None:
    """`verify` would say "to the bit" of what was hashed anew with it."""
    apply(model, [random_edit(model, 0, layer=1)], tmp_path / "m")
    flip(tmp_path / "m" / spoilt)
    before = files(tmp_path / "m")
    edit = random_edit(model, 1, layer=1 if "same" in use else 2)
    put_on = lambda: apply(tmp_path / "m", [edit], tmp_path / "n" if "new" in use else None)  # noqa: E731
    change = put_on if use != "revert" else lambda: revert(tmp_path / "m")
    with pytest.raises(DataError, match=rf"{Path(spoilt).name} is not the file that the ledger names"):
        change()
    assert files(tmp_path / "m") == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_two_folders_share_no_file(model: EditableModel, tmp_path: Path) -> None:
    """A program that writes into a file of one would change the other."""
    edits = [random_edit(model, n, layer=n) for n in range(2)]
    apply(model, edits[:1], tmp_path / "m")
    apply(tmp_path / "m", edits[1:], tmp_path / "n")
    nodes = [{p.stat().st_ino for p in folder.rglob("*") if p.is_file()} for folder in (tmp_path / "m", tmp_path / "n")]
    assert not nodes[0] & nodes[1]
    for path in (tmp_path / "n").glob("*.safetensors"):
        flip(path)
    assert verify(tmp_path / "m", model).edits == 1


def test_what_is_not_factedits_own_stays(model: EditableModel, tmp_path: Path) -> None:
    edits = [random_edit(model, n, layer=n) for n in range(2)]
    apply(model, edits[:1], tmp_path / "m")
    mine = {"notes.txt": b"mine", ".git/HEAD": b"ref", "factedit/edits/diary": b"x", "README.md": b"about"}
    for name, content in mine.items():
        (tmp_path / "m" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_bytes(content)
    for change in (lambda: apply(tmp_path / "m", edits[1:]), lambda: revert(tmp_path / "m")):
        change()
        assert mine.items() <= files(tmp_path / "m").items()
    verify(tmp_path / "m", model)


def test_the_shells_own_folder_stays_its_own(
    model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out .`, and changes of the folder one works in."""
    edits, place = [random_edit(model, n, layer=n) for n in range(3)], tmp_path / "m"
    place.mkdir()
    monkeypatch.chdir(place)
    node = place.stat().st_ino
    apply(model, edits[:1], ".")
    (place / "notes.txt").write_text("mine")
    apply(".", edits[1:])
    assert folder_bits(place) == model_bits(model, edits)
    revert(".", edits[1])
    assert folder_bits(place) == model_bits(model, [edits[0], edits[2]])
    apply(".", [edits[1]])  # its folder is there already
    revert(place)
    assert folder_bits(place) == model_bits(model)
    assert place.stat().st_ino == node
    assert Path("notes.txt").read_text() == "mine"
    assert verify(".", model).entries == 6
    assert {p.name for p in place.glob("*.safetensors")} == set(StackFolder(place).head.shards)
    assert not list(place.glob(".factedit*"))


def test_a_shard_whose_last_tensor_moves_out_in_the_shells_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load(str(save_sharded(tmp_path / "base")))
    apply(base, [random_edit(base, 0, layer=0)], tmp_path / "m")
    monkeypatch.chdir(tmp_path / "m")
    apply(".", [random_edit(base, 1, layer=1, matrix="in")])
    verify(".", base)


def test_no_folder_of_edits_inside_its_model(tmp_path: Path) -> None:
    base = save(tmp_path / "base")
    model = load(str(base))
    for source in (model, str(base)):
        with pytest.raises(UsageError, match=r"lies in .*base, which is read"):
            apply(source, [random_edit(model, 0)], base / "edited")
    apply(model, [random_edit(model, 0)], tmp_path / "m")
    with pytest.raises(UsageError, match="which is read"):
        apply(tmp_path / "m", [random_edit(model, 1)], tmp_path / "m" / "further")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="cannot be written to"):
        apply(str(tmp_path / "no model"), [random_edit(model, 0)], tmp_path / "file" / "m")


@pytest.mark.parametrize("every", [False, True], ids=["one", "all"])
def test_an_edit_whose_folder_is_lost_is_taken_off_all_the_same(
    model: EditableModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, every: bool
) -> None:
    """Before: a dead end, though the matrices as they were lie beside it."""
    lost, kept = random_edit(model, 0, layer=1), random_edit(model, 1, layer=2)
    apply(model, [lost, kept], tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "factedit" / "edits" / lost.identity[:16])
    with pytest.raises(DataError, match="does not hold a whole edit"):
        revert(tmp_path / "m", kept)
    revert(tmp_path / "m", None if every else lost.identity)
    assert "is taken off all the same" in caplog.text
    assert folder_bits(tmp_path / "m") == model_bits(model, [] if every else [kept])
    assert verify(tmp_path / "m", model).edits == (0 if every else 1)


def test_an_edit_whose_folder_is_damaged_is_refused_until_it_is_removed(model: EditableModel, tmp_path: Path) -> None:
    damaged = random_edit(model, 0, layer=1)
    apply(model, [damaged], tmp_path / "m")
    folder = tmp_path / "m" / "factedit" / "edits" / damaged.identity[:16]
    (folder / "edit.safetensors").write_bytes((folder / "edit.safetensors").read_bytes()[:-1] + b"x")
    before = folder_bits(tmp_path / "m")
    with pytest.raises(DataError, match="Where its folder is removed it is taken off by the matrices that are kept"):
        revert(tmp_path / "m")
    assert folder_bits(tmp_path / "m") == before
    shutil.rmtree(folder)
    revert(tmp_path / "m")
    assert folder_bits(tmp_path / "m") == model_bits(model, [])


def test_a_ledger_of_another_version_is_called_so_and_a_changed_one_is_not(
    model: EditableModel, tmp_path: Path
) -> None:
    """Before: "its history cannot be trusted", of a sound ledger that a later version wrote."""
    apply(model, [random_edit(model, 0)], tmp_path / "m")
    ledger = tmp_path / "m" / "factedit" / "ledger.jsonl"
    first, last = ledger.read_text().splitlines()

    def as_line(fields: dict[str, object]) -> str:
        return json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    fields = {**json.loads(last), "later": 1, "versions": {"factedit": "99.0"}}
    del fields["hash"]
    sealed = {**fields, "hash": hashlib.sha256(as_line(fields).encode()).hexdigest()}
    ledger.write_text(f"{first}\n{as_line(sealed)}\n")
    with pytest.raises(DataError, match=r"Entry 1 of the ledger .* was written by factedit '99.0' and is not known"):
        StackFolder(tmp_path / "m")
    for text in (as_line({**sealed, "later": 2}), as_line({**sealed, "versions": {}}), "5", '{"hash": 1}'):
        ledger.write_text(f"{first}\n{text}\n")
        with pytest.raises(DataError, match=r"Entry 1 of the ledger .* history cannot be trusted"):
            StackFolder(tmp_path / "m")
