"""What must stay: C beside the keys of earlier facts, by either formula, and the null space."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.stats.preserved import Preserved, preserved_at
from factedit.stats.second_moment import SecondMoment


def preserved(size: int, ridge: float = 0.0) -> Preserved:
    root = torch.randn(size, 3 * size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Preserved(tiny("gpt2"), 1, SecondMoment(root @ root.T / (3 * size)).with_ridge(ridge))


@pytest.mark.parametrize("facts", [0, 1, 5, 6, 40])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_keys_beside_earlier_ones(facts: int, ridge: float) -> None:
    """Small histories by Woodbury's formula, large ones by a factor: the same solution."""
    random = torch.Generator().manual_seed(facts)
    own, size, weight = preserved(12, ridge), 12, 7.5
    history = torch.randn(facts, size, generator=random, dtype=torch.float64)
    keys = torch.randn(4, size, generator=random, dtype=torch.float64)
    matrix = own.moment.matrix
    total = weight * (matrix + ridge * matrix.diagonal().mean() * torch.eye(size)) + history.T @ history
    torch.testing.assert_close(own.solve_beside(history, keys, weight=weight), torch.linalg.solve(total, keys.T).T)


def test_the_null_space_holds_what_text_hardly_reads() -> None:
    values = torch.tensor([1e-4, 5.0, 1e-3, 2.0], dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    own = Preserved(tiny("gpt2"), 0, SecondMoment(turn @ torch.diag(values) @ turn.T))
    space = own.null_space(1e-2)
    assert space.shape == (4, 2)
    torch.testing.assert_close(space @ space.T, turn[:, [0, 2]] @ turn[:, [0, 2]].T)
    assert own.null_space(1e-9).shape == (4, 0)


def test_the_ridge_is_a_share_of_the_mean_eigenvalue() -> None:
    """Ten times the keys, ten times the ridge: C⁻¹k only shrinks by a hundred, it does not turn."""
    key = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[None]
    small = preserved_at(tiny("gpt2"), 1, lambda *_: preserved(12).moment, ridge=0.2)
    large = preserved_at(tiny("gpt2"), 1, lambda *_: SecondMoment(100 * preserved(12).moment.matrix), ridge=0.2)
    torch.testing.assert_close(large.solve(key), small.solve(key) / 100)
