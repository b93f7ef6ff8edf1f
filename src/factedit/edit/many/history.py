"""The joint solve of a batch of facts, beside all that was written before it.

With keys K `[n, d_mlp]`, residuals R `[n, d_model]` and S = M + HᵀH, H being the keys of earlier batches, the ΔW that
minimises tr(ΔWᵀ S ΔW) + ‖K ΔW − R‖² is

    ΔW = AᵀR,  A = K (S + KᵀK)⁻¹ = (I + K S⁻¹Kᵀ)⁻¹ K S⁻¹         (MEMIT, arXiv 2210.07229, eq. 14; AlphaEdit, eq. 14)

Batches written one after the other in this way, each residual measured on the weights as they are then, end at the
solution of all facts together, in whatever order (recursive least squares). Without H they end elsewhere, further off
with every batch.

The same numbers in two forms: with few keys, systems of their number (Woodbury), M being factored once for all
batches; with many, the whole matrix S.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.errors import EditError, NoSolution
from factedit.memory import available_memory
from factedit.stats.penalty import Penalty
from factedit.stats.second_moment import largest_eigenvalue

logger = logging.getLogger("factedit")
COPIES = 3  # of S in memory while it is factored
FEW = 256  # facts up to which a system's eigenvalues are computed all


class JointSolve(NamedTuple):
    """What a batch of keys K `[n, d_mlp]` becomes.

    Attributes:
        directions: A `[n, d_mlp]`, float64; ΔW = Aᵀ R.
        reach: K Aᵀ `[n, n]`; K ΔW = reach · R is what of the residuals the change gives.
        condition: of the batch's own system, from below.
    """

    directions: Tensor
    reach: Tensor
    condition: float


@dataclass(frozen=True, eq=False)
class History:
    """The keys of earlier batches, ready to be solved beside.

    Attributes:
        penalty: M, at its scale.
        keys: H `[N, d_mlp]`, in the order of writing.
        solved: H M⁻¹ `[N, d_mlp]`; None where the whole matrix is used.
        factor: the lower Cholesky factor of I + H M⁻¹Hᵀ `[N, N]`; of S in M's coordinates where that is used.
        whole: S in M's coordinates, where it is used: the next batch joins it, however many came before.
    """

    penalty: Penalty
    keys: Tensor
    solved: Tensor | None
    factor: Tensor
    whole: Tensor | None = None

    @classmethod
    def of(cls, penalty: Penalty, keys: Tensor, batches: Sequence[int] = ()) -> History:
        """Return the history of keys `[N, d_mlp]`, which may be none.

        Args:
            penalty: M, at its scale.
            keys: H.
            batches: how many of them are taken in together, in order; none: all. The last bits follow these steps.

        Raises:
            EditError: keys that are not finite.
        """
        empty = keys.new_zeros(0, keys.shape[1], dtype=torch.float64)
        nothing = cls(penalty, empty, empty, empty.new_zeros(0, 0))
        for part in keys.split(list(batches) or [len(keys)]) if len(keys) else ():
            nothing = nothing.write(part)[1]
        return nothing

    def solve(self, keys: Tensor) -> Tensor:
        """Return S⁻¹k of keys `[n, d_mlp]`, float64."""
        keys = keys.double()
        if self.solved is None:
            return self.penalty.outside(torch.cholesky_solve(self.penalty.inside(keys).T, self.factor).T)
        return self._beside(self.penalty.solve(keys), self._side(keys))

    def write(self, keys: Tensor, base: Tensor | None = None) -> tuple[JointSolve, History]:
        """Return A of a batch of keys, and the history with them.

        Args:
            keys: `[n, d_mlp]`.
            base: K M⁻¹, where it is known already.

        Raises:
            EditError: keys that are not finite, or a matrix without a Cholesky factor.
        """
        keys = keys.double()
        if not torch.isfinite(keys).all():
            raise EditError("The facts' keys are not finite: the model's weights hold NaN or infinity.")
        together = torch.cat([self.keys, keys])
        if self.solved is None or (2 * len(together) > self.penalty.size and has_room(self.penalty.size)):
            inside = self.penalty.inside(together if self.whole is None else keys)
            before = self.penalty.matrix().to(keys.device) if self.whole is None else self.whole
            whole = before.addmm(inside.T, inside)
            after = History(self.penalty, together, None, cholesky(whole), whole)
            return _joint(keys, after.solve(keys)), after
        base, side = self.penalty.solve(keys) if base is None else base, self._side(keys)
        solved = self._beside(base, side)
        corner = keys @ solved.T  # K S⁻¹Kᵀ, which is the Schur complement of the grown system, less I
        corner.diagonal().add_(1.0)
        corner_factor = cholesky((corner + corner.T) / 2)
        top = torch.cat([self.factor, side.new_zeros(len(self.keys), len(keys))], 1)
        factor = torch.cat([top, torch.cat([side.T, corner_factor], 1)])
        after = History(self.penalty, together, torch.cat([self.solved, base]), factor)
        return _joint(keys, torch.cholesky_solve(solved, corner_factor)), after

    def without(self, which: Tensor) -> History:
        """Return the history without some of its keys.

        Args:
            which: their places, `[m]`.
        """
        kept = torch.ones(len(self.keys), dtype=torch.bool, device=self.keys.device)
        kept[which] = False
        keys = self.keys[kept]
        if self.solved is None:
            return History.of(self.penalty, keys)
        system = keys @ self.solved[kept].T
        system.diagonal().add_(1.0)
        return History(self.penalty, keys, self.solved[kept], cholesky((system + system.T) / 2))

    def _side(self, keys: Tensor) -> Tensor:
        """L⁻¹ H M⁻¹Kᵀ `[N, n]`, L being the factor."""
        assert self.solved is not None
        side: Tensor = torch.linalg.solve_triangular(self.factor, self.solved @ keys.T, upper=False)
        return side

    def _beside(self, base: Tensor, side: Tensor) -> Tensor:
        """K S⁻¹ from K M⁻¹ (Woodbury: S⁻¹ = M⁻¹ − M⁻¹Hᵀ (I + H M⁻¹Hᵀ)⁻¹ H M⁻¹)."""
        assert self.solved is not None
        if not len(self.keys):
            return base
        below: Tensor = torch.linalg.solve_triangular(self.factor.T, side, upper=True)
        return base - below.T @ self.solved


def has_room(size: int) -> bool:
    """Return whether a whole matrix of this size can be solved in memory; where not, that is said.

    Then the solve stays in systems of the keys' number, which gives the same and takes longer.
    """
    needed, free = COPIES * 8.0 * size**2, available_memory()
    if free and needed > free:
        logger.warning(
            "A matrix of %d × %d for the joint solve takes %.1f GB and %.1f GB are free: systems of the facts' number "
            "are solved in its place, which takes longer.",
            size, size, needed / 1e9, free / 1e9,
        )  # fmt: skip
        return False
    return True


def write_exactly(keys: Tensor, solved: Tensor, ridge: float = 0.0) -> JointSolve:
    """Return a = (K S⁻¹Kᵀ + e·I)⁻¹ K S⁻¹.

    At e = 0 the constraint K ΔW = R holds exactly: EMMET's equality (arXiv 2403.14236), which for one fact is ROME's
    insertion (arXiv 2202.05262, eq. 2). With e > 0 it is MEMIT's solve with e·S in place of S (push-through identity).

    Args:
        keys: K `[n, d_mlp]`.
        solved: K S⁻¹ `[n, d_mlp]`.
        ridge: e.

    Raises:
        NoSolution: the keys depend on each other, so that the constraints cannot all hold.
    """
    keys, solved = keys.double(), solved.double()
    system = keys @ solved.T
    system = (system + system.T) / 2
    system.diagonal().add_(ridge)
    lower, info = torch.linalg.cholesky_ex(system)
    condition = float("inf") if int(info) else _condition(system, lower)
    if not condition * len(keys) * torch.finfo(torch.float64).eps < 1:
        raise NoSolution(
            f"The keys of the {len(keys)} facts depend on each other (condition number {condition:.1e}), so not every "
            "value can be written exactly. Take out facts with the same subject, or soften the constraint by a ridge."
        )
    return _joint(keys, torch.cholesky_solve(solved, lower))._replace(condition=condition)


def share_reached(solve: JointSolve, residual: Tensor) -> float:
    """Return ‖K ΔW‖ / ‖R‖: how much of the residuals `[n, d_model]` the change of this one layer gives."""
    residual = residual.double()
    norm = float(residual.norm())
    return float((solve.reach @ residual).norm()) / norm if norm else 1.0


def cholesky(matrix: Tensor) -> Tensor:
    """Return the lower Cholesky factor.

    Raises:
        NoSolution: there is none.
    """
    lower: Tensor
    lower, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise NoSolution(
            "The joint solve's matrix is not positive definite, so it has no solution; the model is unchanged. "
            "Compute the second moment from more text, or take a larger ridge."
        )
    return lower


def _joint(keys: Tensor, directions: Tensor) -> JointSolve:
    reach = keys @ directions.T
    even = ((reach + reach.T) / 2).cpu()
    # (I + K S⁻¹Kᵀ)⁻¹ = I − reach
    if len(even) <= FEW:  # all eigenvalues at once take less than Lanczos' products, each a call
        values = torch.linalg.eigvalsh(even)
        largest, smallest = 1 - float(values[0]), 1 - float(values[-1])
    else:
        largest = largest_eigenvalue(lambda x: x - even @ x, len(even))
        smallest = 1 - largest_eigenvalue(lambda x: even @ x, len(even))
    return JointSolve(directions, reach, largest / smallest if smallest > 0 else float("inf"))


def _condition(system: Tensor, lower: Tensor) -> float:
    system, lower = system.cpu(), lower.cpu()
    inverse = lambda x: torch.cholesky_solve(x[:, None], lower)[:, 0]  # noqa: E731
    return largest_eigenvalue(lambda x: system @ x, len(system)) * largest_eigenvalue(inverse, len(system))
