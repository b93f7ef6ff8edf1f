"""The insertion as the solution of its problem (ROME, arXiv 2202.05262, eq. 2 and appendix A)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from factedit.edit.updates import insert
from factedit.errors import EditError

D, OUT = 12, 5


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment() -> Tensor:
    root = random(1, D, 3 * D)
    return root @ root.T / (3 * D)


def test_the_value_is_given_at_the_key_and_the_rest_moves_least() -> None:
    """min tr(ΔWᵀ C ΔW) subject to k ΔW = r, solved by its optimality conditions as one linear system."""
    c, key, residual = moment(), random(2, D), random(3, OUT)
    change = insert(torch.linalg.solve(c, key), key, residual).delta()
    torch.testing.assert_close(key @ change, residual)
    system = torch.zeros(D + 1, D + 1, dtype=torch.float64)
    system[:D, :D], system[:D, D], system[D, :D] = 2 * c, key, key
    for column in range(OUT):
        right = torch.zeros(D + 1, dtype=torch.float64)
        right[D] = residual[column]
        torch.testing.assert_close(torch.linalg.solve(system, right)[:D], change[:, column])


def test_with_another_key_under_the_bar_the_residual_is_given_at_that_one() -> None:
    """`rome-original`: the direction of the mean key, the denominator of the bare one."""
    c, mean, bare, residual = moment(), random(2, D), random(4, D), random(3, OUT)
    change = insert(torch.linalg.solve(c, mean), bare, residual)
    torch.testing.assert_close(bare @ change.delta(), residual)
    assert not torch.allclose(mean @ change.delta(), residual)
    cosine = torch.nn.functional.cosine_similarity(change.direction, torch.linalg.solve(c, mean), dim=0)
    assert float(cosine) == pytest.approx(1.0)
    assert float(change.direction.norm()) == pytest.approx(1.0)


def test_the_length_of_the_solved_key_does_not_matter() -> None:
    c, key, residual = moment(), random(2, D), random(3, OUT)
    solved = torch.linalg.solve(c, key)
    torch.testing.assert_close(insert(1e6 * solved, key, residual).delta(), insert(solved, key, residual).delta())


@pytest.mark.parametrize(
    ("solved", "key", "residual"),
    [
        (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.ones(2)),
        (torch.zeros(2), torch.ones(2), torch.ones(2)),
        (torch.tensor([math.nan, 1.0]), torch.ones(2), torch.ones(2)),
        (torch.ones(2), torch.ones(2), torch.tensor([math.inf, 1.0])),
        (torch.ones(2), torch.full((2,), 1e-38), torch.full((2,), 1e10)),
    ],
    ids=["orthogonal", "no direction", "a direction of NaN", "an infinite residual", "a denominator near nothing"],
)
def test_an_update_that_is_not_finite_is_refused(solved: Tensor, key: Tensor, residual: Tensor) -> None:
    with pytest.raises(EditError, match=r"The update is not finite.*the model is unchanged"):
        insert(solved, key, residual)
