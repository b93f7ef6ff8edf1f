"""Updates cut back after they were computed: RECT and PRUNE."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.errors import EditError, UsageError

NOTHING = 1e-8  # added to W in RECT's ratio, as published
RANK_CUT = 1e-6  # of the largest singular value: below is rounding


def keep_largest(delta: Tensor, weight: Tensor, share: float) -> Tensor:
    """Keep, as RECT does (arXiv 2401.04700), only the entries that change most against what they were; the others stay.

    The layers above were solved as if all had been written, so this is for the end, and the update has full rank
    afterwards.

    Args:
        delta: ΔW.
        weight: W before it, of the same shape.
        share: of the entries that are kept.

    Raises:
        UsageError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"The share of entries to keep is {share}; it must be above 0 and at most 1.")
    change = (delta / (weight.to(delta) + NOTHING)).abs()
    cut = int((1 - share) * change.numel())
    if cut < 1:
        return delta
    bound = change.flatten().kthvalue(cut).values
    return torch.where(change >= bound, delta, 0.0)


class Pruned(NamedTuple):
    """An update with its singular values restrained; ΔW = left · right.

    Attributes:
        left, right: `[d_mlp, rank]`, `[rank, d_model]`.
        before, after: singular values, `[rank]`.
    """

    left: Tensor
    right: Tensor
    before: Tensor
    after: Tensor


def restrain(delta: Tensor, weight: Tensor, *, base: float = math.e) -> Pruned:
    """Let, as PRUNE does (arXiv 2405.16821), singular values above those of the unedited matrix grow by their logarithm
    only.

    For the *sum* of all updates since the unedited model, once, at the end.

    Args:
        delta: that sum, `[d_mlp, d_model]`.
        weight: the unedited W.
        base: of the logarithm.

    Raises:
        UsageError: a base that is not above 1.
        EditError: the update is zero or not finite.
    """
    if not base > 1:
        raise UsageError(f"The base of the logarithm is {base}; it must be above 1.")
    if not torch.isfinite(delta).all() or not delta.any():
        raise EditError("The update is zero or not finite, so it has no singular values to restrain.")
    largest = torch.linalg.matrix_norm(weight.float(), 2)
    u, before, vt = torch.linalg.svd(delta.float(), full_matrices=False)
    rank = int((before > RANK_CUT * before[0]).sum())
    u, before, vt = u[:, :rank], before[:rank], vt[:rank]
    after = torch.where(before > largest, (before / largest).log() / math.log(base) + largest, before)
    return Pruned(u * after, vt, before, after)
