"""C = E[k kᵀ], the uncentred second moment of a layer's keys (ROME, arXiv 2202.05262, section 3.1).

`SecondMoment` is the frozen value that editing uses: C, where it comes from, and the solution of C u = k.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from factedit.errors import DataError, EditError, UsageError

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
    """

    matrix: Tensor = field(repr=False)
    layer: int | None = None
    tokens: int = 0
    model: str = ""
    corpus: str = "unknown"
    ridge: float = 0.0

    def with_ridge(self, ridge: float) -> SecondMoment:
        """The same with `ridge` times the mean eigenvalue added to the diagonal.

        Raises:
            UsageError: a negative ridge.
        """
        if ridge < 0:
            raise UsageError(f"The ridge is {ridge}; it must not be negative.")
        return replace(self, ridge=ridge)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of C's numbers in float32: sha256, 16 hexadecimal digits."""
        return hashlib.sha256(self.matrix.float().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]

    @cached_property
    def _factor(self) -> tuple[Tensor, float]:
        """Lower Cholesky factor in float64, and the ridge that was needed."""
        matrix = self.matrix.double()
        mean = matrix.diagonal().mean()
        for ridge in (self.ridge, *(AUTO_RIDGE * 10**i for i in range(6) if AUTO_RIDGE * 10**i > self.ridge)):
            lower, info = torch.linalg.cholesky_ex(matrix + ridge * mean * torch.eye(len(matrix), dtype=torch.float64))
            if int(info) == 0:
                return lower, ridge
        raise EditError(
            f"The second moment of layer {self.layer} ({self.tokens} tokens) is not positive definite even with a "
            "ridge of 0.1: it was computed from broken keys. Compute it again from more text."
        )

    @property
    def ridge_used(self) -> float:
        """The ridge in force: the one asked for, or the smallest that makes C invertible."""
        return self._factor[1]

    @cached_property
    def condition(self) -> float:
        """Condition number of C with the ridge in force."""
        values = torch.linalg.eigvalsh(self.matrix.double())
        shift = self.ridge_used * float(values.mean())
        return float((values[-1] + shift) / (values[0] + shift).clamp(min=1e-300))

    def solve(self, keys: Tensor) -> Tensor:
        """C⁻¹k for keys `[..., d_mlp]`, in float64."""
        flat = keys.double().reshape(-1, keys.shape[-1])
        return torch.cholesky_solve(flat.T.cpu(), self._factor[0]).T.reshape(keys.shape).to(keys.device)


class RunningSecondMoment:
    """Sums k kᵀ over batches of keys, in float64, and forgets the keys.

    Args:
        d_mlp: width of the keys.
    """

    def __init__(self, d_mlp: int) -> None:
        self.total = torch.zeros(d_mlp, d_mlp, dtype=torch.float64)
        self.tokens = 0

    def add(self, keys: Tensor) -> None:
        """Add keys `[tokens, d_mlp]`; a batch's own product is taken in the keys' type, at least float32."""
        keys = keys.detach().to(torch.promote_types(keys.dtype, torch.float32))
        self.total += (keys.T @ keys).double().cpu()
        self.tokens += keys.shape[0]

    def mean(self) -> Tensor:
        """C `[d_mlp, d_mlp]` in float64.

        Raises:
            DataError: no key was added, or the keys were not finite.
        """
        if not self.tokens:
            raise DataError("No text was read, so there is no second moment: give a corpus that is not empty.")
        if not torch.isfinite(self.total).all():
            raise DataError("The keys are not finite: the model's weights hold NaN or infinity.")
        return self.total / self.tokens
