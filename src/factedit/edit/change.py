"""What an edit adds to one matrix: a product of two thin factors, or a whole ΔW.

`W_new = round(float32(W) + ΔW)` is computed here and nowhere else, and to the bit the same on every machine and with
any number of threads: a product is summed one rank at a time, entry by entry, and never by a matrix multiplication,
whose order of summation is the library's own. So a change that is put on, written to a file, verified and
taken off again always means the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from factedit.engine.half import at_least_float32
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.models.families import MatrixName, Place


@dataclass(frozen=True)
class LowRank:
    """ΔW of one matrix as a product.

    Attributes:
        layer: which layer's matrix.
        left: `[d_in, rank]`; d_in is d_mlp for the matrix `out`.
        right: `[rank, d_out]`; d_out is d_model for the matrix `out`.
        matrix: which matrix of the MLP: `out`, `in` or `gate`.
    """

    layer: int
    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    matrix: MatrixName = "out"

    @property
    def shape(self) -> tuple[int, int]:
        """`[d_in, d_out]` of the matrix it fits."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """The number of rank-one terms."""
        return self.left.shape[1]

    def delta(self) -> Tensor:
        """ΔW `[d_in, d_out]`, float32, the same bits everywhere."""
        left, right = self.left.float(), self.right.float()
        total = torch.zeros(self.shape, device=left.device)
        for column, row in zip(left.T, right, strict=True):
            total += torch.outer(column, row)
        return total

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, float32."""
        return {"left": self.left.float().contiguous(), "right": self.right.float().contiguous()}


@dataclass(frozen=True)
class Dense:
    """ΔW of one matrix as a whole, for methods whose change is not a product of thin factors.

    Attributes:
        layer: which layer's matrix.
        change: ΔW `[d_in, d_out]`, float32.
        matrix: which matrix of the MLP: `out`, `in` or `gate`.
    """

    layer: int
    change: Tensor = field(repr=False)
    matrix: MatrixName = "out"

    @property
    def shape(self) -> tuple[int, int]:
        """`[d_in, d_out]` of the matrix it fits."""
        return self.change.shape[0], self.change.shape[1]

    @property
    def rank(self) -> int:
        """The greatest rank it can have."""
        return min(self.shape)

    def delta(self) -> Tensor:
        """ΔW `[d_in, d_out]`, float32."""
        return self.change.float()

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, float32."""
        return {"change": self.change.float().contiguous()}


Change = LowRank | Dense


def changed(weight: Tensor, change: Change) -> Tensor:
    """The matrix with a change, rounded once to its own type.

    Args:
        weight: W `[d_in, d_out]`, any float type; not changed.
        change: of a matrix of this shape.

    Raises:
        EditError: other shapes, or a result that is not finite.
    """
    if tuple(weight.shape) != change.shape:
        raise EditError(
            f"The edit changes a matrix {list(change.shape)}; "
            f"the matrix {change.matrix!r} of layer {change.layer} is {list(weight.shape)}. "
            "It was made for another model."
        )
    new = (weight.float() + change.delta().to(weight.device)).to(weight.dtype)
    if not torch.isfinite(new).all():
        raise EditError(
            f"The matrix {change.matrix!r} of layer {change.layer} with the edit holds values that are not finite; "
            "the model is unchanged."
        )
    return new


def places_of(changes: Iterable[Change]) -> list[Place]:
    """The matrices that changes touch, in order, each once."""
    return sorted({(change.layer, change.matrix) for change in changes})


def changed_at(place: Place, weight: Tensor, changes: Iterable[Change]) -> Tensor:
    """The matrix at a place with those of the changes that touch it, one after the other.

    Raises:
        EditError: see `changed`.
    """
    for change in changes:
        if (change.layer, change.matrix) == place:
            weight = changed(weight, change)
    return weight


@contextmanager
def changes_applied(model: EditableModel, changes: Sequence[Change]) -> Iterator[None]:
    """The model with these changes, one after the other; the same bits as before on leaving.

    Raises:
        EditError: other shapes, or a change that is not finite.
    """
    with ExitStack() as stack:
        for change in changes:
            new = changed(model.weight(change.layer, change.matrix), change)
            stack.enter_context(model.with_weight(change.layer, new, change.matrix))
        yield


@contextmanager
def rows_changed(model: EditableModel, rows: Sequence[Sequence[Change]]) -> Iterator[None]:
    """Every row of the batch sees its own changes: value += key ΔW, row by row; the weights are not touched.

    The products are taken in float32 at least. In half precision a matrix that is changed for good is rounded to its
    own type (`changed`), and loses what of a small change is below half a step of the weights; these rows do not.

    Args:
        model: the model.
        rows: the changes of every row of the batches that are run inside; an empty entry leaves a row as it is.
    """
    with ExitStack() as stack:
        for layer, matrix in places_of(change for row in rows for change in row):
            own = [[c for c in row if (c.layer, c.matrix) == (layer, matrix)] for row in rows]
            weight = model.weight(layer, matrix)
            _add_products(stack, model, (layer, matrix), [[c for c in row if isinstance(c, LowRank)] for row in own])
            for change in {id(c): c for row in own for c in row if isinstance(c, Dense)}.values():
                here = [n for n, row in enumerate(own) if any(c is change for c in row)]
                delta = change.change.to(weight.device, at_least_float32(weight.dtype))
                index = torch.tensor(here, device=weight.device)
                add = lambda k, v, d=delta, i=index: v.index_copy(0, i, plus_product(v[i], k[i], d))  # noqa: E731
                stack.enter_context(model.on_matrix(layer, add, matrix))
        yield


def _add_products(stack: ExitStack, model: EditableModel, place: Place, rows: Sequence[Sequence[LowRank]]) -> None:
    """One batched product for all rows; the ranks of a row's changes stand side by side, padded with zeros."""
    rank = max(sum(change.rank for change in row) for row in rows)
    if not rank:
        return
    weight = model.weight(*place)
    left = weight.new_zeros(len(rows), weight.shape[0], rank, dtype=at_least_float32(weight.dtype))
    right = weight.new_zeros(len(rows), rank, weight.shape[1], dtype=at_least_float32(weight.dtype))
    for n, row in enumerate(rows):
        at = 0
        for change in row:
            left[n, :, at : at + change.rank] = change.left
            right[n, at : at + change.rank] = change.right
            at += change.rank
    add = lambda key, value: plus_product(value, key, left, right)  # noqa: E731
    stack.enter_context(model.on_matrix(place[0], add, place[1]))


def plus_product(value: Tensor, key: Tensor, *factors: Tensor) -> Tensor:
    """value + key · factors, summed in the factors' type and rounded once to the value's."""
    product = key.to(factors[0].dtype)
    for factor in factors:
        product = product @ factor
    return (value.to(product.dtype) + product).to(value.dtype)
