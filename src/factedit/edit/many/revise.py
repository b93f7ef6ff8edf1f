"""Taking facts out of what was written: exact, whatever was written since.

Where every batch was solved beside the history of the others (`history.py`), the weights W solve
W_S: S W = M W₀ + HᵀV, with H all keys and V the values written at them. From this follows, without
any other fact, the change that leaves out the facts (K, V'): S' = S − KᵀK, ΔW = −S'⁻¹Kᵀ (V' − K W).

A fact that gets a new value is taken out first. Appended as one more fact the new value would be averaged with the old.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from factedit.edit.many.history import History


class Revision(NamedTuple):
    """A change of a matrix whose history changes with it.

    Attributes:
        directions: `[m, d_mlp]`.
        residual: `[m, d_model]`; ΔW = directionsᵀ · residual.
        history: of the facts that stay.
    """

    directions: Tensor
    residual: Tensor
    history: History


def take_back(history: History, which: Tensor, values: Tensor, product: Callable[[Tensor], Tensor]) -> Revision:
    """Take facts out of a matrix.

    Args:
        history: all keys, among them these facts'.
        which: the facts' places in it, `[m]`.
        values: what was written at their keys, `[m, d_model]`.
        product: gives keys `[m, d_mlp]` times W as it is now, `[m, d_model]`.
    """
    keys, rest = history.keys[which], history.without(which)
    return Revision(rest.solve(keys), product(keys) - values.double(), rest)
