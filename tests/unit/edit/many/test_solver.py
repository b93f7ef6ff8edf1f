"""A layer's changes through a sequence, against the whole matrices that they stand for."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from conftest import random_moment, tiny
from factedit.edit.many.solver import LayerPast, Solved, Solver, with_values
from factedit.edit.state import State
from factedit.errors import EditError, UsageError
from factedit.models.adapter import EditableModel
from factedit.stats.penalty import scale_of_batch
from factedit.stats.preserved import Preserved
from factedit.stats.subjects import subject_keys, subject_names

LAYER, WEIGHT = 1, 3.0


@cache
def model() -> EditableModel:
    return tiny("gpt2")


def kept(subject_weight: float = 2.0) -> Preserved:
    return Preserved(model(), LAYER, random_moment(model().d_mlp), subject_weight)


def name() -> str:
    return next(iter(subject_names().values()))


def own_part() -> Tensor:
    """a aᵀ of the one name in C, which is a mean over all names."""
    key = subject_keys(model(), LAYER, [("{}", name())])[0].double()
    return 2.0 / len(subject_names()) * torch.outer(key, key)


def random(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def written(solver: Solver, subjects: list[str], past: LayerPast, seed: int) -> tuple[Solved, Tensor, LayerPast]:
    keys, residual = random(len(subjects), model().d_mlp, seed), random(len(subjects), model().d_model, seed + 1)
    solved = solver.solve(keys, residual, subjects, past)
    return solved, keys.double(), with_values(solved.past, residual)


def test_the_edited_subjects_own_names_need_not_stay_for_the_rest_of_the_sequence() -> None:
    solver = Solver(kept(), kept().penalty(), WEIGHT)
    first, keys, past = written(solver, [name()], LayerPast.of(model(), LAYER, None), 1)
    stays = WEIGHT * (kept().moment.matrix - own_part())
    torch.testing.assert_close(first.change.left.double(), torch.linalg.solve(stays + keys.T @ keys, keys.T),
                               rtol=1e-4, atol=1e-6)  # fmt: skip
    second, later, _ = written(solver, ["nobody at all"], past, 5)
    beside = stays + keys.T @ keys + later.T @ later
    torch.testing.assert_close(second.change.left.double(), torch.linalg.solve(beside, later.T), rtol=1e-4, atol=1e-6)
    assert second.notes["history"] == 1


@pytest.mark.parametrize("batches", [[[0, 0]], [[0], [0]], [[0], [1], [0, 1]]], ids=str)
def test_a_name_of_several_facts_is_taken_out_of_c_once(batches: list[list[int]]) -> None:
    """C holds a name once: taken out for each of two facts of one subject, 1 000 facts on Gemma had no solution."""
    names = list(subject_names().values())[:2]
    solver, past, seen = Solver(kept(), kept().penalty(), WEIGHT), LayerPast.of(model(), LAYER, None), []
    keys_of_names = subject_keys(model(), LAYER, [("{}", one) for one in names]).double()
    apart = keys_of_names[sorted({n for batch in batches for n in batch})]
    stays = WEIGHT * (kept().moment.matrix - 2.0 / len(subject_names()) * apart.T @ apart)
    for number, batch in enumerate(batches):
        subjects = [names[n] if number % 2 else f"the {names[n].upper()}" for n in batch]
        last, keys, past = written(solver, subjects, past, 7 * number)
        past = LayerPast.of(model(), LAYER, State("base", past.tensors(LAYER)))  # as it is kept between commands
        seen.append(keys)
    whole = stays + torch.cat(seen).T @ torch.cat(seen)
    torch.testing.assert_close(last.change.left.double(), torch.linalg.solve(whole, seen[-1].T), rtol=1e-4, atol=1e-6)
    assert len(past.left_out) == len(past.names) == len(apart)


def test_without_a_history_earlier_keys_do_not_stay() -> None:
    solver = Solver(kept(0.0), kept(0.0).penalty(), WEIGHT, history=False)
    _, _, past = written(solver, ["somebody"], LayerPast.of(model(), LAYER, None), 1)
    second, later, _ = written(solver, ["nobody at all"], past, 5)
    alone = torch.linalg.solve(WEIGHT * kept(0.0).moment.matrix + later.T @ later, later.T)
    torch.testing.assert_close(second.change.left.double(), alone, rtol=1e-4, atol=1e-6)


def test_inside_a_null_space_names_in_c_are_not_weighed() -> None:
    space = kept().null_space(energy=0.2)
    found = [
        written(Solver(own, space, WEIGHT), [name()], LayerPast.of(model(), LAYER, None), 1)[0].change.left
        for own in (kept(), kept(0.0))
    ]
    assert torch.equal(*found)
    values, vectors = torch.linalg.eigh(kept().moment.matrix)
    small = vectors[:, : space.size]
    keys = random(1, model().d_mlp, 1).double() @ small
    system = WEIGHT * torch.eye(space.size) + keys.T @ keys
    torch.testing.assert_close(found[0].double(), small @ torch.linalg.solve(system, keys.T), rtol=1e-4, atol=1e-6)
    assert values[: space.size].sum() <= 0.2 * values.sum() < values[: space.size + 1].sum()


def test_the_weight_is_what_makes_a_mean_fact_reach_its_share() -> None:
    """One fact alone reaches κ / (λ + κ) of its residual, κ = kᵀC⁻¹k; later batches keep the first one's weight."""
    solver = Solver(kept(0.0), kept(0.0).penalty(), None, share=0.75)
    first, keys, past = written(solver, ["somebody"], LayerPast.of(model(), LAYER, None), 1)
    strength = float(keys @ torch.linalg.solve(kept(0.0).moment.matrix, keys.T))
    assert abs(first.notes["scale"] - strength / 3) < 1e-6 * strength
    assert abs(first.notes["share_reached"] - 0.75) < 1e-6
    second, _, _ = written(solver, ["nobody at all"], past, 5)
    assert second.notes["scale"] == first.notes["scale"]


def test_the_weight_can_be_what_makes_the_whole_first_batch_reach_its_share() -> None:
    for penalty in (kept(0.0).penalty(), kept(0.0).null_space(energy=0.5)):
        solver = Solver(kept(0.0), penalty, None, share=0.7, of_batch=True)
        subjects = ["one", "another", "a third"]
        first, keys, past = written(solver, subjects, LayerPast.of(model(), LAYER, None), 1)
        residual = random(3, model().d_model, 2).double()
        change = first.change.left.double() @ first.change.right.double()
        assert abs(float((keys @ change).norm() / residual.norm()) - 0.7) < 1e-4
        second, _, _ = written(solver, ["nobody at all"], past, 5)
        assert second.notes["scale"] == first.notes["scale"]


def test_no_weight_lets_keys_that_depend_on_each_other_reach_everything() -> None:
    gram = torch.ones(2, 2, dtype=torch.float64)  # one key twice
    apart = torch.tensor([[1.0], [-1.0]])
    for residual, share in ((apart, 0.5), (torch.zeros(2, 1), 0.5)):
        with pytest.raises(EditError, match="No weight of what must stay lets the batch reach 50 %"):
            scale_of_batch(gram, residual, share)
    assert scale_of_batch(gram, torch.ones(2, 1), 0.5) == pytest.approx(2.0)  # 2 / (2 + λ)
    for share in (0.0, 1.0):
        with pytest.raises(UsageError, match="must lie between 0 and 1"):
            scale_of_batch(gram, apart, share)


@pytest.mark.parametrize("size", [5, 30], ids=["columns", "whole"])
def test_a_history_read_back_has_the_bits_of_one_that_went_on(size: int) -> None:
    """Also where a fact was taken back: before, the keys read back were taken in at once, which rounds otherwise."""
    going, state = Solver(kept(0.0), kept(0.0).penalty(), None, share=0.9), None
    for seed in range(4):
        past = LayerPast.of(model(), LAYER, state)
        if seed == 3:
            gone = {
                name: t[1:] if name.startswith(("keys", "values")) else t for name, t in past.tensors(LAYER).items()
            }
            past = LayerPast.of(model(), LAYER, State("", gone))
            assert past.batches == (3 * size - 1,), "the steps are not known any more"
        anew = Solver(kept(0.0), kept(0.0).penalty(), None, share=0.9)
        found = [written(solver, ["s"] * size, past, 10 * seed)[0] for solver in (going, anew)]
        for one, other in zip(*(each.change for each in found), strict=True):
            assert torch.equal(one, other), seed
        assert torch.equal(going._known[0].factor, anew._known[0].factor)
        past = written(anew, ["s"] * size, past, 10 * seed)[2]
        assert past.batches[-1] == size
        state = State("", past.tensors(LAYER))
