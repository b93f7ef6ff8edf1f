"""Where edits are saved is asked before they are computed: alone and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from factedit.edit.artefact import Edit
from factedit.errors import EditError, ResourceError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.work.edit import check_folder, edit_facts
from stack_cases import random_edit

FACTS = [EditRequest(subject=f"Subject {n}", prompt="{} is in", target_new="Paris") for n in range(3)]


class Counting:
    """A method that makes random edits and counts how often it is asked."""

    name, scope = "counting", "each"

    def __init__(self, model: EditableModel) -> None:
        self.model, self.asked = model, 0

    def edit(self, requests: Sequence[EditRequest], state: Any = None) -> Any:
        from dataclasses import replace

        from factedit.edit.method import Made

        self.asked += 1
        return Made(tuple(replace(random_edit(self.model, 1), requests=(r,), method=self.name) for r in requests), None)


@pytest.fixture
def method(tiny_gpt2: EditableModel) -> Counting:
    return Counting(tiny_gpt2)


def run(method: Counting, folder: Path, count: int, **how: Any) -> list[Path | None]:
    return [edited.folder for edited in edit_facts(method.model, method, FACTS[:count], folder=folder, **how)]


def test_a_batch_and_what_refuses_it(method: Counting, tmp_path: Path) -> None:
    folder = tmp_path / "edits"
    assert run(method, folder, 3) == [folder / f"000{n}" for n in range(3)]
    (folder / "notes.txt").write_text("mine")
    before, asked = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}, method.asked
    for count, match in ((3, "0000 holds an edit"), (2, "0000 holds an edit"), (1, "exists and is not an edit")):
        with pytest.raises(EditError, match=match):
            run(method, folder, count)
    with pytest.raises(EditError, match=r"edits of more facts \(0002 and so on\), which would be mixed up"):
        run(method, folder, 2, force=True)
    with pytest.raises(EditError, match="lies inside the edit"):
        run(method, folder / "0000" / "x", 1)
    with pytest.raises(EditError, match="lies inside the edit"):
        run(method, folder / "0000" / "x", 2)
    with pytest.raises(EditError, match="edits do not hold edits"):
        run(method, folder / "0000", 2)
    assert method.asked == asked, "it was found out after the computation"
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    run(method, folder, 3, force=True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_an_edit_alone_and_what_refuses_it(method: Counting, tmp_path: Path) -> None:
    assert run(method, tmp_path / "e", 1) == [tmp_path / "e"]
    (tmp_path / "file").write_text("x")
    asked = method.asked
    with pytest.raises(EditError, match="holds an edit"):
        run(method, tmp_path / "e", 1)
    with pytest.raises(ResourceError, match="cannot be written to"):
        run(method, tmp_path / "file" / "e", 1)
    with pytest.raises(ResourceError, match="cannot be written to"):
        run(method, tmp_path / "file" / "e", 2)
    assert method.asked == asked
    run(method, tmp_path / "e", 1, force=True)
    assert Edit.load(tmp_path / "e").requests == (FACTS[0],)
    check_folder(tmp_path / "new", 3)
    assert not (tmp_path / "new").exists()
