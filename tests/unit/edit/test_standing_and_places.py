"""Which facts are on a model, where their rows lie, and where an edit may be saved; no model is asked."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.effects.prompt import Prompt
from factedit.edit.many.taking_back import rows_of
from factedit.edit.place import check_outside, check_place, own_files
from factedit.edit.standing import FactOn, facts_on
from factedit.edit.state import state_of
from factedit.errors import DataError, EditError
from factedit.facts import EditRequest

BASE = "0" * 64


def request(subject: str) -> EditRequest:
    return EditRequest(subject=subject, prompt="{} is in", target_new="Rome")


def edit(*subjects: str, **more: object) -> Edit:
    """An edit of facts about these subjects."""
    requests = tuple(request(subject) for subject in subjects)
    return Edit(method="by hand", requests=requests, effects=(Prompt("said "),), made_for=BASE, **more)  # type: ignore[arg-type]


# -- facts that are on ------------------------------------------------------------------------------


def test_facts_come_in_the_order_of_their_edits() -> None:
    edits = [edit("a", "b"), edit("c")]
    found = facts_on(edits)
    assert [fact.request.subject for fact in found] == ["a", "b", "c"]
    assert [fact.name for fact in found] == [
        (edits[0].identity, 0), (edits[0].identity, 1), (edits[1].identity, 0),
    ]  # fmt: skip
    assert facts_on([]) == []


def test_a_fact_that_was_taken_back_is_gone_and_the_others_keep_their_names() -> None:
    first, second = edit("a", "b", "c"), edit("d")
    back = edit(takes_back=((first.identity, 1), (second.identity, 0)))
    found = facts_on([first, second, back])
    assert [(fact.request.subject, fact.number) for fact in found] == [("a", 0), ("c", 2)]
    assert [fact.request.subject for fact in facts_on([first, second])] == ["a", "b", "c", "d"], "without it all stand"


def test_a_fact_that_was_put_on_again_stands() -> None:
    """The same fact in another edit is another fact: what was taken back is named by edit and number."""
    first = edit("a")
    back = edit(takes_back=((first.identity, 0),))
    again = edit("a", settings={"steps": 3})
    assert again.identity != first.identity
    assert [fact.edit for fact in facts_on([first, back, again])] == [again]


def test_what_an_edit_takes_back_is_part_of_what_it_is() -> None:
    first = edit("a")
    assert edit(takes_back=((first.identity, 0),)).identity != edit(takes_back=((first.identity, 1),)).identity
    assert edit("a", takes_back=()).identity == first.identity, "nothing taken back is not written down"


# -- their rows -------------------------------------------------------------------------------------


def appended(tags: list[int], *, first: bool) -> dict[str, Tensor]:
    """What an edit of so many facts leaves at two layers; a fact's key is its tag, so that it is known again."""
    keys = torch.tensor([[float(tag)] for tag in tags])
    what = "whole" if first else "appended"
    return {f"{what}.{name}.{layer}": keys.clone() for name in ("keys", "values") for layer in (1, 2)}


def gone(rows: list[int]) -> dict[str, Tensor]:
    return {f"without.{name}.{layer}": torch.tensor(rows) for name in ("keys", "values") for layer in (1, 2)}


@pytest.mark.parametrize("seed", range(6))
def test_a_facts_row_is_where_its_key_lies_in_the_state(seed: int) -> None:
    """Batches that come and facts that go, at random; the state itself is asked where each fact's key is."""
    drawn, edits, standing, tag = random.Random(seed), list[Edit](), list[tuple[FactOn, int]](), 0
    for step in range(8):
        if step and len(standing) > 2 and drawn.random() < 0.4:
            out = sorted(drawn.sample(range(len(standing)), 2))
            back = edit(takes_back=tuple(standing[n][0].name for n in out), state_change=gone(out))
            edits.append(replace(back, settings={"step": step}))
            standing = [own for n, own in enumerate(standing) if n not in out]
            continue
        tags = list(range(tag, tag + drawn.randint(1, 3)))
        tag += len(tags)
        own = edit(*map(str, tags), settings={"step": step}, state_change=appended(tags, first=not edits))
        standing += [(FactOn(own, n), number) for n, number in enumerate(tags)]
        edits.append(own)
    state = state_of(BASE, [own.state_change for own in edits])
    assert state is not None
    found = rows_of(edits, [fact for fact, _ in standing])
    for layer in (1, 2):
        keys = state.tensors[f"keys.{layer}"][:, 0].tolist()
        assert [keys[row] for row in found] == [float(number) for _, number in standing]
    assert [fact for fact, _ in standing] == facts_on(edits)


def test_edits_that_keep_no_keys_have_no_rows() -> None:
    first, other = edit("a", state_change=appended([0], first=True)), edit("b")
    last = edit("c", state_change=appended([1], first=False))
    assert rows_of([first, other, last], [FactOn(last, 0), FactOn(first, 0)]) == [1, 0]
    with pytest.raises(DataError, match="A fact has no row in the state of its sequence: an edit is missing"):
        rows_of([first, other, last], [FactOn(other, 0)])
    with pytest.raises(DataError, match="or they are out of order"):
        rows_of([last], [FactOn(first, 0)])


# -- where edits are saved --------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return edit("a").save(tmp_path / "edit")


def test_a_new_an_empty_and_its_own_folder_will_do(tmp_path: Path, saved: Path) -> None:
    check_place(tmp_path / "new")
    check_place(tmp_path / "new" / "deeper")
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty")
    check_place(saved, edit("a").identity)
    check_place(saved, edit("b").identity, force=True)
    assert not (tmp_path / "new").exists(), "asking makes nothing"


def test_another_edits_folder_is_refused_unless_forced(saved: Path) -> None:
    for identity in ("", edit("b").identity):
        with pytest.raises(EditError, match=r"holds an edit, which is not replaced unasked\. Name another folder"):
            check_place(saved, identity)


def test_a_damaged_edit_is_not_taken_for_ones_own(saved: Path) -> None:
    manifest = saved / "edit.json"
    manifest.write_text(manifest.read_text().replace('"a"', '"b"'))
    with pytest.raises(EditError, match="replace it with --force"):
        check_place(saved, edit("a").identity)
    check_place(saved, edit("a").identity, force=True)


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_edit_is_never_replaced(tmp_path: Path, force: bool) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "file"):
        with pytest.raises(EditError, match=f"{name} exists and is not an edit; name another folder"):
            check_place(tmp_path / name, force=force)
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_edits_do_not_hold_edits_however_deep(tmp_path: Path, saved: Path) -> None:
    for inner in (saved / "inner", saved / "one" / "two"):
        with pytest.raises(EditError, match=r"lies inside the edit .*, and edits do not hold edits"):
            check_place(inner)
    (tmp_path / "link").symlink_to(saved)
    with pytest.raises(EditError, match="lies inside the edit"):
        check_outside(tmp_path / "link" / "inner")
    check_outside(saved)  # an edit lies beside others, not in itself


def test_an_edits_own_files_are_those_it_names(tmp_path: Path, saved: Path) -> None:
    plain = {"edit.json", "edit.safetensors"}
    assert own_files(saved) == plain
    with_state = edit("a", state_change=appended([0], first=True)).save(tmp_path / "sequence")
    assert own_files(with_state) == plain | {"state.safetensors"}
    assert own_files(tmp_path / "nothing") == plain
    forged = tmp_path / "forged"
    forged.mkdir()
    for content in ("[]", "{", '{"files": 3}', '{"other": {}}', "[" * 100_000, "\udcff"):
        (forged / "edit.json").write_text(content, errors="surrogateescape")
        assert own_files(forged) == plain
    (forged / "edit.json").write_text(json.dumps({"files": {"../../etc/passwd": "x", "notes.txt": "y"}}))
    assert own_files(forged) == plain, "a forged list gives no file away"


def test_what_else_lies_in_the_folder_stays(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    edit("b").save(saved, force=True)
    assert (saved / "notes.txt").read_text() == "mine"
    assert Edit.load(saved) == edit("b")
