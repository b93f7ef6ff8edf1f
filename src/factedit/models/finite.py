"""Whether weights are finite, in one pass at the speed of memory.

A sum is finite only if every summand is; only where it is not (NaN, infinity, or an overflow of sound numbers) each
number is looked at, which takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensor: Tensor) -> bool:
    """Return whether all numbers of a tensor are finite."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return True
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    summed = [(name, t, t.sum()) for name, t in tensors if t.is_floating_point() and t.numel()]
    suspect = [(name, t) for name, t, total in summed if not torch.isfinite(total)]
    return [name for name, t in suspect if not torch.isfinite(t).all()]
