"""What a second moment must be, wherever it comes from: a file, Python, a plug-in.

E[k kᵀ] is real, finite and symmetric, and no eigenvalue is negative beyond rounding. A matrix that is none of this
(an upper triangle, say) solves to numbers that look like others and are wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from factedit.errors import DataError
from factedit.memory import release
from factedit.models.finite import all_finite

ROWS = 1024  # looked at together
ASYMMETRY = 1e-3  # of the geometric mean of the two diagonal entries
ROUNDING = 64.0  # units in the last place of float32, times the norm: what sums of products may be off by
_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FEWEST = 16  # a C of fewer independent keys than this part of its width is no estimate of anything


def check_matrix(matrix: Tensor, what: str) -> None:
    """Refuse a matrix that is no second moment, as far as its entries tell.

    Args:
        matrix: C `[d_mlp, d_mlp]`.
        what: C in words, for the message.

    Raises:
        DataError: saying what is wrong.
    """
    again = "Compute it again with 'factedit stats'."
    if not isinstance(matrix, Tensor) or matrix.dtype not in _TYPES:
        kind = matrix.dtype if isinstance(matrix, Tensor) else type(matrix).__name__
        raise DataError(f"{what} holds {kind}; a second moment holds real numbers, in 16 bits or more. {again}")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise DataError(f"{what} is {list(matrix.shape)}; a second moment is square [d_mlp, d_mlp]. {again}")
    if not all_finite(matrix):
        raise DataError(f"{what} holds values that are not finite. {again}")
    diagonal = matrix.diagonal().double()
    if bool((diagonal < 0).any()) or not bool((diagonal > 0).any()):
        raise DataError(f"{what} has a diagonal that is negative or all zero; it holds means of squares. {again}")
    root = diagonal.sqrt()
    for begin in range(0, len(matrix), ROWS):
        rows, columns = matrix[begin : begin + ROWS].double(), matrix[:, begin : begin + ROWS].T.double()
        most = root[begin : begin + ROWS, None] * root[None]
        slack = ASYMMETRY * most + 1e-6 * root.max() ** 2
        if bool(((rows - columns).abs() > slack).any()):
            raise DataError(f"{what} is not symmetric, which E[k kᵀ] is (is it one triangle alone?). {again}")
        if bool((rows.abs() > most + slack).any()):
            raise DataError(f"{what} has negative eigenvalues, which E[k kᵀ] has not. {again}")
    release()


def negative_by_rounding(matrix: Tensor) -> float:
    """Return how far below zero rounding may put an eigenvalue of C, as a share of the mean eigenvalue."""
    wide = matrix.double() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
    step = max(torch.finfo(matrix.dtype).eps, torch.finfo(torch.float32).eps)
    mean = float(matrix.diagonal().double().mean())
    return ROUNDING * step * float(wide.norm()) / mean
