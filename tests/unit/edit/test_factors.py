"""A gradient as factors: their sum is autograd's own gradient by the whole matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import tiny
from factedit.edit.factors import gradient_factors, last_matrices, products_added, shapes_of
from factedit.edit.target_rows import TargetBatch, target_row
from factedit.models.adapter import EditableModel

ASKED = [("Paris is in", "Seattle"), ("LeBron James plays the sport of", "football")]


def batch(model: EditableModel, layer: int) -> TargetBatch:
    return TargetBatch(model, layer, [target_row(model, prompt, target) for prompt, target in ASKED])


def plain_loss(model: EditableModel, prompt: str, target: str) -> Tensor:
    """The mean −log P of the target's tokens, by a plain forward pass that carries gradients."""
    row = target_row(model, prompt, target)
    log_p = model.lm(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
    return -torch.stack([log_p[at, token] for at, token in zip(row.reads, row.targets, strict=True)]).mean()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text"])
def test_their_sum_is_the_gradient_of_each_rows_loss(family: str) -> None:
    model = tiny(family)
    places = last_matrices(model, 2)
    before = model.fingerprint()
    factors = gradient_factors(batch(model, places[0][0]), places)
    assert model.fingerprint() == before
    assert all(p.grad is None for p in model.lm.parameters())
    for n, (prompt, target) in enumerate(ASKED):
        matrices = [model.matrix(*place) for place in places]
        for matrix in matrices:
            matrix.parameter.requires_grad_(True)
        gradients = torch.autograd.grad(plain_loss(model, prompt, target), [m.parameter for m in matrices])
        for matrix, gradient in zip(matrices, gradients, strict=True):
            product = factors.inputs[matrix.place][n].T @ factors.slopes[matrix.place][n]
            torch.testing.assert_close(product, matrix.turned(gradient), rtol=1e-3, atol=1e-6)


def test_the_last_matrices_are_those_of_the_last_blocks() -> None:
    assert last_matrices(tiny("gpt2"), 1) == ((3, "out"), (3, "in"))
    assert set(last_matrices(tiny("llama"), 2)) == {(n, w) for n in (2, 3) for w in ("out", "in", "gate")}
    assert {layer for layer, _ in last_matrices(tiny("gpt2"), 99)} == {0, 1, 2, 3}
    model = tiny("llama")
    for place, shape in shapes_of(model, last_matrices(model, 1)).items():
        assert shape == tuple(model.weight(*place).shape)


@torch.no_grad()
def test_a_product_per_row_is_what_each_rows_own_matrix_would_give() -> None:
    model = tiny("llama")
    random = torch.Generator().manual_seed(1)
    place = (2, "out")
    left = 0.3 * torch.randn(2, model.d_mlp, 3, generator=random)
    right = torch.randn(2, 3, model.d_model, generator=random)
    rows = batch(model, 2)
    with products_added(model, {place: (left, right)}):
        found = rows.losses()
    for n, (prompt, target) in enumerate(ASKED):
        changed = model.weight(*place) + left[n] @ right[n]
        with model.with_weight(2, changed, "out"):
            assert float(found[n]) == pytest.approx(float(plain_loss(model, prompt, target)), rel=1e-4)
    assert float(rows.losses()[0]) == pytest.approx(float(plain_loss(model, *ASKED[0])), rel=1e-4)
