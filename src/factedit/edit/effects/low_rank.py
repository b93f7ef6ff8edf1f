"""ΔW of one matrix as a product of two thin factors (ROME, arXiv 2202.05262, eq. 2: rank one)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from factedit.edit.effects.at_matrix import AtMatrix
from factedit.edit.effects.weights import PlaceFields, at_place, plus_product
from factedit.engine.half import at_least_float32
from factedit.models.adapter import EditableModel
from factedit.models.families import MatrixName, Place


@dataclass(frozen=True, eq=False)
class LowRank(AtMatrix):
    """ΔW of one matrix as a product.

    Attributes:
        layer: which layer's matrix.
        left: `[d_in, rank]`; d_in is d_mlp for the matrix `out`.
        right: `[rank, d_out]`; d_out is d_model for the matrix `out`.
        matrix: which matrix of the MLP: `out`, `in` or `gate`.
    """

    kind: ClassVar[str] = "low-rank"
    layer: int
    left: Tensor = field(repr=False)
    right: Tensor = field(repr=False)
    matrix: MatrixName = "out"

    @property
    def place(self) -> Place:
        """Which matrix."""
        return self.layer, self.matrix

    @property
    def shape(self) -> tuple[int, int]:
        """`[d_in, d_out]` of the matrix it fits."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """The number of rank-one terms."""
        return self.left.shape[1]

    def delta(self) -> Tensor:
        """Return ΔW `[d_in, d_out]`, float32, summed one rank at a time: the same bits everywhere."""
        left, right = self.left.float(), self.right.float()
        total = torch.zeros(self.shape, device=left.device)
        for column, row in zip(left.T, right, strict=True):
            total += torch.outer(column, row)
        return total

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the factors, float32."""
        return self.left.float(), self.right.float()

    @contextmanager
    def on_batch(self, model: EditableModel) -> Iterator[None]:
        """Add key ΔW to the value of every row; the factors are shared."""
        weight = model.weight(*self.place)
        wide = at_least_float32(weight.dtype)
        left, right = self.left.to(weight.device, wide), self.right.to(weight.device, wide)
        with model.on_matrix(self.layer, lambda key, value: plus_product(value, key, left, right), self.matrix):
            yield

    @classmethod
    @contextmanager
    def on_rows(cls, model: EditableModel, rows: Sequence[Sequence[Self]]) -> Iterator[None]:
        """Compute one batched product for all rows; ranks of a row's changes stand side by side, padded with zeros."""
        with ExitStack() as stack:
            for place, rows_here in at_place(rows):
                weight, rank = model.weight(*place), max(sum(effect.rank for effect in row) for row in rows_here)
                wide = at_least_float32(weight.dtype)
                left = weight.new_zeros(len(rows_here), weight.shape[0], rank, dtype=wide)
                right = weight.new_zeros(len(rows_here), rank, weight.shape[1], dtype=wide)
                for n, row in enumerate(rows_here):
                    at = 0
                    for effect in row:
                        left[n, :, at : at + effect.rank] = effect.left
                        right[n, at : at + effect.rank] = effect.right
                        at += effect.rank
                add = lambda key, value, a=left, b=right: plus_product(value, key, a, b)  # noqa: E731
                stack.enter_context(model.on_matrix(place[0], add, place[1]))
            yield

    def fields(self) -> dict[str, Any]:
        """Return where, of which shape and rank."""
        return {"layer": self.layer, "matrix": self.matrix, "shape": list(self.shape), "rank": self.rank}

    def tensors(self) -> dict[str, Tensor]:
        """Return the factors, float32."""
        return {"left": self.left.float().contiguous(), "right": self.right.float().contiguous()}

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return those of the factors."""
        stored = PlaceFields(**fields)
        if stored.rank is None:
            raise ValueError("a low-rank change needs its rank")
        return {"left": (stored.shape[0], stored.rank), "right": (stored.rank, stored.shape[1])}

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the change back from what is stored."""
        stored = PlaceFields(**fields)
        return cls(stored.layer, tensors["left"], tensors["right"], stored.matrix)


def low_rank_at(model: EditableModel, layer: int, left: Tensor, right: Tensor) -> list[LowRank]:
    """Return the change of a layer's last matrix, or of those of its experts whose rows of `left` are not all zero.

    Args:
        model: the model.
        layer: which.
        left: `[width, rank]`, of the layer's (joined) key.
        right: `[rank, d_model]`.
    """
    parts = model.mlp(layer).parts(left)
    if len(parts) == 1:
        return [LowRank(layer, part, right, name) for name, part in parts.items()]
    return [LowRank(layer, part.clone(), right.clone(), name) for name, part in parts.items()]  # a file holds no views
