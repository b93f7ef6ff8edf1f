"""Where two checkpoints differ, and of what rank the difference of every matrix is.

The rank is found by a seeded sketch: a difference D of rank r has D G of rank r for a random G with more columns than
that, and the projection of D on that space keeps all of it (Halko, Martinsson, Tropp 2011, arXiv 0909.4061).
Singular values that rounding alone can make are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

SKETCH = 65
_ROUNDED = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Difference:
    """One tensor that is not the same.

    Attributes:
        tensor: its name.
        shape: as it is stored.
        relative: ‖difference‖ / ‖base‖.
        rank: of the difference; None where it is at least the sketch's, or the tensor is no matrix.
        values: the singular values, largest first; empty where the rank is None.
        left, right: orthonormal bases of a low-rank difference, as stored: `[rows, rank]`, `[rank, columns]`.
    """

    tensor: str
    shape: tuple[int, ...]
    relative: float
    rank: int | None
    values: tuple[float, ...] = ()
    left: Tensor | None = field(default=None, repr=False)
    right: Tensor | None = field(default=None, repr=False)


def compare_tensors(name: str, base: Tensor, suspect: Tensor, *, sketch: int = SKETCH) -> Difference | None:
    """Return how a tensor differs; None where it has the same bits, also after rounding the base to a narrower type.

    Args:
        name: of the tensor.
        base, suspect: of one shape.
        sketch: the rank from which on none is found.
    """
    if torch.equal(base, suspect) or any(torch.equal(base.to(t).to(base.dtype), suspect) for t in _ROUNDED):
        return None
    delta = suspect.double() - base.double()
    relative = float(delta.norm() / base.double().norm().clamp(min=1e-300))
    shape = tuple(delta.shape)
    if delta.ndim != 2:
        return Difference(name, shape, relative, None)
    noise = _rounding(suspect) * float(suspect.double().pow(2).mean().sqrt()) * (shape[0] ** 0.5 + shape[1] ** 0.5)
    random = torch.Generator().manual_seed(0)
    drawn = delta @ torch.randn(shape[1], min(sketch, *shape), dtype=torch.float64, generator=random)
    basis = torch.linalg.qr(drawn).Q
    left, values, right = torch.linalg.svd(basis.T @ delta, full_matrices=False)
    rank = int((values > noise).sum())
    if rank >= min(sketch, *shape):
        return Difference(name, shape, relative, None)
    kept = tuple(float(value) for value in values[:rank])
    return Difference(name, shape, relative, rank, kept, (basis @ left[:, :rank]).float(), right[:rank].float())


def _rounding(tensor: Tensor) -> float:
    """Return the spacing of the numbers a tensor was rounded to: of its own type, or of a narrower one it fits into."""
    for narrow in _ROUNDED:
        if torch.equal(tensor.to(narrow).to(tensor.dtype), tensor):
            return torch.finfo(narrow).eps
    return torch.finfo(tensor.dtype).eps
