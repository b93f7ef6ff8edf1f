"""Two processes at once on one folder of edits: nothing is lost, and the folder is sound."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import tiny
from factedit import disk
from factedit.cache import locked
from factedit.edit.artefact import Edit
from factedit.errors import EditError, ResourceError
from factedit.export.notes import RECORD
from factedit.export.ship import ship
from factedit.models.adapter import EditableModel
from factedit.stack.check import verify
from factedit.stack.folder import StackFolder
from factedit.stack.work import apply, revert
from processes import end, start, wait_for
from stack_cases import folder_bits, model_bits, random_edit

ROUNDS = 6

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_sync", lambda _path, _flags: None)


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2", n_layer=3, n_embd=16, n_head=2)


def at_once(go: Path, *actions: Callable[[], object]) -> list[int]:
    """The exit codes of actions that begin together."""

    def begin(action: Callable[[], object]) -> None:
        (go.parent / f"{go.name}-{os.getpid()}").write_text("")
        while not go.exists():
            pass
        action()

    children = [start(lambda a=action: begin(a)) for action in actions]
    for child in children:
        wait_for(go.parent / f"{go.name}-{child}")
    go.write_text("")
    return [end(child) for child in children]


def test_apply_beside_apply(tmp_path: Path, model: EditableModel) -> None:
    edits = [random_edit(model, n, layer=n % 2 + 1) for n in range(3)]
    for number in range(ROUNDS):
        folder = tmp_path / f"m{number}"
        apply(model, [edits[0]], folder)
        codes = at_once(tmp_path / f"go{number}", *(lambda e=edit, f=folder: apply(f, [e]) for edit in edits[1:]))
        assert codes == [0, 0]
        order = [standing.identity for standing in StackFolder(folder).head.standing]
        assert sorted(order) == sorted(edit.identity for edit in edits), "an edit was lost"
        by_name = {edit.identity: edit for edit in edits}
        assert folder_bits(folder) == model_bits(model, [by_name[name] for name in order])
        assert verify(folder).edits == 3


def test_apply_beside_revert(tmp_path: Path, model: EditableModel) -> None:
    edits = [random_edit(model, n, layer=1) for n in range(2)]
    for number in range(ROUNDS):
        folder = tmp_path / f"m{number}"
        apply(model, [edits[0]], folder)
        codes = at_once(
            tmp_path / f"go{number}",
            lambda f=folder: apply(f, [edits[1]]),
            lambda f=folder: revert(f, edits[0]),
        )
        assert codes == [0, 0]
        assert folder_bits(folder) == model_bits(model, [edits[1]])
        assert verify(folder).edits == 1


def test_two_begin_one_folder(tmp_path: Path, model: EditableModel) -> None:
    """The second finds it there, and is refused as if it had come later."""
    edits = [random_edit(model, n, layer=1) for n in range(2)]

    def begin(number: int) -> None:
        try:
            apply(model, [edits[number]], tmp_path / "m")
        except EditError as error:
            assert "exists. To put further edits on a folder" in str(error)  # noqa: PT017
            (tmp_path / "refused").write_text(str(number))

    assert at_once(tmp_path / "go", lambda: begin(0), lambda: begin(1)) == [0, 0]
    refused = int((tmp_path / "refused").read_text())
    assert folder_bits(tmp_path / "m") == model_bits(model, [edits[1 - refused]])


def test_two_edits_or_exports_at_once_in_one_folder(tmp_path: Path, model: EditableModel) -> None:
    """One of them is there, whole; the other is refused as if it had come later."""
    edits = [random_edit(model, n, layer=1) for n in range(2)]

    def begin(write: Callable[[], object], name: str) -> None:
        try:
            write()
        except EditError as error:
            assert "is not replaced unasked" in str(error)  # noqa: PT017
            (tmp_path / name).write_text("")

    for what, write in (
        ("edit", lambda n, place: edits[n].save(place)),
        ("export", lambda n, place: ship(model, [edits[n]], place, "llama-lora")),
    ):
        for number in range(ROUNDS):
            place = tmp_path / f"{what}{number}"
            codes = at_once(
                tmp_path / f"go-{what}{number}",
                *(lambda n=n, p=place, w=write: begin(lambda: w(n, p), f"refused-{p.name}-{n}") for n in range(2)),
            )
            assert codes == [0, 0]
            [refused] = tmp_path.glob(f"refused-{place.name}-*")
            winner = edits[1 - int(refused.name[-1])]
            if what == "edit":
                assert Edit.load(place).identity == winner.identity
            else:
                record = json.loads((place / RECORD).read_text())
                assert record["edits"] == [winner.identity]
                assert {p.name for p in place.iterdir()} == {*record["files"], RECORD}
            assert not list(tmp_path.glob(".*"))


def test_who_holds_the_folder_too_long_is_named(
    tmp_path: Path, model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, edit = tmp_path / "m", random_edit(model, 0, layer=1)
    apply(model, [edit], folder)

    def hold() -> None:
        with locked(folder):
            (tmp_path / "started").write_text("")
            wait_for(tmp_path / "enough")

    child = start(hold)
    wait_for(tmp_path / "started")
    monkeypatch.setattr("factedit.locks.WAIT", 0.0)
    before = folder_bits(folder)
    with pytest.raises(ResourceError, match=rf"is being changed by another process \({child}\)"):
        revert(folder)
    assert folder_bits(folder) == before
    (tmp_path / "enough").write_text("")
    assert end(child) == 0
