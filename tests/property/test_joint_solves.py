"""The theorems of joint solves: what batches in sequence, in any order, taken back or replaced come to.

The oracles are the published formulas with whole matrices and inverses, and the minimum's own conditions; nothing of
`edit/many` is used to check it.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from conftest import random_moment
from factedit.edit.many.history import History, share_reached, write_exactly
from factedit.edit.many.revise import take_back
from factedit.edit.updates import insert
from factedit.errors import EditError, UsageError
from factedit.stats.penalty import MomentPenalty, NullSpacePenalty, Penalty, null_space, wanted_scale

D, OUT, WEIGHT, L2 = 24, 7, 3.0, 2.0
MOMENT = random_moment(D)
THRESHOLD = float(torch.linalg.eigvalsh(MOMENT.matrix)[10:12].mean())  # half of the directions
RIDGE = 0.3
LEFT_OUT = 0.05 * torch.randn(2, D, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
FORMS = {"columns": 4, "whole": 15}  # keys in all, so that either form of the solve is used


def rows(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def penalties() -> dict[str, Penalty]:
    return {
        "moment": MomentPenalty(MOMENT, WEIGHT),
        "with a ridge, less something": MomentPenalty(MOMENT.with_ridge(RIDGE), WEIGHT, left_out=LEFT_OUT),
        "null space": NullSpacePenalty(null_space(MOMENT.matrix, threshold=THRESHOLD), L2),
    }


def projector() -> Tensor:
    values, vectors = torch.linalg.eigh(MOMENT.matrix)
    return vectors @ torch.diag((values < THRESHOLD).double()) @ vectors.T


def published(name: str, keys: Tensor, residual: Tensor, history: Tensor) -> Tensor:
    """ΔW by the formula of the paper, with whole matrices (MEMIT eq. 14; AlphaEdit eq. 14)."""
    if name != "null space":
        kept = MOMENT.matrix
        if name != "moment":
            kept = kept + RIDGE * kept.diagonal().mean() * torch.eye(D, dtype=torch.float64) - LEFT_OUT.T @ LEFT_OUT
        return torch.linalg.inv(WEIGHT * kept + history.T @ history + keys.T @ keys) @ keys.T @ residual
    p = projector()
    system = p @ (keys.T @ keys + history.T @ history) + L2 * torch.eye(D, dtype=torch.float64)
    return torch.linalg.solve(system, p @ keys.T @ residual)


def close(found: Tensor, expected: Tensor, bound: float = 1e-10) -> None:
    assert (found - expected).norm() <= bound * expected.norm(), (found - expected).norm() / expected.norm()


def written(penalty: Penalty, batches: list[tuple[Tensor, Tensor]], start: Tensor) -> tuple[Tensor, History]:
    """W and the history after the batches of keys and values, one after the other."""
    weight, history = start, History.of(penalty, start.new_zeros(0, D))
    for keys, values in batches:
        solve, history = history.write(keys)
        weight = weight + solve.directions.T @ (values - keys @ weight)
    return weight, history


def batches(total: int) -> list[tuple[Tensor, Tensor]]:
    sizes = [total // 2, total // 4, total - total // 2 - total // 4]
    return [(rows(n, D, 10 + i), rows(n, OUT, 20 + i)) for i, n in enumerate(sizes)]


@pytest.mark.parametrize("total", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", penalties())
def test_a_batch_is_the_published_formula(name: str, total: int) -> None:
    keys, residual = rows(total, D, 1), rows(total, OUT, 2)
    for earlier in (0, 1, 8):
        before = rows(earlier, D, 3)
        solve, after = History.of(penalties()[name], before).write(keys)
        assert torch.equal(after.keys, torch.cat([before, keys]))
        change = published(name, keys, residual, before)
        close(solve.directions.T @ residual, change)
        close(solve.reach @ residual, keys @ change)
        assert share_reached(solve, residual) == pytest.approx(float((keys @ change).norm() / residual.norm()))


def test_both_forms_are_used() -> None:
    for penalty in penalties().values():
        few, many = (History.of(penalty, rows(n, D, 1)) for n in (4, 15))
        assert few.solved is not None
        assert many.solved is None


@pytest.mark.parametrize("total", FORMS.values(), ids=FORMS)
def test_stationarity(total: int) -> None:
    """λC ΔW = Kᵀ(R − K ΔW): the condition of the minimum, which a wrong C or a wrong sign does not meet."""
    keys, residual = rows(total, D, 1), rows(total, OUT, 2)
    solve, _ = History.of(penalties()["moment"], rows(0, D, 0)).write(keys)
    change = solve.directions.T @ residual
    close(WEIGHT * MOMENT.matrix @ change, keys.T @ (residual - keys @ change))


def test_stationarity_in_the_null_space() -> None:
    """ΔW lies in the null space, and there L2 ΔW = P Kᵀ(R − K ΔW)."""
    keys, residual, p = rows(4, D, 1), rows(4, OUT, 2), projector()
    solve, _ = History.of(penalties()["null space"], rows(0, D, 0)).write(keys)
    change = solve.directions.T @ residual
    close(p @ change, change)
    close(L2 * change, p @ keys.T @ (residual - keys @ change))


@pytest.mark.parametrize("total", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", penalties())
def test_a_sequence_is_the_solution_at_once_in_any_order(name: str, total: int) -> None:
    start, parts = rows(D, OUT, 5), batches(total)
    keys, values = (torch.cat([part[n] for part in parts]) for n in (0, 1))
    at_once = start + published(name, keys, values - keys @ start, rows(0, D, 0))
    for order in itertools.permutations(parts):
        close(written(penalties()[name], list(order), start)[0], at_once)
    without_history = start
    for own, value in parts:
        without_history = without_history + published(name, own, value - own @ without_history, rows(0, D, 0))
    assert (without_history - at_once).norm() > 0.05 * (at_once - start).norm()


@pytest.mark.parametrize("total", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", penalties())
def test_taking_back_leaves_what_the_others_alone_come_to(name: str, total: int) -> None:
    start, parts = rows(D, OUT, 5), batches(total)
    keys, values = (torch.cat([part[n] for part in parts]) for n in (0, 1))
    weight, history = written(penalties()[name], parts, start)
    for gone in ([1], [0, total - 1, 2], list(range(total))):
        which = torch.tensor(gone)
        kept = torch.tensor([n for n in range(total) if n not in gone], dtype=torch.long)
        found = take_back(history, which, values[which], lambda k: k @ weight.double())
        after = weight + found.directions.T @ found.residual
        others = start + published(name, keys[kept], values[kept] - keys[kept] @ start, rows(0, D, 0))
        close(after, others)
        assert torch.equal(found.history.keys, keys[kept])
        later, more = rows(2, D, 40), rows(2, OUT, 41)  # and the sequence goes on as if they had never been
        solve, _ = found.history.write(later)
        both_keys, both = torch.cat([keys[kept], later]), torch.cat([values[kept], more])
        close(
            after + solve.directions.T @ (more - later @ after),
            start + published(name, both_keys, both - both_keys @ start, rows(0, D, 0)),
        )


def test_emmet_with_a_ridge_is_memit() -> None:
    """R (KᵀC_w⁻¹K + e·I)⁻¹KᵀC_w⁻¹ with C_w = wC is MEMIT's solve with λ = w·e."""
    keys, residual, w, e = rows(4, D, 1), rows(4, OUT, 2), 7.0, 0.1
    inverse = torch.linalg.inv(w * MOMENT.matrix)
    emmet = (
        torch.linalg.inv(keys @ inverse @ keys.T + e * torch.eye(4, dtype=torch.float64)) @ keys @ inverse
    ).T @ residual
    solve, _ = History.of(MomentPenalty(MOMENT, w * e), rows(0, D, 0)).write(keys)
    close(solve.directions.T @ residual, emmet)
    close(write_exactly(keys, MomentPenalty(MOMENT, w).solve(keys), e).directions.T @ residual, emmet)


def test_the_equality_holds_exactly_and_moves_the_past_least() -> None:
    """K ΔW = R, and C ΔW lies in the keys' span: the conditions of the constrained minimum."""
    keys, residual = rows(4, D, 1), rows(4, OUT, 2)
    change = write_exactly(keys, MOMENT.solve(keys)).directions.T @ residual
    close(keys @ change, residual)
    gradient = MOMENT.matrix @ change
    onto_keys = keys.T @ torch.linalg.pinv(keys.T)
    close(onto_keys @ gradient, gradient)
    one = write_exactly(keys[:1], MOMENT.solve(keys[:1])).directions.T @ residual[:1]
    close(one, insert(MOMENT.solve(keys[0]), keys[0], residual[0]).delta())


def test_a_fact_of_mean_strength_reaches_the_share_that_is_asked_for() -> None:
    keys = rows(5, D, 1)
    strength = (keys * MOMENT.solve(keys)).sum(1)
    penalty = MomentPenalty(MOMENT, wanted_scale(strength, 0.7))
    average = keys[:1] * (strength.mean() / strength[0]).sqrt()
    solve, _ = History.of(penalty, rows(0, D, 0)).write(average)
    assert float(solve.reach) == pytest.approx(0.7)
    for wrong in (0.0, 1.0, 1.5):
        with pytest.raises(UsageError, match="between 0 and 1"):
            wanted_scale(strength, wrong)
    with pytest.raises(EditError, match="nothing can be written"):
        wanted_scale(torch.zeros(3), 0.5)


def test_the_condition_number_is_the_systems() -> None:
    keys = rows(4, D, 1)
    gram = keys @ torch.linalg.inv(WEIGHT * MOMENT.matrix) @ keys.T
    solve, _ = History.of(MomentPenalty(MOMENT, WEIGHT), rows(0, D, 0)).write(keys)
    assert solve.condition == pytest.approx(float(torch.linalg.cond(gram + torch.eye(4, dtype=torch.float64))))
    exact = write_exactly(keys, MOMENT.solve(keys))
    assert exact.condition == pytest.approx(float(torch.linalg.cond(gram)))


def test_dependent_keys_cannot_be_written_exactly() -> None:
    keys = rows(3, D, 1)
    keys = torch.cat([keys, keys[:1] + keys[1:2]])
    with pytest.raises(EditError, match="depend on each other"):
        write_exactly(keys, MOMENT.solve(keys))
    write_exactly(keys, MOMENT.solve(keys), 0.01)


def test_equal_keys_share_the_mean_of_their_values() -> None:
    """Two facts with one subject at one place have one key: the solve gives both the same."""
    key, residual = rows(1, D, 1), rows(2, OUT, 2)
    solve, _ = History.of(MomentPenalty(MOMENT, 1e-6), rows(0, D, 0)).write(key.repeat(2, 1))
    close(key @ solve.directions.T @ residual, residual.mean(0, keepdim=True), 1e-5)


def test_what_cannot_be_solved_is_refused() -> None:
    with pytest.raises(EditError, match="not finite"):
        History.of(penalties()["moment"], torch.full((1, D), float("nan")))
    for make in (
        lambda: MomentPenalty(MOMENT, 0.0),
        lambda: NullSpacePenalty(null_space(MOMENT.matrix, threshold=THRESHOLD), 0.0),
    ):
        with pytest.raises(UsageError, match="must be positive"):
            make()
    with pytest.raises(EditError, match="no null space to edit in"):
        null_space(MOMENT.matrix, threshold=1e-9)
    with pytest.raises(EditError, match="nothing would be kept"):
        null_space(MOMENT.matrix, threshold=1e9)


def test_the_null_space_says_how_near_the_threshold_is() -> None:
    space = null_space(MOMENT.matrix, threshold=THRESHOLD)
    assert space.dim == 11
    assert float(THRESHOLD) == space.threshold
    close(space.basis @ space.basis.T, projector())


def test_a_null_space_of_a_share_of_what_the_keys_weigh() -> None:
    values = torch.linalg.eigvalsh(MOMENT.matrix)
    share = float(values[:11].sum() / values.sum())
    space = null_space(MOMENT.matrix, energy=share + 1e-6)
    assert space.dim == 11
    assert float(values[10]) < space.threshold < float(values[11])
    assert null_space(MOMENT.matrix, energy=share - 1e-6).dim == 10
    with pytest.raises(EditError, match="no null space"):
        null_space(MOMENT.matrix, energy=1e-9)
    for wrong in ({}, {"threshold": 1.0, "energy": 0.1}):
        with pytest.raises(UsageError, match="and not both"):
            null_space(MOMENT.matrix, **wrong)
    with pytest.raises(UsageError, match="between 0 and 1"):
        null_space(MOMENT.matrix, energy=1.0)


def test_past_half_the_width_a_batch_is_taken_in_alone() -> None:
    """The matrix of all earlier facts is kept: only the batch's own keys are read, and S is that of all."""
    read: list[int] = []

    class Counted(MomentPenalty):
        def inside(self, keys: Tensor) -> Tensor:
            read.append(len(keys))
            return super().inside(keys)

        def matrix(self) -> Tensor:
            read.append(-1)
            return super().matrix()

    history = History.of(Counted(MOMENT, WEIGHT), rows(15, D, 1))
    assert history.solved is None
    read.clear()
    every = [rows(15, D, 1)]
    for seed in (2, 3):
        own = rows(2, D, seed)
        solve, history = history.write(own)
        whole = WEIGHT * MOMENT.matrix + sum(k.T @ k for k in (*every, own))
        close(solve.directions, torch.linalg.solve(whole, own.T).T)
        every.append(own)
    assert read == [2, 2, 2, 2], "each batch's keys, to join and to be solved for"
