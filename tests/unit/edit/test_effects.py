"""Changes of both kinds at every matrix of an MLP: put on, row by row, and taken off."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny, tiny_tokenizer
from factedit.edit.artefact import Edit, rows_edited
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.effect import WeightEffect as Change
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.weights import changed
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.models.families import MATRICES

IDS = torch.tensor([[5, 17, 99, 40, 7]])


def change(model: EditableModel, seed: int, *, layer: int = 1, matrix: str = "out", rank: int | None = 1) -> Change:
    """A random change; dense where `rank` is None."""
    random = torch.Generator().manual_seed(seed)
    d_in, d_out = model.weight(layer, matrix).shape
    if rank is None:
        return Dense(layer, 0.1 * torch.randn(d_in, d_out, generator=random), matrix)
    left, right = torch.randn(d_in, rank, generator=random), torch.randn(rank, d_out, generator=random)
    return LowRank(layer, 0.3 * left, right, matrix)


def edit_of(*changes: Change) -> Edit:
    return Edit(method="random", requests=(), effects=changes, made_for="any")


def matrices(model: EditableModel) -> list[str]:
    return [name for name in MATRICES if name != "gate" or model.family.matrix_gate]


@torch.no_grad()
def logits(model: EditableModel, rows: int = 1) -> torch.Tensor:
    return model.lm(input_ids=IDS.repeat(rows, 1)).logits


def test_rows_equal_whole_models(editable_family: EditableModel) -> None:
    """Both kinds, all matrices, several changes of one matrix, ranks that differ, and rows without an edit."""
    model = editable_family
    edits: list[Edit | None] = [None]
    for n, matrix in enumerate(matrices(model)):
        edits.append(edit_of(change(model, n, matrix=matrix), change(model, n + 10, layer=2, rank=3)))
        edits.append(edit_of(change(model, n + 20, matrix=matrix, rank=None)))
    shared = change(model, 30, rank=None)
    edits += [edit_of(shared, change(model, 31, rank=2)), None, edit_of(shared)]
    with rows_edited(model, edits):
        together = logits(model, len(edits))
    plain, before = logits(model)[0], model.fingerprint()
    for row, edit in enumerate(edits):
        alone = plain
        if edit is not None:
            with edit.applied_to(model, force=True):
                alone = logits(model)[0]
            assert (alone - plain).abs().max() > 1e-2
        torch.testing.assert_close(together[row], alone, atol=2e-3, rtol=1e-3)
    assert model.fingerprint() == before


@pytest.mark.parametrize("rank", [2, None])
def test_in_half_precision_a_row_loses_no_digits_of_its_change(rank: int | None) -> None:
    model = EditableModel(tiny("gpt2").lm.to(torch.bfloat16), tiny_tokenizer())
    own = change(model, 0, layer=1, rank=rank)
    seen: list[torch.Tensor] = []
    with (
        model.on_matrix(1, lambda key, value: seen.extend([key.clone(), value.clone()])),
        rows_edited(model, [edit_of(own)]),
        model.on_matrix(1, lambda _key, value: seen.append(value.clone())),
    ):
        logits(model)
    key, before, after = seen
    product = key.float() @ own.change if isinstance(own, Dense) else (key.float() @ own.left) @ own.right
    assert torch.equal(after, (before.float() + product).to(torch.bfloat16))
    assert not torch.equal(after, before)


def test_delta_has_the_same_bits_with_any_number_of_threads() -> None:
    wide = LowRank(0, torch.randn(500, 24), torch.randn(24, 300))
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(wide.delta())
    torch.set_num_threads(1)
    assert torch.equal(*found)
    one_by_one = torch.zeros(500, 300)
    for n in range(24):
        one_by_one += wide.left[:, n : n + 1] * wide.right[n]
    assert torch.equal(found[0], one_by_one)
    torch.testing.assert_close(found[0], wide.left @ wide.right)


def test_a_change_is_rounded_once_to_the_type_of_the_matrix() -> None:
    weight = torch.full((4, 3), 1.0, dtype=torch.bfloat16)
    small = LowRank(0, torch.full((4, 2), 0.003), torch.ones(2, 3))  # each term alone is lost in bfloat16
    assert torch.equal(changed(weight, small), torch.full((4, 3), 1.0078125, dtype=torch.bfloat16))
    assert changed(weight, Dense(0, torch.ones(4, 3))).dtype == torch.bfloat16


@pytest.mark.parametrize("rank", [1, None])
def test_another_shape_and_infinity_are_refused(rank: int | None) -> None:
    model, other = tiny("gpt2"), tiny("llama")
    before = other.fingerprint()
    wrong = edit_of(change(model, 0, rank=rank))
    message = r"changes a matrix \[128, 32\]; .* is \[48, 32\]"
    with pytest.raises(EditError, match=message), wrong.applied_to(other, force=True):
        pass
    good, bad = change(other, 0, layer=0), change(other, 1, rank=rank)
    for tensor in bad.tensors().values():
        tensor.fill_(float("inf"))
    with pytest.raises(EditError, match="not finite"), edit_of(good, bad).applied_to(other, force=True):
        pass
    assert other.fingerprint() == before
