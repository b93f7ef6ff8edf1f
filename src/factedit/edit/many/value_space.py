"""What a layer's matrix must give more, for the residual stream to receive a residual.

In most architectures the two are one. Where a norm stands behind the matrix (Gemma 2 and 3, OLMo 2, GLM-4), the stream
receives m = γ ⊙ x / rms(x) of the matrix's output x: its size is the norm's, not x's, so m + R can be reached in
direction only. No published method covers this. Here the nearest output is taken: u = (m + R) ⊘ γ, x' = rms(x) · u /
rms(u), which the norm turns into a vector along m + R at m's own scale; the residual of the matrix is x' − x.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from factedit.errors import EditError
from factedit.models.adapter import EditableModel


@torch.no_grad()
def into_value_space(model: EditableModel, layer: int, values: Tensor, residual: Tensor) -> Tensor:
    """The residual of the matrix's output that gives the stream a residual, or comes nearest to it.

    Args:
        model: the model.
        layer: whose matrix.
        values: its outputs, `[n, d_model]`.
        residual: what the stream is to receive more, `[n, d_model]`.

    Raises:
        EditError: the norm lets nothing through in some direction.
    """
    if not model.family.norm_after:
        return residual
    norm = model.layers[layer].get_submodule(model.family.mlp_out)
    given: Tensor = norm(values.to(model.dtype)).to(values.dtype)
    scale: Tensor = norm(torch.ones_like(values[:1]).to(model.dtype)).to(values.dtype)  # γ: that of a vector of ones
    if not scale.abs().min() > 0:
        raise EditError(
            f"The norm behind the matrix of layer {layer} is 0 for {int((scale == 0).sum())} of {scale.shape[1]} "
            "entries, so no output of the matrix reaches them. Edit another layer."
        )
    wanted = (given + residual) / scale
    return _rms(values) * wanted / _rms(wanted) - values


def _rms(x: Tensor) -> Tensor:
    """The root of the mean square of each row, `[n, 1]`."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norm / math.sqrt(x.shape[1])
