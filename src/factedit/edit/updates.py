"""The closed forms of model editing, as pure functions of tensors.

`Ŵ = W + Λ (C⁻¹k*)ᵀ` is the solution of min ‖ŴK − V‖² subject to Ŵk* = v* (ROME, arXiv 2202.05262, eq. 2 and
appendix A). Matrices here are `[d_mlp, d_model]`, so the update is an outer product direction ⊗ residual.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from factedit.errors import EditError


class RankOne(NamedTuple):
    """ΔW = outer(direction, residual) / denominator.

    Attributes:
        direction: C⁻¹k* scaled to length one, `[d_mlp]`.
        residual: Λ's numerator, v* − W k*, `[d_model]`.
        denominator: direction · k.
    """

    direction: Tensor
    residual: Tensor
    denominator: float

    def delta(self) -> Tensor:
        """Return ΔW `[d_mlp, d_model]`."""
        return torch.outer(self.direction, self.residual / self.denominator)


def insert(solved_key: Tensor, key: Tensor, residual: Tensor) -> RankOne:
    """Return the rank-one insertion of a value at a key.

    Args:
        solved_key: C⁻¹k*, `[d_mlp]`.
        key: the key that the denominator is taken with, `[d_mlp]`: k* itself (`rome`), or the bare prompt's
            key (`rome-original`).
        residual: v* − W·key, `[d_model]`.

    Raises:
        EditError: the update would not be finite.
    """
    direction = (solved_key / solved_key.norm()).to(key)
    denominator = float(direction @ key)  # ROME eq. 2: (C⁻¹k*)ᵀ k*
    change = RankOne(direction, residual, denominator)
    finite = torch.isfinite(direction).all() and torch.isfinite(residual).all()
    if not finite or denominator == 0.0 or not torch.isfinite(residual / denominator).all():
        raise EditError(
            f"The update is not finite (direction · key {denominator:.3g}, ‖residual‖ {float(residual.norm()):.3g}); "
            "the model is unchanged. Try another layer, a larger ridge or a smaller clamp."
        )
    return change
