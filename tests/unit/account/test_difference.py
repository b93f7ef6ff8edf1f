"""Where two tensors differ and of what rank, on differences made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from factedit.account.difference import SKETCH, compare_tensors


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


BASE = random(1, 200, 160)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_bits_and_a_rounded_copy_are_no_difference(dtype: torch.dtype) -> None:
    assert compare_tensors("w", BASE, BASE.clone()) is None
    assert compare_tensors("w", BASE, BASE.to(dtype).float()) is None


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_a_low_rank_difference_is_found_with_what_it_reads_and_writes(rank: int) -> None:
    left, right = random(2, 200, rank), random(3, rank, 160)
    delta = 0.05 * left @ right
    found = compare_tensors("w", BASE, BASE + delta)
    assert found is not None
    assert (found.tensor, found.shape, found.rank) == ("w", (200, 160), rank)
    assert found.relative == pytest.approx(float(delta.norm() / BASE.norm()), rel=1e-3)
    torch.testing.assert_close(
        torch.tensor(found.values), torch.linalg.svdvals(delta.double())[:rank].float(), rtol=1e-3, atol=1e-4
    )
    assert found.left is not None
    assert found.right is not None
    torch.testing.assert_close(found.left @ (found.left.T @ left), left, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close((right @ found.right.T) @ found.right, right, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.left.T @ found.left, torch.eye(rank), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_an_edited_copy_is_not_counted_as_rank(dtype: torch.dtype) -> None:
    delta = 3.0 * random(2, 200, 2) @ random(3, 2, 160)
    found = compare_tensors("w", BASE.to(dtype).float(), (BASE + delta).to(dtype).float())
    assert found is not None
    assert found.rank == 2


def test_a_difference_of_high_rank_and_one_of_no_matrix_have_none() -> None:
    dense = compare_tensors("w", BASE, BASE + 0.1 * random(5, 200, 160))
    assert dense is not None
    assert (dense.rank, dense.values, dense.left) == (None, (), None)
    small = compare_tensors("w", BASE[:10, :8], BASE[:10, :8] + random(6, 10, 8))
    assert small is not None
    assert small.rank is None, f"less than {SKETCH} rows or columns: a whole rank is no low one"
    vector = compare_tensors("b", BASE[0], BASE[0] + 1)
    assert vector is not None
    assert (vector.rank, vector.shape) == (None, (160,))


def test_it_is_the_same_every_time() -> None:
    suspect = BASE + random(2, 200, 2) @ random(3, 2, 160)
    first, second = (compare_tensors("w", BASE, suspect) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.values == second.values
    assert torch.equal(first.left, second.left)
