"""UltraEdit's pieces (arXiv 2505.14679): rows of inputs and slopes at the target's tokens, normalised, and one solve.

For each matrix and each target token there is a row: what the matrix reads where the token is predicted, and the slope
of the loss by what it gives there. A running normaliser, one for all matrices of a shape, is what a sequence remembers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.edit.factors import gradient_factors
from factedit.edit.target_rows import TargetBatch, TargetRow
from factedit.models.adapter import EditableModel
from factedit.models.families import Place

EPSILON = torch.finfo(torch.float32).eps  # added to σ


class Rows(NamedTuple):
    """One matrix's rows.

    Attributes:
        inputs: `[rows, d_in]`, float32.
        slopes: `[rows, d_out]`, float32.
    """

    inputs: Tensor
    slopes: Tensor


def gradient_rows(model: EditableModel, rows: Sequence[TargetRow], places: Sequence[Place]) -> dict[Place, Rows]:
    """Return the rows of one gradient batch, fact after fact, token after token.

    The loss is the mean over all target tokens of the batch, so a fact's slopes depend on how many the others have.

    Args:
        model: the model; unchanged.
        rows: prompts and targets.
        places: which matrices.
    """
    batch = TargetBatch(model, min(layer for layer, _ in places), rows)
    factors = gradient_factors(batch, places)  # of each row's mean
    where = batch.owner, batch.columns
    counts = torch.tensor([len(row.reads) for row in rows], device=model.device)
    share = (counts / counts.sum())[batch.owner][:, None]
    return {place: Rows(factors.inputs[place][where], factors.slopes[place][where] * share) for place in places}


@dataclass(frozen=True, eq=False)
class GradientNormaliser:
    """The running mean and variance of rows (arXiv 2505.14679; lifelong normalisation).

    The variance that is added per batch is the one with rows − 1 below, times the rows, as the published program has it
    (correct would be rows − 1 times): σ is too large by the root of rows / (rows − 1) of a batch. A batch of one row
    has no variance; the program's is NaN from there on, here it adds none.

    Attributes:
        count: rows so far.
        mean: `[width]`, float32.
        total: the sum of squared deviations, `[width]`, float32.
    """

    count: float
    mean: Tensor
    total: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device) -> GradientNormaliser:
        """Return it as it is before the first row."""
        return cls(0.0, torch.zeros(width, device=device), torch.zeros(width, device=device))

    def after(self, rows: Tensor) -> GradientNormaliser:
        """Return it with more rows `[rows, width]`."""
        added, count = len(rows), self.count + len(rows)
        gap = rows.mean(0) - self.mean
        spread = added * rows.var(0) if added > 1 else torch.zeros_like(gap)
        total = self.total + spread + self.count * added * gap**2 / count
        return GradientNormaliser(count, self.mean + added * gap / count, total)

    @property
    def deviation(self) -> Tensor:
        """σ `[width]`; 1 while there are too few rows to tell."""
        return (self.total / (self.count - 1)).sqrt() if self.count > 1 else torch.ones_like(self.mean)

    def normalised(self, rows: Tensor) -> Tensor:
        """Return rows `[rows, width]` in units of σ from the mean."""
        return (rows - self.mean) / (self.deviation + EPSILON)


def shape_name(rows: Rows) -> str:
    """Return the shape that matrices share a normaliser by."""
    return f"{rows.inputs.shape[1]}x{rows.slopes.shape[1]}"


def observed(
    normalisers: Mapping[str, GradientNormaliser], batch: Mapping[Place, Rows]
) -> dict[str, GradientNormaliser]:
    """Return the normalisers after one gradient batch; the matrices take turns in it."""
    after = dict(normalisers)
    for rows in batch.values():
        name, both = shape_name(rows), torch.cat(rows, 1)
        before = after.get(name) or GradientNormaliser.empty(both.shape[1], both.device)
        after[name] = before.after(both)
    return after


def ridge_change(rows: Rows, normaliser: GradientNormaliser, rate: float) -> tuple[Tensor, Tensor]:
    """Return ΔW as `[d_in, rows]` and `[rows, d_out]`: Hᵀ(HHᵀ + I)⁻¹ · V, V = −rate · ‖k̂‖² ĝ per row.

    H are the *raw* inputs; normalised ones enter V alone. The solve is in float64, of the size of the rows.

    Args:
        rows: of all gradient batches of the turn.
        normaliser: of their shape.
        rate: η.
    """
    width = rows.inputs.shape[1]
    both = normaliser.normalised(torch.cat(rows, 1))
    inputs, slopes = both[:, :width], both[:, width:]
    values = -rate * inputs.pow(2).sum(1, keepdim=True) * slopes
    raw = rows.inputs.double()
    system = raw @ raw.T
    system.diagonal().add_(1.0)
    return torch.cholesky_solve(raw, torch.linalg.cholesky(system)).T.contiguous(), values
