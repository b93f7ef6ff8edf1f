"""What a joint change must keep small: every part of a penalty against the matrix it stands for, written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from factedit.errors import EditError, UsageError
from factedit.stats.penalty import (
    MomentPenalty,
    NullSpace,
    NullSpacePenalty,
    Penalty,
    null_space,
    positive,
    wanted_scale,
)
from factedit.stats.second_moment import SecondMoment

SIZE = 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(*, ridge: float = 0.0, seed: int = 1) -> SecondMoment:
    root = drawn(SIZE, 4 * SIZE, seed=seed)
    return SecondMoment(root @ root.T / (4 * SIZE), tokens=4 * SIZE, corpus="drawn").with_ridge(ridge)


def with_eigenvalues(values: list[float]) -> tuple[Tensor, Tensor]:
    """A symmetric matrix of these eigenvalues, and its eigenvectors in their order."""
    basis = torch.linalg.qr(drawn(len(values), len(values), seed=3)).Q
    return basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T, basis


# -- λC ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("out", [0, 1, 3])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_moments_penalty_is_its_matrix(ridge: float, out: int, scale: float) -> None:
    """M = λ(C + ridge − AᵀA): as a matrix, and by Woodbury for keys."""
    own, parts, keys = moment(ridge=ridge), 0.1 * drawn(out, SIZE, seed=4), drawn(5, SIZE, seed=5)
    whole = own.matrix + ridge * own.matrix.diagonal().mean() * torch.eye(SIZE, dtype=torch.float64)
    whole = scale * (whole - parts.T @ parts)
    penalty = MomentPenalty(own).without(parts).scaled(scale)
    torch.testing.assert_close(penalty.matrix(), whole)
    torch.testing.assert_close(penalty.solve(keys), torch.linalg.solve(whole, keys.T).T)
    assert (penalty.scale, penalty.size) == (scale, SIZE)


def test_coordinates_of_the_moments_penalty_are_the_keys() -> None:
    penalty, keys = MomentPenalty(moment()), drawn(2, SIZE).float()
    assert penalty.inside(keys).dtype == torch.float64
    assert torch.equal(penalty.outside(penalty.inside(keys)), keys.double())


def test_what_is_left_out_is_said_anew_every_time() -> None:
    """A sequence's list of names takes the place of the one before; it is not left out twice."""
    first, second = 0.1 * drawn(1, SIZE, seed=6), 0.1 * drawn(2, SIZE, seed=7)
    one = MomentPenalty(moment()).without(first).without(second)
    torch.testing.assert_close(one.matrix(), MomentPenalty(moment()).without(second).matrix())


def test_the_matrix_is_a_new_one_and_c_stays() -> None:
    own = moment(ridge=0.5)
    before = own.matrix.clone()
    penalty = MomentPenalty(own)
    penalty.matrix().mul_(0.0)
    assert torch.equal(own.matrix, before)
    assert penalty.matrix().abs().sum() > 0


def test_keys_in_float32_are_solved_in_float64() -> None:
    keys = drawn(3, SIZE, seed=8).float()
    found = MomentPenalty(moment()).solve(keys)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.linalg.solve(moment().matrix, keys.double().T).T)


# -- L2·I in a null space ---------------------------------------------------------------------------


@pytest.fixture
def space() -> NullSpace:
    matrix, _ = with_eigenvalues([0.01, 0.02, 0.05, 1.0, 2.0, 3.0])
    return null_space(matrix, threshold=0.1)


def test_inside_a_null_space_the_penalty_is_a_multiple_of_the_projection(space: NullSpace) -> None:
    keys, projection = drawn(4, SIZE, seed=9), space.basis @ space.basis.T
    penalty = NullSpacePenalty(space, 5.0)
    assert (penalty.size, space.dim) == (3, 3)
    torch.testing.assert_close(penalty.solve(keys), keys @ projection / 5)
    torch.testing.assert_close(penalty.outside(penalty.inside(keys)), keys @ projection)
    torch.testing.assert_close(penalty.inside(penalty.outside(drawn(2, 3))), drawn(2, 3))
    torch.testing.assert_close(penalty.matrix(), 5 * torch.eye(3, dtype=torch.float64))
    assert penalty.scaled(2.0).scale == 2.0


def test_inside_a_null_space_nothing_of_c_is_weighed(space: NullSpace) -> None:
    penalty = NullSpacePenalty(space)
    assert penalty.without(drawn(2, SIZE)) is penalty


def test_the_null_space_holds_the_eigenvectors_below_the_threshold() -> None:
    values = [0.01, 0.02, 0.05, 1.0, 2.0, 3.0]
    matrix, basis = with_eigenvalues(values)
    for threshold, dim in ((0.015, 1), (0.05, 2), (0.0501, 3), (2.5, 5)):
        found = null_space(matrix, threshold=threshold)
        assert found.dim == dim, threshold
        torch.testing.assert_close(found.basis @ found.basis.T, basis[:, :dim] @ basis[:, :dim].T)
        torch.testing.assert_close(found.eigenvalues, torch.tensor(values, dtype=torch.float64))
        assert found.threshold == threshold


@pytest.mark.parametrize(
    ("energy", "dim", "threshold"),
    [
        (0.05, 0, None),  # the smallest alone holds a tenth
        (0.10001, 1, 1.5),  # 1 of 10; half way to 2
        (0.29, 1, 1.5),  # 1 + 2 are three tenths
        (0.30001, 2, 2.5),
        (0.60001, 3, 3.5),
        (0.99, 3, 3.5),
    ],
)
def test_a_share_of_the_trace_is_of_the_eigenvalues_sum(energy: float, dim: int, threshold: float | None) -> None:
    """Eigenvalues 1, 2, 3, 4: their cumulated shares are .1, .3, .6 and 1."""
    matrix, _ = with_eigenvalues([1.0, 2.0, 3.0, 4.0])
    if threshold is None:
        with pytest.raises(EditError, match=r"^0 of C's 4 eigenvalues \(1 to 4\) are below 1: there is no null space"):
            null_space(matrix, energy=energy)
        return
    found = null_space(matrix, energy=energy)
    assert found.dim == dim
    assert found.threshold == pytest.approx(threshold)


def test_a_null_space_of_nothing_or_of_everything_is_refused() -> None:
    matrix, _ = with_eigenvalues([1.0, 2.0, 3.0])
    with pytest.raises(
        EditError, match=r"^0 of C's 3 eigenvalues.*are below 0\.5: there is no null space.* Raise it\."
    ):
        null_space(matrix, threshold=0.5)
    with pytest.raises(EditError, match=r"^3 of C's 3 eigenvalues.*nothing would be kept\. Lower it\."):
        null_space(matrix, threshold=3.5)


@pytest.mark.parametrize("given", [{}, {"threshold": 1.0, "energy": 0.1}])
def test_one_of_two_measures_is_asked_for(given: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a threshold or a share of C's trace, and not both"):
        null_space(moment().matrix, **given)


@pytest.mark.parametrize("energy", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_a_share_lies_between_nothing_and_all(energy: float) -> None:
    with pytest.raises(UsageError, match="it must lie between 0 and 1"):
        null_space(moment().matrix, energy=energy)


# -- scales -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("make", [
    lambda scale, _space: MomentPenalty(moment(), scale), lambda scale, space: NullSpacePenalty(space, scale),
    lambda scale, _space: MomentPenalty(moment()).scaled(scale), lambda scale, _space: positive(scale),
])  # fmt: skip
def test_a_weight_that_is_not_positive_is_refused(
    scale: float, make: Callable[[float, NullSpace], Penalty], space: NullSpace
) -> None:
    with pytest.raises(UsageError, match=r"The weight of what must stay \(λ or L2\) is .*; it must be positive"):
        make(scale, space)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_fact_of_mean_strength_reaches_the_share(share: float) -> None:
    """κ / (λ + κ) of its residual, κ being the mean of the facts' strengths."""
    strength = torch.tensor([1.0, 2.0, 6.0])
    scale = wanted_scale(strength, share)
    assert 3.0 / (scale + 3.0) == pytest.approx(share)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"The share of the residual is .*between 0 and 1"):
        wanted_scale(torch.ones(2), share)


def test_keys_that_vanish_where_a_change_may_lie_are_refused(space: NullSpace) -> None:
    keys = drawn(2, SIZE) @ (torch.eye(SIZE, dtype=torch.float64) - space.basis @ space.basis.T)
    strength = (keys * NullSpacePenalty(space).solve(keys)).sum(1)
    assert strength.abs().max() < 1e-12
    with pytest.raises(EditError, match="nothing can be written; raise the threshold"):
        wanted_scale(torch.zeros(2), 0.5)
