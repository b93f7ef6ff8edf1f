"""C = E[k kᵀ], the uncentred second moment of a layer's keys (ROME, arXiv 2202.05262, section 3.1, appendix E.5).

`SecondMoment` is the frozen value that editing uses: C, where it comes from, and the solution of C u = k.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from factedit.errors import DataError, EditError, UsageError
from factedit.memory import SHARE_OF_FREE, free_bytes
from factedit.stats.sound_moment import FEWEST, check_matrix, negative_by_rounding

KEYS_AT_ONCE = 1024  # keys whose product is taken together
BLOCKS = 4  # of that product's rows: with four, 5/8 of it is computed and kept
logger = logging.getLogger("factedit")
AUTO_RIDGE = 1e-6  # of the mean eigenvalue; used only where C has no Cholesky factor without it


@dataclass(frozen=True)
class SecondMoment:
    """C of one layer of one model.

    Attributes:
        matrix: `[d_mlp, d_mlp]`, symmetric.
        layer: whose keys, or None where the file does not say.
        tokens: how many keys were averaged; 0 where the file does not say.
        model: fingerprint of the model's weights, or an empty string where the file does not say.
        corpus: what text it was, in words and with its fingerprint.
        ridge: added to the diagonal, as a share of the mean eigenvalue.
        parts: of a sum, what it was made of, in words (see `plus`); empty otherwise.
    """

    matrix: Tensor = field(repr=False)
    layer: int | None = None
    tokens: int = 0
    model: str = ""
    corpus: str = "unknown"
    ridge: float = 0.0
    parts: str = ""

    @property
    def size(self) -> int:
        """d_mlp."""
        return len(self.matrix)

    def with_ridge(self, ridge: float) -> SecondMoment:
        """Return the same with `ridge` times the mean eigenvalue added to the diagonal.

        Raises:
            UsageError: a ridge that is negative or no number.
        """
        if not 0 <= ridge < math.inf:
            raise UsageError(f"The ridge is {ridge}; it must be a number and must not be negative.")
        return replace(self, ridge=ridge)

    def plus(self, other: SecondMoment, weight: float) -> SecondMoment:
        """Return C + weight · C', of the same layer and model.

        C' may be computed anew on every machine, with other last bits on another processor. What follows from model,
        layer and text therefore enters the sum's fingerprint by these, not by its numbers.

        Raises:
            UsageError: a weight that is negative or no number.
        """
        if not 0 <= weight < math.inf:
            raise UsageError(
                f"The weight of a second moment is {weight}; it must be a number and must not be negative."
            )
        matrix = self.matrix.double() + weight * other.matrix.double()
        source = f"{other.model} {other.layer} {other.tokens} {other.corpus}" if other.model else other.fingerprint
        parts = f"{self.fingerprint} + {weight!r} ({source})"
        return replace(self, matrix=matrix, corpus=f"{self.corpus}; and {weight:g} times {other.corpus}", parts=parts)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of C's numbers in float32, of a sum that of its parts: sha256, 16 hexadecimal digits."""
        content = self.parts.encode() or self.matrix.float().cpu().contiguous().numpy().data
        return hashlib.sha256(content).hexdigest()[:16]

    def checked(self) -> SecondMoment:
        """Return the same, if it is a second moment as far as its entries tell; looked at once.

        Raises:
            DataError: complex, not finite, not symmetric, or negative.
        """
        _ = self._is_sound
        return self

    @property
    def _name(self) -> str:
        return f"The second moment of layer {self.layer} ({self.tokens} tokens, {self.corpus})"

    @cached_property
    def _is_sound(self) -> bool:
        check_matrix(self.matrix, self._name)
        return True

    @cached_property
    def _factor(self) -> tuple[Tensor, float]:
        """Lower Cholesky factor in float64, and the ridge that was needed; sound without the ridge asked for."""
        self.checked()
        matrix = self.matrix.to(torch.float64, copy=True)  # the one copy: at GPT-J's 16 384 keys it takes 2 GB
        diagonal = matrix.diagonal().clone()
        rounding = negative_by_rounding(self.matrix)
        if self.ridge > rounding and _cholesky(matrix, diagonal, rounding) is None:  # which the ridge would hide
            raise self._negative()
        most = max(AUTO_RIDGE, rounding)
        steps = (*(AUTO_RIDGE * 10**i for i in range(6) if AUTO_RIDGE * 10**i < most), most)
        for ridge in (self.ridge, *(step for step in steps if step > self.ridge)):
            lower = _cholesky(matrix, diagonal, ridge)
            if lower is not None:
                self._check_rank(lower, ridge, float(diagonal.mean()))
                return lower, ridge
        raise self._negative()

    def _negative(self) -> EditError:
        return EditError(
            f"{self._name} has negative eigenvalues, which E[k kᵀ] has not: it was computed from broken keys, or is no "
            "second moment. Compute it again with 'factedit stats'."
        )

    def _check_rank(self, lower: Tensor, ridge: float, mean: float) -> None:
        """Refuse a C of hardly any keys, that its ridge alone makes invertible."""
        if ridge == self.ridge:
            return
        rank = int((lower.diagonal() ** 2 > 10 * ridge * mean).sum())
        if rank < len(lower) // FEWEST:
            raise EditError(
                f"{self._name} is of rank {rank} or so of {len(lower)}: so few keys tell nothing of what must stay as "
                "it is. Compute it from more text ('factedit stats --tokens')."
            )
        logger.info("%s is of rank %d or so of %d; %g of its mean is added", self._name, rank, len(lower), ridge)

    @property
    def ridge_used(self) -> float:
        """The ridge in force: the one asked for, or the smallest that makes C invertible."""
        return self._factor[1]

    @cached_property
    def condition(self) -> float:
        """Condition number of C with the ridge in force, from below (see `largest_eigenvalue`)."""
        lower = self._factor[0]
        largest = largest_eigenvalue(lambda x: lower @ (lower.T @ x), len(lower))
        return largest * largest_eigenvalue(lambda x: _solved(lower, x[:, None])[:, 0], len(lower))

    def solve(self, keys: Tensor) -> Tensor:
        """Return C⁻¹k for keys `[..., d_mlp]`, in float64."""
        flat = keys.double().reshape(-1, keys.shape[-1])
        return _solved(self._factor[0], flat.T.cpu()).T.reshape(keys.shape).to(keys.device)

    def solve_without(self, keys: Tensor, left_out: Tensor) -> Tensor:
        """Return (C − a aᵀ)⁻¹k for keys and per key a part `a` of C to leave out, both `[n, d_mlp]`, in float64.

        By Sherman and Morrison's formula; where `a` is zero this is C⁻¹k.
        """
        part = left_out.double()
        solved, of_part = self.solve(torch.stack([keys.double(), part]))
        share = (part * solved).sum(1) / (1 - (part * of_part).sum(1))
        without: Tensor = solved + of_part * share[:, None]
        return without


def _cholesky(matrix: Tensor, diagonal: Tensor, ridge: float) -> Tensor | None:
    """The lower factor with this share of the mean added to the diagonal (written into the matrix), if there is one."""
    matrix.diagonal().copy_(diagonal + ridge * diagonal.mean())
    lower, info = torch.linalg.cholesky_ex(matrix)
    return lower if int(info) == 0 else None


def _solved(lower: Tensor, right: Tensor) -> Tensor:
    """(L Lᵀ)⁻¹ of `[size, n]`; `cholesky_solve` would copy L."""
    middle = torch.linalg.solve_triangular(lower, right, upper=False)
    solved: Tensor = torch.linalg.solve_triangular(lower.T, middle, upper=True)
    return solved


def largest_eigenvalue(product: Callable[[Tensor], Tensor], size: int, steps: int = 64) -> float:
    """Return the largest eigenvalue, from below, of a symmetric positive matrix given by its product with a vector.

    Lanczos' method with full orthogonalisation, exact for a size up to `steps`. All eigenvalues would cost thousands
    of products.

    Args:
        product: `[size]` to `[size]`, in float64.
        size: of the matrix.
        steps: products at most.
    """
    vector = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    basis = torch.empty(size, 0, dtype=torch.float64)
    images: list[Tensor] = []
    for _ in range(min(steps, size)):
        vector = vector / vector.norm()
        basis = torch.cat([basis, vector[:, None]], 1)
        images.append(product(vector))
        vector = images[-1]
        for _ in range(2):  # once leaves rounding behind
            vector = vector - basis @ (basis.T @ vector)
        if vector.norm() <= 1e-12 * images[-1].norm():
            break  # the vectors so far span all that the first one can reach
    return float(torch.linalg.eigvalsh(basis.T @ torch.stack(images, 1))[-1])


class RunningSecondMoment:
    """Sums k kᵀ over keys, in float64, and forgets the keys.

    Keys wait until there are `KEYS_AT_ONCE` of them; their product is taken in their own type, at least float32. Since
    k kᵀ is symmetric, only the blocks on and above the diagonal are computed and kept, on a CUDA device if they leave
    room there.

    Args:
        d_mlp: width of the keys.
        blocks: sums to go on from, as `blocks` gives them; taken over.
        tokens: how many keys they hold.
    """

    def __init__(self, d_mlp: int, blocks: Sequence[Tensor] | None = None, tokens: int = 0) -> None:
        step = -(-d_mlp // BLOCKS)
        self._rows = [slice(begin, min(begin + step, d_mlp)) for begin in range(0, d_mlp, step)]
        self._shapes = [(rows.stop - rows.start, d_mlp - rows.start) for rows in self._rows]
        self._blocks = [] if blocks is None else list(blocks)  # made where the first keys are
        if blocks is not None and [tuple(block.shape) for block in blocks] != self._shapes:
            raise ValueError(f"sums for keys of width {d_mlp} have the shapes {self._shapes}")
        self._waiting: list[Tensor] = []
        self.tokens = tokens

    def add(self, keys: Tensor) -> None:
        """Add keys `[tokens, d_mlp]`."""
        self._waiting.append(keys.detach().to(torch.promote_types(keys.dtype, torch.float32), copy=True))
        self.tokens += len(keys)
        if sum(map(len, self._waiting)) >= KEYS_AT_ONCE:
            self._sum_up()

    def plus(self, other: RunningSecondMoment) -> None:
        """Add the sums of other keys; nothing but float64 additions, so their order alone decides the last bits."""
        self._sum_up()
        theirs = other.blocks
        for total, block in zip(self._blocks, theirs, strict=False):
            total += block.to(total.device)
        self._blocks = self._blocks or theirs
        self.tokens += other.tokens

    def _sum_up(self) -> None:
        if not self._waiting:
            return
        waiting = torch.cat(self._waiting)
        self._waiting = []
        if not self._blocks:
            where = self._place(waiting.device)
            self._blocks = [torch.zeros(shape, dtype=torch.float64, device=where) for shape in self._shapes]
        for keys in waiting.split(2 * KEYS_AT_ONCE):  # no product sums over more
            for rows, block in zip(self._rows, self._blocks, strict=True):
                block += (keys[:, rows].T @ keys[:, rows.start :]).to(block.device)

    def _place(self, device: torch.device) -> torch.device:
        """Where the keys are, if the sums take a small part of what is free there; else on the processor."""
        size = 8 * sum(height * width for height, width in self._shapes)
        fits = device.type == "cuda" and size <= SHARE_OF_FREE * free_bytes(device)
        return device if fits else torch.device("cpu")

    @property
    def blocks(self) -> list[Tensor]:
        """Σ k kᵀ of all keys so far in float64, on the processor: per block of rows the part from the diagonal on.

        Empty before the first key.
        """
        self._sum_up()
        return [block.cpu() for block in self._blocks]

    def mean(self) -> Tensor:
        """Return C `[d_mlp, d_mlp]` in float64.

        Raises:
            DataError: no key was added, or the keys were not finite.
        """
        if not self.tokens:
            raise DataError("No text was read, so there is no second moment: give a corpus that is not empty.")
        width = self._rows[-1].stop
        mean = torch.empty(width, width, dtype=torch.float64)
        for rows, block in zip(self._rows, self.blocks, strict=True):
            torch.div(block, self.tokens, out=mean[rows, rows.start :])  # ROME appendix E.5: C = E[k kᵀ]
            mean[rows.stop :, rows] = mean[rows, rows.stop :].T
        if not torch.isfinite(mean).all():
            raise DataError("The keys are not finite: the model's weights hold NaN or infinity.")
        return mean
