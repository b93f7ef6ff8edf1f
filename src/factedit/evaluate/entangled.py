"""Who is likely to be hit by an edit, said before it is made (after arXiv 2603.19297).

An edit of a matrix writes the residual Λ at the key k*; at a key k it writes the share kᵀC⁻¹k* / k*ᵀC⁻¹k* of it (ROME,
arXiv 2202.05262, eq. 2). The share is known from the model and C alone, before v* is; its absolute value ranks the
facts of a panel by how much of the edit reaches them at their subject's last token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from factedit.facts import EditRequest, KnownFact, template_of
from factedit.models.adapter import EditableModel
from factedit.stats.store import Moment
from factedit.stats.subjects import subject_keys


@torch.no_grad()
def largest_shares(
    model: EditableModel,
    layer: int,
    moment: Moment,
    requests: Sequence[EditRequest],
    facts: Sequence[KnownFact],
) -> list[float]:
    """Return per fact the largest share in size that one of the edits writes at its key.

    Args:
        model: the unedited model.
        layer: the edited layer.
        moment: C of its keys.
        requests: what is edited; k* is the bare prompt's key.
        facts: of the panel.
    """
    star = subject_keys(model, layer, [(request.prompt, request.subject) for request in requests]).double()
    keys = subject_keys(model, layer, [(template_of(fact.prompt, fact.subject), fact.subject) for fact in facts])
    written = shares_at(keys, star, moment.solve(star))
    return [float(row[row.abs().argmax()]) for row in written]


def shares_at(keys: Tensor, edited: Tensor, directions: Tensor) -> Tensor:
    """Return which share of an edit's residual is written at other keys, kᵀC⁻¹k* / k*ᵀC⁻¹k*, `[keys, edits]`, float64.

    Args:
        keys: k, `[keys, d_mlp]`.
        edited: k* of every edit, `[edits, d_mlp]`.
        directions: C⁻¹k* of every edit, `[edits, d_mlp]`.
    """
    at_edited = (edited.double() * directions.double()).sum(-1)
    return keys.double() @ directions.double().T / at_edited


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; NaN where one of the two does not vary or a pair is
    left alone. Pairs that are not finite are left out.
    """
    pairs = np.array([pair for pair in zip(first, second, strict=True) if np.isfinite(pair).all()])
    if len(pairs) < 2:
        return float("nan")
    one, other = (_ranks(column) for column in pairs.T)
    one, other = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / size if size else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place])
