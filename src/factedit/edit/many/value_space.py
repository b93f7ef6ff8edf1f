"""What a layer's matrix must give more, for the residual stream to receive a residual.

In most architectures the two are one, or one times a number. Where a norm stands behind the matrix (Gemma 2 and later,
OLMo 2 and 3, GLM-4), the stream receives m = γ ⊙ n of the matrix's output x, where n = x / rms(x): its size is the
norm's, not x's, so not every m + R can be reached. No published method covers this. Here the nearest that can is taken:
among all n of mean square 1 the one with the least ‖γ ⊙ n − (m + R)‖, which is n = γ (m + R) / (γ² + μ), μ being the
number that gives it its size; the residual of the matrix is rms(x) · n − x. Entries that the norm lets nothing through
(γ = 0) stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from factedit.errors import EditError
from factedit.models.adapter import EditableModel

HALVINGS = 80  # of the interval that μ is looked for in: to the last bit of float64


@torch.no_grad()
def into_value_space(model: EditableModel, layer: int, values: Tensor, residual: Tensor) -> Tensor:
    """Return the residual of the matrix's output that gives the stream a residual, or comes nearest to it.

    Args:
        model: the model.
        layer: whose matrix.
        values: its outputs, `[n, d_model]`.
        residual: what the stream is to receive more, `[n, d_model]`.

    Raises:
        EditError: the norm lets nothing through at all; experts stand beside the matrix.
    """
    places = model.places[layer]
    if places.giver is not None and not places.whole:
        raise EditError(
            f"Layer {layer} of {model.name} has experts beside its matrix, which give a part of what is to be "
            "written. Edit a layer with one MLP, or use a method that writes at the matrix itself (rome)."
        )
    residual = residual / places.mlp_gain if places.mlp_gain != 1.0 else residual
    norm = places.norm
    if norm is None:
        return residual
    given = norm(values.to(model.dtype)).double()
    scale = norm(torch.ones_like(values[:1]).to(model.dtype)).double()  # γ: that of a vector of ones
    if not scale.abs().max() > 0:
        raise EditError(f"The norm behind the matrix of layer {layer} lets nothing through. Edit another layer.")
    size = values.double().square().mean(1, keepdim=True).sqrt()
    begun = values.double() / size
    reached = torch.where(scale == 0, begun, _nearest(scale, given + residual.double(), begun))
    return (size * reached).to(values.dtype) - values


def _nearest(scale: Tensor, wanted: Tensor, begun: Tensor) -> Tensor:
    """Return the n of each row's size with the least ‖γ ⊙ n − wanted‖; entries with γ = 0 are left to the caller.

    Args:
        scale: γ `[1, d]`.
        wanted: `[n, d]`.
        begun: n before, whose size over the entries with γ ≠ 0 is kept, `[n, d]`.
    """
    open_ = scale != 0
    squared, pulled = scale.square(), scale * wanted
    room = (begun.square() * open_).sum(1, keepdim=True)
    smallest = torch.where(open_, squared, torch.inf).min()
    low = (-smallest).expand_as(room)  # ‖n(μ)‖ falls from infinity here …
    high = (pulled.norm(dim=1, keepdim=True) / room.sqrt()).clamp(min=1e-300)  # … to less than its size here
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_long = ((pulled / (squared + middle)).square() * open_).sum(1, keepdim=True) > room
        low, high = torch.where(too_long, middle, low), torch.where(too_long, high, middle)
    return torch.where(open_, pulled / (squared + high), 0.0)
