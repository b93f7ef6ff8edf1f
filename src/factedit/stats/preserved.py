"""What an edit at a layer must leave alone: what running text reads there, other subjects, earlier facts.

C = E[k kᵀ] over running text (ROME, arXiv 2202.05262, section 3.1) weighs every token alike, but facts are read at the
last token of subjects; where it is asked for, C is joined by the second moment over subjects' names (`subjects.py`).
The keys of facts that were edited before are preserved beside C (arXiv 2605.26670; AlphaEdit, arXiv 2410.02355). All
solutions are in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.stats.subjects import plain_name, subject_keys, subject_moment, subject_names


@dataclass(frozen=True)
class Preserved:
    """What must stay at one layer of one model.

    Attributes:
        model: the unedited model; asked for the keys of subjects that are left out.
        layer: whose keys.
        moment: C with its ridge, joined by that over the names.
        subject_weight: of the names' second moment in C; 0 leaves them out.
    """

    model: EditableModel
    layer: int
    moment: SecondMoment
    subject_weight: float = 0.0

    def solve(self, keys: Tensor, *, subjects: Sequence[str] = ()) -> Tensor:
        """C⁻¹k of each key, `[n, d_mlp]`.

        Args:
            keys: `[n, d_mlp]`.
            subjects: whose keys they are; one that is among the names in C is left out of it for its own key.
        """
        names = subject_names() if self.subject_weight else {}
        own = {n: names[plain] for n, subject in enumerate(subjects) if (plain := plain_name(subject)) in names}
        if not own:
            return self.moment.solve(keys)
        share = (self.subject_weight / len(names)) ** 0.5
        left_out = torch.zeros_like(keys)
        asked = [("{}", name) for name in own.values()]
        left_out[list(own)] = share * subject_keys(self.model, self.layer, asked).to(keys)
        return self.moment.solve_without(keys, left_out)

    def solve_beside(self, history: Tensor, keys: Tensor, *, weight: float = 1.0) -> Tensor:
        """(weight · C + H Hᵀ)⁻¹k of each key, `[n, d_mlp]`: C beside the keys of earlier facts.

        By Woodbury's formula with systems of the size of the history, or, where the history is the larger, by a factor
        of the sum.

        Args:
            history: H as rows, `[facts, d_mlp]`; may be empty.
            keys: `[n, d_mlp]`.
            weight: how many keys C is worth (λ of MEMIT, arXiv 2210.07229).
        """
        earlier, own = history.double().cpu(), keys.double().cpu()
        if 2 * len(earlier) >= earlier.shape[1]:
            total = weight * self._matrix + earlier.T @ earlier
            return torch.cholesky_solve(own.T, torch.linalg.cholesky(total)).T.to(keys.device)
        solved = self.moment.solve(torch.cat([own, earlier])) / weight
        found, of_history = solved[: len(own)], solved[len(own) :]
        if len(earlier):
            system = torch.eye(len(earlier), dtype=torch.float64) + earlier @ of_history.T
            found = found - torch.linalg.solve(system, earlier @ found.T).T @ of_history
        return found.to(keys.device)

    def null_space(self, threshold: float) -> Tensor:
        """U `[d_mlp, dim]`, orthonormal: directions u in which E[(uᵀk)²] is below the threshold (AlphaEdit)."""
        values, vectors = self._eigen
        return vectors[:, values < threshold]

    @cached_property
    def _matrix(self) -> Tensor:
        """C with the ridge in force, float64."""
        matrix = self.moment.matrix.to(torch.float64, copy=True).cpu()
        diagonal = matrix.diagonal()
        diagonal += self.moment.ridge_used * diagonal.mean()
        return matrix

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.moment.matrix.double().cpu())
        return values, vectors


def preserved_at(
    model: EditableModel,
    layer: int,
    moments: Callable[[EditableModel, int], SecondMoment],
    *,
    subject_weight: float = 0.0,
    ridge: float = 0.0,
) -> Preserved:
    """What must stay at a layer.

    Args:
        model: the unedited model.
        layer: whose keys.
        moments: gives C of a layer.
        subject_weight: times the second moment over subjects' names is added to C; 0 leaves them out.
        ridge: added to the diagonal, as a share of the mean eigenvalue.

    Raises:
        DataError: no second moment for these weights.
    """
    moment = moments(model, layer)
    if subject_weight:
        moment = moment.plus(subject_moment(model, layer), subject_weight)
    return Preserved(model, layer, moment.with_ridge(ridge), subject_weight)
