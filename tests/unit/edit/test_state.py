"""What edits of a sequence keep of its state: enough to find it again from them, and no more than each one's part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.state import State, change_between, rows_gone, state_of
from factedit.errors import DataError
from factedit.facts import EditRequest

KEYS = torch.arange(12.0).reshape(4, 3)


def edit(**fields: object) -> Edit:
    request = EditRequest(subject="Paris", prompt="{} is in", target_new="Rome", target_true=None)
    change = LowRank(0, torch.ones(3, 1), torch.ones(1, 2))
    return Edit(method="m", requests=(request,), effects=(change,), made_for="f", **fields)  # type: ignore[arg-type]


def test_the_state_is_found_from_what_each_edit_changed() -> None:
    first = State("base", {"keys.0": KEYS[:1], "scale.0": torch.tensor([2.0])})
    second = State("base", {"keys.0": KEYS, "scale.0": torch.tensor([3.0])})
    changes = [change_between(None, first), change_between(first, second)]
    assert changes[1]["appended.keys.0"].tolist() == KEYS[1:].tolist()  # not the first row again
    found = state_of("base", changes)
    assert found is not None
    assert found.base == "base"
    assert {name: own.tolist() for name, own in found.tensors.items()} == {"keys.0": KEYS.tolist(), "scale.0": [3.0]}


def test_what_did_not_change_takes_no_room() -> None:
    state = State("base", {"keys.0": KEYS})
    assert change_between(state, State("base", {"keys.0": KEYS})) == {}
    assert state_of("base", [{}]) is None


def test_rows_go_before_others_come() -> None:
    gone = rows_gone(["keys.0"], torch.tensor([0, 2])) | {"appended.keys.0": torch.full((1, 3), 9.0)}
    found = state_of("base", [{"whole.keys.0": KEYS}, gone])
    assert found is not None
    assert found.tensors["keys.0"].tolist() == [KEYS[1].tolist(), KEYS[3].tolist(), [9.0, 9.0, 9.0]]


@pytest.mark.parametrize(
    "change",
    [
        {"appended.keys.0": torch.ones(1, 3)},
        {"without.keys.0": torch.tensor([0])},
        {"odd.keys.0": torch.ones(1)},
    ],
)
def test_a_missing_edit_of_the_sequence_is_found_out(change: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DataError, match="an edit of the sequence is missing"):
        state_of("base", [change])


def test_rows_that_are_not_there_cannot_go() -> None:
    with pytest.raises(DataError, match=r"says .without\.keys\.0. of shape \[1\]"):
        state_of("base", [{"whole.keys.0": KEYS}, {"without.keys.0": torch.tensor([4])}])


def test_an_edit_keeps_its_part_of_the_state_on_disk(tmp_path: Path) -> None:
    plain = edit()
    made = plain.with_state(None, State("base", {"keys.0": KEYS}))
    assert made.identity != plain.identity
    back = Edit.load(made.save(tmp_path / "edit"))
    assert back == made
    assert torch.equal(back.state_change["whole.keys.0"], KEYS)
    assert sorted(path.name for path in (tmp_path / "edit").iterdir()) == [
        "edit.json", "edit.safetensors", "state.safetensors",
    ]  # fmt: skip


def test_a_changed_state_is_found_out(tmp_path: Path) -> None:
    edit().with_state(None, State("base", {"keys.0": KEYS})).save(tmp_path / "edit")
    other = edit().with_state(None, State("base", {"keys.0": KEYS + 1})).save(tmp_path / "other")
    (tmp_path / "edit" / "state.safetensors").write_bytes((other / "state.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"state\.safetensors is not the file that edit\.json names"):
        Edit.load(tmp_path / "edit")
