"""What a joint change of a matrix must keep small: the penalty tr(ΔWᵀ M ΔW) for a symmetric M on keys.

MEMIT (arXiv 2210.07229, eq. 14) takes M = λC. AlphaEdit (arXiv 2410.02355, eq. 12) keeps ΔW inside the null space of
C and takes M = L2·I there. Everything else of their solves is the same, so it is written once (`edit/many/history.py`).

Keys are rows here, `[n, d_mlp]`; all of it is float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from factedit.errors import EditError, NoSolution, UsageError
from factedit.stats.experts_moment import ExpertsMoment
from factedit.stats.second_moment import SecondMoment

HALVINGS = 80  # of the interval, in logarithms, in which a scale is sought


class Penalty(Protocol):
    """M on keys, and the space in which it is positive; `Preserved` makes those of a layer."""

    @property
    def scale(self) -> float:
        """λ or L2."""
        ...

    @property
    def size(self) -> int:
        """The dimension of the space that ΔW's columns are confined to."""
        ...

    def scaled(self, scale: float) -> Penalty:
        """Return the same with another λ or L2."""
        ...

    def without(self, parts: Tensor) -> Penalty:
        """Return the same where parts of C, `[m, d_mlp]`, need not stay; itself where C is not weighed."""
        ...

    def solve(self, keys: Tensor) -> Tensor:
        """Return M⁻¹k of keys `[n, d_mlp]`, zero outside the space."""
        ...

    def inside(self, keys: Tensor) -> Tensor:
        """Return the keys' coordinates in the space, `[n, size]`."""
        ...

    def outside(self, coordinates: Tensor) -> Tensor:
        """Return coordinates `[n, size]` as vectors `[n, d_mlp]`."""
        ...

    def matrix(self) -> Tensor:
        """Return M in those coordinates, `[size, size]`, a new tensor."""
        ...


def positive(scale: float) -> float:
    """Return the scale of a penalty, if it can be one.

    Raises:
        UsageError: it is not positive.
    """
    if not scale > 0:
        raise UsageError(f"The weight of what must stay (λ or L2) is {scale}; it must be positive.")
    return scale


@dataclass(frozen=True, eq=False)
class MomentPenalty:
    """M = λ(C − AᵀA): C is a mean over keys, so λ is the number of keys that the past is worth.

    Args:
        moment: C of the unedited model, with the ridge that is wanted.
        scale: λ.
        left_out: A `[m, d_mlp]`: parts of C that are not to be kept, e.g. the edited subjects' own keys; None: nothing.

    Raises:
        UsageError: λ is not positive.
    """

    moment: SecondMoment | ExpertsMoment
    scale: float = 1.0
    left_out: Tensor | None = None

    def __post_init__(self) -> None:
        positive(self.scale)

    def scaled(self, scale: float) -> MomentPenalty:
        """Return the same with another λ."""
        return replace(self, scale=scale)

    def without(self, parts: Tensor) -> MomentPenalty:
        """Return the same with these parts of C left out, `[m, d_mlp]`, and no others."""
        return replace(self, left_out=parts)

    @property
    def size(self) -> int:
        """d_mlp."""
        return self.moment.size

    def solve(self, keys: Tensor) -> Tensor:
        """Return M⁻¹k of keys `[n, d_mlp]`."""
        keys = keys.double()
        if self.left_out is None or not len(self.left_out):
            return self.moment.solve(keys) / self.scale
        out = self.left_out.to(keys)
        both = self.moment.solve(torch.cat([keys, out]))
        solved, of_out = both[: len(keys)], both[len(keys) :]
        # Woodbury: (C − AᵀA)⁻¹ = C⁻¹ + C⁻¹Aᵀ (I − A C⁻¹Aᵀ)⁻¹ A C⁻¹
        rest = torch.eye(len(out), dtype=out.dtype, device=out.device) - out @ of_out.T
        back: Tensor = torch.linalg.solve(rest, out @ solved.T)
        return (solved + back.T @ of_out) / self.scale

    def inside(self, keys: Tensor) -> Tensor:
        """Return the keys themselves."""
        return keys.double()

    def outside(self, coordinates: Tensor) -> Tensor:
        """Return the coordinates themselves."""
        return coordinates

    def matrix(self) -> Tensor:
        """Return M `[d_mlp, d_mlp]` with the ridge in force."""
        matrix = self.moment.matrix.to(torch.float64, copy=True)
        matrix.diagonal().add_(self.moment.ridge_used * matrix.diagonal().mean())
        if self.left_out is not None:
            out = self.left_out.to(matrix)
            matrix.addmm_(out.T, out, alpha=-1)
        return matrix.mul_(self.scale)


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


def null_space(second_moment: Tensor, *, threshold: float | None = None, energy: float | None = None) -> NullSpace:
    """Return the null space of C `[d_mlp, d_mlp]` (AlphaEdit, arXiv 2410.02355, eq. 8 and 9), by float64 eigenvectors.

    The published program takes the singular vectors of C in float32, which for a symmetric C are the same.

    Args:
        second_moment: C.
        threshold: eigenvalues below it count as zero. It is in C's units: a value found on one model does not carry
            over to another.
        energy: in its place, the share of C's trace that the null space may hold: of what the keys weigh.

    Raises:
        UsageError: both or neither are given, or a share outside (0, 1).
        EditError: no eigenvalue, or every one, is below the threshold.
    """
    if (threshold is None) == (energy is None):
        raise UsageError("A null space needs a threshold or a share of C's trace, and not both.")
    values, vectors = torch.linalg.eigh(second_moment.double())
    bound = _bound(values, energy) if threshold is None else threshold
    dim = int((values < bound).sum())
    if dim in (0, len(values)):
        raise EditError(
            f"{dim} of C's {len(values)} eigenvalues ({float(values[0]):.3g} to {float(values[-1]):.3g}) are below "
            f"{bound:.3g}: "
            + ("there is no null space to edit in. Raise it." if dim == 0 else "nothing would be kept. Lower it.")
        )
    return NullSpace(vectors[:, :dim].contiguous(), values, bound)


def _bound(values: Tensor, energy: float | None) -> float:
    """Half way between the eigenvalues that hold a share of their sum and the next one."""
    if energy is None or not 0 < energy < 1:
        raise UsageError(f"The share of C in its null space is {energy}; it must lie between 0 and 1.")
    dim = int((values.cumsum(0) <= energy * values.sum()).sum())
    return float(values[max(dim - 1, 0) : dim + 1].mean()) if dim else float(values[0])


@dataclass(frozen=True, eq=False)
class NullSpacePenalty:
    """M = L2·I on a null space, whose coordinates are Uᵀk.

    Args:
        space: where ΔW may lie.
        scale: L2.

    Raises:
        UsageError: L2 is not positive.
    """

    space: NullSpace
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive(self.scale)

    def scaled(self, scale: float) -> NullSpacePenalty:
        """Return the same with another L2."""
        return replace(self, scale=scale)

    def without(self, parts: Tensor) -> NullSpacePenalty:
        """Return itself: inside the null space nothing of C is weighed."""
        return self

    @property
    def size(self) -> int:
        """The null space's dimension."""
        return self.space.dim

    def solve(self, keys: Tensor) -> Tensor:
        """Return P k / L2 of keys `[n, d_mlp]`."""
        return self.outside(self.inside(keys)) / self.scale

    def inside(self, keys: Tensor) -> Tensor:
        """Return Uᵀk `[n, dim]`."""
        return keys.double() @ self.space.basis.to(keys.device)

    def outside(self, coordinates: Tensor) -> Tensor:
        """Return U x `[n, d_mlp]`."""
        return coordinates @ self.space.basis.to(coordinates.device).T

    def matrix(self) -> Tensor:
        """Return L2·I `[dim, dim]`."""
        return self.scale * torch.eye(self.size, dtype=torch.float64, device=self.space.basis.device)


def wanted_scale(strength: Tensor, share: float) -> float:
    """Return the λ (or L2) at which a fact of mean strength reaches a share of its residual, written alone in one
    layer.

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
    mean = float(strength.double().mean())
    if not mean > 0:
        raise EditError("The keys vanish where the change may lie, so nothing can be written; raise the threshold.")
    return mean * (1 - share) / share


def scale_of_batch(gram: Tensor, residual: Tensor, share: float) -> float:
    """Return the λ (or L2) at which a batch reaches a share of its residuals: ‖K ΔW‖ / ‖R‖ = share.

    With G = K M⁻¹Kᵀ at λ = 1, K ΔW = G (λI + G)⁻¹R: what facts take from each other counts, as it does not in
    `wanted_scale`. So methods with another M are compared at equal reached share.

    Args:
        gram: G `[n, n]`.
        residual: R `[n, d_model]`.
        share: between 0 and 1, both excluded.

    Raises:
        UsageError: another share.
        NoSolution: keys that depend on each other, or vanish, so that no scale reaches it.
    """
    if not 0 < share < 1:
        raise UsageError(f"The share of the residual is {share}; it must lie between 0 and 1.")
    values, vectors = torch.linalg.eigh((gram + gram.T).cpu() / 2)
    values = values.clamp(min=0.0)
    wanted = (vectors.T @ residual.double().cpu()).square().sum(1)

    def reached(scale: float) -> float:
        return math.sqrt(float(((values / (scale + values)).square() * wanted).sum() / wanted.sum()))

    low, high = float(values[-1]) * 1e-15, float(values[-1]) * (1 - share) / share
    if not high > 0 or not wanted.sum() > 0 or reached(low) < share:
        raise NoSolution(
            f"No weight of what must stay lets the batch reach {100 * share:g} % of its residuals: its keys depend on "
            "each other, or vanish where the change may lie. Take out facts with one subject, or lower the share."
        )
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if reached(middle) >= share else (low, middle)
    return math.sqrt(low * high)
