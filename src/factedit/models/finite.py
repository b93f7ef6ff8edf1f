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
    if not _may_hold_others(tensor):
        return True
    tensor = widened(tensor)
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _may_hold_others(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor that torch can add up and compare: one of eight bits or fewer as float32, any other as it is."""
    narrow = tensor.is_floating_point() and tensor.itemsize < 2
    return tensor.float() if narrow else tensor


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    summed = [(name, t, widened(t).sum()) for name, t in tensors if _may_hold_others(t) and t.numel()]
    suspect = [(name, t) for name, t, total in summed if not torch.isfinite(total)]
    return [name for name, t in suspect if not torch.isfinite(widened(t)).all()]
