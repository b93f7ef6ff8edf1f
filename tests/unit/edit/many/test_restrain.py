"""RECT and PRUNE: what is cut off an update, entry by entry and singular value by singular value."""

from __future__ import annotations

import math

import pytest
import torch

from factedit.edit.many.restrain import keep_largest, restrain
from factedit.errors import EditError, UsageError


def test_the_entries_that_change_most_against_what_they_were_are_kept() -> None:
    weight = torch.tensor([[1.0, 10.0, 0.1], [2.0, -4.0, 100.0]])
    delta = torch.tensor([[0.5, 1.0, 0.2], [-3.0, 0.3, 5.0]])  # ratios 0.5, 0.1, 2, 1.5, 0.075, 0.05
    kept = keep_largest(delta, weight, 0.5)  # the third smallest ratio is the bound, and kept, as published
    assert torch.equal(kept != 0, torch.tensor([[True, True, True], [True, False, False]]))
    assert torch.equal(kept[kept != 0], delta[kept != 0])
    assert keep_largest(delta, weight, 1.0) is delta
    assert keep_largest(delta, weight, 0.9) is delta, "not a single entry would be cut"


def test_an_entry_of_zero_counts_as_changed_most() -> None:
    kept = keep_largest(torch.tensor([[1e-3, 5.0, 1.0]]), torch.tensor([[0.0, 10.0, 100.0]]), 0.3)
    torch.testing.assert_close(kept, torch.tensor([[1e-3, 5.0, 0.0]]))


@pytest.mark.parametrize("share", [0.0, -0.5, 1.1])
def test_a_share_of_entries_is_above_nothing(share: float) -> None:
    with pytest.raises(UsageError, match="share of entries"):
        keep_largest(torch.ones(2, 2), torch.ones(2, 2), share)


def matrix(values: list[float], seed: int = 1) -> torch.Tensor:
    """A matrix `[6, 4]` of these singular values."""
    random = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(6, 4, generator=random, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(4, 4, generator=random, dtype=torch.float64)).Q
    return (left[:, : len(values)] * torch.tensor(values, dtype=torch.float64) @ right[: len(values)]).float()


def test_values_above_the_largest_of_the_unedited_matrix_grow_by_their_logarithm() -> None:
    """PRUNE: σ' = log(σ / σ₁(W)) + σ₁(W) where σ > σ₁(W), else σ."""
    weight, delta = matrix([3.0, 1.0], seed=2), matrix([12.0, 5.0, 2.5])
    for base in (math.e, 2.0):
        found = restrain(delta, weight, base=base)
        expected = [math.log(12 / 3, base) + 3, math.log(5 / 3, base) + 3, 2.5]
        torch.testing.assert_close(found.after, torch.tensor(expected), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.before, torch.tensor([12.0, 5.0, 2.5]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            torch.linalg.svdvals(found.left @ found.right)[:3], found.after, rtol=1e-5, atol=1e-5
        )
    cosine = torch.nn.functional.cosine_similarity((found.left @ found.right).flatten(), delta.flatten(), dim=0)
    assert cosine > 0.9, "directions stay"


def test_an_update_within_the_matrixs_size_stays_as_it_is() -> None:
    delta = matrix([2.0, 0.5])
    found = restrain(delta, matrix([3.0], seed=2))
    torch.testing.assert_close(found.left @ found.right, delta, rtol=1e-4, atol=1e-6)
    assert found.left.shape == (6, 2)


def test_what_has_no_singular_values_is_refused() -> None:
    with pytest.raises(EditError, match="zero or not finite"):
        restrain(torch.zeros(3, 2), torch.ones(3, 2))
    with pytest.raises(EditError, match="zero or not finite"):
        restrain(torch.full((3, 2), math.nan), torch.ones(3, 2))
    with pytest.raises(UsageError, match="base of the logarithm is 1"):
        restrain(torch.ones(3, 2), torch.ones(3, 2), base=1.0)
