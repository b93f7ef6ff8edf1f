"""Statistics on disk: what the hash holds, and symmetric matrices as one triangle."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from factedit.errors import DataError
from factedit.stats.tensors import HASH, content_hash, packed_triangle, whole_matrix, write_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2, 3])}
NOTES = {"tokens": "12", "corpus": "Москва"}


def test_the_hash_is_of_notes_then_tensors_in_the_order_of_their_names() -> None:
    by_hand = hashlib.sha256(json.dumps(NOTES, sort_keys=True).encode())
    by_hand.update(b"a torch.int64 (3,)" + TENSORS["a"].numpy().tobytes())
    by_hand.update(b"b torch.float32 (2, 3)" + TENSORS["b"].numpy().tobytes())
    assert content_hash(TENSORS, NOTES) == by_hand.hexdigest()
    assert content_hash(dict(reversed(TENSORS.items())), NOTES) == by_hand.hexdigest()
    assert content_hash(TENSORS, {**NOTES, HASH: "what it says itself"}) == by_hand.hexdigest()


@pytest.mark.parametrize(
    ("tensors", "notes"),
    [
        ({**TENSORS, "b": TENSORS["b"] + 1}, NOTES),
        ({**TENSORS, "b": TENSORS["b"].reshape(3, 2)}, NOTES),
        ({**TENSORS, "b": TENSORS["b"].double()}, NOTES),
        ({**TENSORS, "a": TENSORS["a"].int()}, NOTES),
        ({"c": TENSORS["b"], "a": TENSORS["a"]}, NOTES),
        ({"a": TENSORS["a"]}, NOTES),
        ({**TENSORS, "c": torch.zeros(0)}, NOTES),
        (TENSORS, {**NOTES, "tokens": "13"}),
        (TENSORS, {"tokens": "12"}),
    ],
)
def test_whatever_is_different_has_another_hash(tensors: dict[str, torch.Tensor], notes: dict[str, str]) -> None:
    assert content_hash(tensors, notes) != content_hash(TENSORS, NOTES)


def test_the_hash_is_of_values_and_not_of_how_they_lie() -> None:
    """A transposed view has the bytes of what it shows."""
    view = torch.arange(6.0).reshape(3, 2).T
    assert content_hash({"x": view}, {}) == content_hash({"x": view.contiguous()}, {})
    assert content_hash({"x": view}, {}) != content_hash({"x": torch.arange(6.0).reshape(2, 3)}, {})


def test_a_scalar_and_nothing_have_hashes_too() -> None:
    one, other, nothing = torch.tensor(1.0), torch.tensor(2.0), torch.zeros(0, 3)
    assert len({content_hash({"x": own}, {}) for own in (one, other, nothing, torch.zeros(3, 0))}) == 4


def test_what_is_written_says_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "sums.safetensors"
    write_tensors(path, TENSORS, NOTES)
    with safe_open(path, framework="pt") as file:
        notes = file.metadata()
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    assert notes == {**NOTES, HASH: content_hash(TENSORS, NOTES)}
    assert content_hash(found, notes) == notes[HASH]
    assert all(torch.equal(found[name], own) for name, own in TENSORS.items())
    assert [own.name for own in path.parent.iterdir()] == ["sums.safetensors"], "nothing half written is left"


@pytest.mark.parametrize("size", [1, 2, 5, 33])
def test_a_triangle_is_row_after_row_and_comes_back_whole(size: int) -> None:
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    matrix = root @ root.T
    packed = packed_triangle(matrix)
    by_hand = [float(matrix[row, column]) for row in range(size) for column in range(row, size)]
    assert packed.dtype == torch.float32
    assert packed.tolist() == pytest.approx(by_hand, rel=1e-6)
    assert torch.equal(whole_matrix(packed), matrix.float())


def test_a_triangle_alone_is_read_from_its_upper_part() -> None:
    """Of a matrix that is not symmetric the lower entries are not looked at: whoever packs it says it is."""
    assert packed_triangle(torch.tensor([[1.0, 2.0], [9.0, 3.0]])).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("numbers", [2, 4, 5, 7, 11, 1000])
def test_numbers_that_make_no_triangle_are_refused(numbers: int) -> None:
    with pytest.raises(DataError, match=f"has {numbers} numbers, which is no triangle"):
        whole_matrix(torch.ones(numbers))


def test_large_triangles_are_counted_exactly() -> None:
    """The width is a root of a number beyond float32: of GPT-J's 16 384 keys and of one number more or less."""
    size = 16_384
    numbers = torch.empty(size * (size + 1) // 2 + 1, dtype=torch.uint8, device="meta")
    with pytest.raises(DataError, match="no triangle"):
        whole_matrix(numbers)
    with pytest.raises(DataError, match="no triangle"):
        whole_matrix(numbers[:-2])
