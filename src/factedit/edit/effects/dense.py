"""ΔW of one matrix as a whole, for methods whose change is not a product of thin factors."""

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
class Dense(AtMatrix):
    """ΔW of one matrix as a whole.

    Attributes:
        layer: which layer's matrix.
        change: ΔW `[d_in, d_out]`, float32.
        matrix: which matrix of the MLP: `out`, `in` or `gate`.
    """

    kind: ClassVar[str] = "dense"
    layer: int
    change: Tensor = field(repr=False)
    matrix: MatrixName = "out"

    @property
    def place(self) -> Place:
        """Which matrix."""
        return self.layer, self.matrix

    @property
    def shape(self) -> tuple[int, int]:
        """`[d_in, d_out]` of the matrix it fits."""
        return self.change.shape[0], self.change.shape[1]

    @property
    def rank(self) -> int:
        """The greatest rank it can have."""
        return min(self.shape)

    def delta(self) -> Tensor:
        """Return ΔW `[d_in, d_out]`, float32."""
        return self.change.float()

    def factors(self) -> None:
        """Return None: it is no product of thin factors."""
        return

    @contextmanager
    def on_batch(self, model: EditableModel) -> Iterator[None]:
        """Add key ΔW to the value of every row."""
        delta = self._delta_for(model)
        with model.on_matrix(self.layer, lambda key, value: plus_product(value, key, delta), self.matrix):
            yield

    @classmethod
    @contextmanager
    def on_rows(cls, model: EditableModel, rows: Sequence[Sequence[Self]]) -> Iterator[None]:
        """Add each change to the rows that have it."""
        with ExitStack() as stack:
            for place, rows_here in at_place(rows):
                for effect in {id(e): e for row in rows_here for e in row}.values():
                    here = [n for n, row in enumerate(rows_here) if any(e is effect for e in row)]
                    delta = effect._delta_for(model)
                    index = torch.tensor(here, device=delta.device)
                    add = lambda k, v, d=delta, i=index: v.index_copy(0, i, plus_product(v[i], k[i], d))  # noqa: E731
                    stack.enter_context(model.on_matrix(place[0], add, place[1]))
            yield

    def _delta_for(self, model: EditableModel) -> Tensor:
        weight = model.weight(*self.place)
        return self.change.to(weight.device, at_least_float32(weight.dtype))

    def fields(self) -> dict[str, Any]:
        """Return where and of which shape."""
        return {"layer": self.layer, "matrix": self.matrix, "shape": list(self.shape), "rank": None}

    def tensors(self) -> dict[str, Tensor]:
        """Return ΔW, float32."""
        return {"change": self.change.float().contiguous()}

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return that of ΔW."""
        return {"change": PlaceFields(**fields).shape}

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the change back from what is stored."""
        stored = PlaceFields(**fields)
        return cls(stored.layer, tensors["change"], stored.matrix)
