"""Which keys a low-rank difference reads: the share of each in its input space, in the metric of C."""

from __future__ import annotations

import torch
from torch import Tensor

from factedit.account.difference import Difference
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment


def read_space(model: EditableModel, difference: Difference) -> Tensor:
    """Return an orthonormal basis `[d_in, rank]` of what a low-rank difference reads."""
    assert difference.left is not None
    assert difference.right is not None
    return difference.left if model.family.stored_in_out else difference.right.T


def excited(keys: Tensor, read: Tensor, moment: SecondMoment | None) -> Tensor:
    """Share of every key `[n, d_in]` in the input space `[d_in, rank]`, in the metric of C (or as it is)."""
    keys, read = keys.double(), read.double()
    if moment is None:
        share: Tensor = (keys @ read).norm(dim=1) / keys.norm(dim=1)
        return share.float()
    # with u = C⁻¹k, the projection of u on the space: kᵀU (UᵀCU)⁻¹ Uᵀk over kᵀC⁻¹k
    onto = keys @ read
    gram = read.T @ moment.matrix.double() @ read
    inside: Tensor = (onto @ torch.linalg.inv(gram) * onto).sum(1)
    whole = torch.stack([key @ moment.solve(key).double() for key in keys])
    return (inside / whole).clamp(min=0).sqrt().float()
