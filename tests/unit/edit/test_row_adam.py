"""Adam over rows is torch's own per row, at the row's rate; rows at rest are not touched."""

from __future__ import annotations

import math

import torch

from factedit.edit.row_adam import RowAdam, clamp_rows


def test_every_row_moves_as_by_an_adam_of_its_own() -> None:
    torch.manual_seed(0)
    rates = torch.tensor([0.5, 0.01, 3.0])
    rows = torch.zeros(3, 4, requires_grad=True)
    alone = [torch.zeros(4, requires_grad=True) for _ in range(3)]
    theirs = [torch.optim.Adam([row], lr=float(rate)) for row, rate in zip(alone, rates, strict=True)]
    ours = RowAdam(rows, rates)
    for step in range(7):
        grads = torch.randn(3, 4)
        moving = {0, 1, 2} if step < 3 else {0, 2}
        rows.grad = grads.clone()
        ours.step(moving)
        for n in moving:
            alone[n].grad = grads[n].clone()
            theirs[n].step()
        torch.testing.assert_close(rows.detach(), torch.stack([row.detach() for row in alone]))


def test_a_row_at_rest_keeps_its_bits_whatever_its_gradient() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    adam = RowAdam(rows, torch.ones(2))
    rows.grad = torch.tensor([[1.0, 2.0, 3.0], [math.nan, math.inf, 0.0]])
    adam.step({0})
    assert torch.equal(rows[1].detach(), torch.ones(3))
    assert torch.isfinite(rows).all()
    assert not torch.equal(rows[0].detach(), torch.ones(3))


def test_clamped_to_a_length() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clamp_rows(rows, torch.tensor([2.0, 2.0, 0.0]), 0.5)
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
