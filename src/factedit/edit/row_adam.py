"""Adam (arXiv 1412.6980) over the rows of one matrix, each with a rate of its own and free to stop."""

from __future__ import annotations

import torch
from torch import Tensor


class RowAdam:
    """Adam over rows with rates of their own; rows that are done rest, whatever momentum they have.

    Args:
        rows: what is moved, by its gradient.
        rates: one per row.
    """

    def __init__(self, rows: Tensor, rates: Tensor) -> None:
        self._rows, self._rates = rows, rates.to(rows)
        self._move = torch.zeros_like(rows)  # Adam's step at a rate of one
        self._adam = torch.optim.Adam([self._move], lr=1.0)

    @torch.no_grad()
    def step(self, moving: set[int]) -> None:
        """Move some of the rows."""
        self._move.grad = self._rows.grad
        self._adam.step()
        index = torch.tensor(sorted(moving), device=self._rows.device)
        self._rows[index] += self._move[index] * self._rates[index][:, None]
        self._move.zero_()


@torch.no_grad()
def clamp_rows(rows: Tensor, norms: Tensor, clamp: float) -> None:
    """Project every row to a length of at most clamp · its norm."""
    size = rows.norm(dim=1)
    rows.mul_(torch.where(size > clamp * norms, clamp * norms / size, 1.0)[:, None])
