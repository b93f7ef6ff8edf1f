"""What a joint change of a matrix must keep small: tr(ΔWᵀ M ΔW) for a symmetric form M on keys.

MEMIT (arXiv 2210.07229, eq. 14) takes M = λC. AlphaEdit (arXiv 2410.02355, eq. 12) keeps ΔW inside the null space of
C and takes M = L2·I there. Everything else of their solves is the same, so it is written once (`history.py`).

Keys are rows here, `[n, d_mlp]`; all of it is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from factedit.errors import EditError, UsageError
from factedit.stats.second_moment import SecondMoment


class Metric(Protocol):
    """A form M on keys, and the space in which it is one."""

    @property
    def size(self) -> int:
        """The dimension of the space that ΔW's columns are confined to."""
        ...

    def solve(self, keys: Tensor) -> Tensor:
        """M⁻¹k of keys `[n, d_mlp]`, zero outside the space."""
        ...

    def inside(self, keys: Tensor) -> Tensor:
        """The keys' coordinates in the space, `[n, size]`."""
        ...

    def outside(self, coordinates: Tensor) -> Tensor:
        """Coordinates `[n, size]` as vectors `[n, d_mlp]`."""
        ...

    def matrix(self) -> Tensor:
        """M in those coordinates, `[size, size]`, a new tensor."""
        ...


@dataclass(frozen=True, eq=False)
class MomentMetric:
    """M = λC: C is a mean over keys, so λ is the number of keys that the past is worth.

    Args:
        moment: C of the unedited model, with the ridge that is wanted.
        weight: λ.

    Raises:
        UsageError: λ is not positive.
    """

    moment: SecondMoment
    weight: float

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UsageError(f"The weight of the second moment is {self.weight}; it must be positive.")

    @property
    def size(self) -> int:
        """d_mlp."""
        return len(self.moment.matrix)

    def solve(self, keys: Tensor) -> Tensor:
        """(λC)⁻¹k of keys `[n, d_mlp]`."""
        return self.moment.solve(keys) / self.weight

    def inside(self, keys: Tensor) -> Tensor:
        """The keys themselves."""
        return keys.double()

    def outside(self, coordinates: Tensor) -> Tensor:
        """The coordinates themselves."""
        return coordinates

    def matrix(self) -> Tensor:
        """λC `[d_mlp, d_mlp]` with the ridge in force."""
        matrix = self.moment.matrix.to(torch.float64, copy=True)
        matrix.diagonal().add_(self.moment.ridge_used * matrix.diagonal().mean())
        return matrix.mul_(self.weight)


@dataclass(frozen=True, eq=False)
class NullSpace:
    """The eigenvectors of C with small eigenvalues: C K₀ is nearly, not exactly, zero there.

    Attributes:
        basis: U `[d_mlp, dim]`, orthonormal; P = U Uᵀ.
        eigenvalues: of C, all of them, ascending.
        threshold: below which an eigenvector is in.
    """

    basis: Tensor
    eigenvalues: Tensor
    threshold: float

    @property
    def dim(self) -> int:
        """How many directions are left to change."""
        return self.basis.shape[1]

    @property
    def margin(self) -> float:
        """How far the nearest eigenvalue is from the threshold, as a share of the threshold."""
        return float((self.eigenvalues - self.threshold).abs().min() / self.threshold)


def null_space(second_moment: Tensor, threshold: float) -> NullSpace:
    """The null space of C `[d_mlp, d_mlp]` (AlphaEdit, arXiv 2410.02355, §3.1), by eigenvectors in float64.

    The published program takes the singular vectors of C in float32, which for a symmetric C are the same.

    Args:
        second_moment: C.
        threshold: eigenvalues below it count as zero; it is in C's units, so a value found on one model does not
            carry over to another.

    Raises:
        EditError: no eigenvalue, or every one, is below the threshold.
    """
    eigenvalues, vectors = torch.linalg.eigh(second_moment.double())
    dim = int((eigenvalues < threshold).sum())
    if dim in (0, len(eigenvalues)):
        raise EditError(
            f"{dim} of C's {len(eigenvalues)} eigenvalues ({float(eigenvalues[0]):.3g} to {float(eigenvalues[-1]):.3g})"
            f" are below the threshold {threshold:g}: "
            + ("there is no null space to edit in. Raise it." if dim == 0 else "nothing would be kept. Lower it.")
        )
    return NullSpace(vectors[:, :dim], eigenvalues, threshold)


@dataclass(frozen=True, eq=False)
class NullSpaceMetric:
    """M = L2·I on a null space, whose coordinates are Uᵀk.

    Args:
        space: where ΔW may lie.
        ridge: L2.

    Raises:
        UsageError: L2 is not positive.
    """

    space: NullSpace
    ridge: float

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise UsageError(f"L2 is {self.ridge}; it must be positive.")

    @property
    def size(self) -> int:
        """The null space's dimension."""
        return self.space.dim

    @cached_property
    def _basis(self) -> Tensor:
        return self.space.basis.double()

    def solve(self, keys: Tensor) -> Tensor:
        """P k / L2 of keys `[n, d_mlp]`."""
        return self.outside(self.inside(keys)) / self.ridge

    def inside(self, keys: Tensor) -> Tensor:
        """Uᵀk `[n, dim]`."""
        return keys.double() @ self._basis.to(keys.device)

    def outside(self, coordinates: Tensor) -> Tensor:
        """U x `[n, d_mlp]`."""
        return coordinates @ self._basis.to(coordinates.device).T

    def matrix(self) -> Tensor:
        """L2·I `[dim, dim]`."""
        return self.ridge * torch.eye(self.size, dtype=torch.float64, device=self.space.basis.device)


def wanted_weight(strength: Tensor, share: float) -> float:
    """The λ (or L2) at which the median fact alone reaches a share of its residual in one layer.

    One fact reaches κ / (λ + κ) of it, κ = kᵀC⁻¹k (for L2: κ = kᵀPk), so λ = κ (1 − share) / share. Published values
    were found on models of other widths, and κ averages d_mlp over the text of C: copied, they write next to nothing
    into a small model.

    Args:
        strength: κ of the facts, `[n]`.
        share: between 0 and 1, both excluded.

    Raises:
        UsageError: another share.
        EditError: no key has any strength.
    """
    if not 0 < share < 1:
        raise UsageError(f"The share of the residual is {share}; it must lie between 0 and 1.")
    median = float(strength.double().median())
    if not median > 0:
        raise EditError("The keys vanish where the change may lie, so nothing can be written; raise the threshold.")
    return median * (1 - share) / share
