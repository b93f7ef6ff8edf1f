"""What effects have in common that stand beside one matrix and look at its keys."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from factedit.edit.effects.at_matrix import AtMatrix
from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.models.families import MatrixName
from factedit.models.matrix import MatrixHook


class BesideFields(BaseModel):
    """What `edit.json` tells of where it stands.

    Attributes:
        layer, matrix: beside which matrix.
        shape: `[d_in, d_out]` of that matrix.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layer: int = Field(ge=0)
    matrix: MatrixName
    shape: tuple[int, int]


class BesideMatrix(AtMatrix):
    """An effect beside the matrix of a layer.

    Attributes:
        layer, matrix: which matrix of which MLP.
        keys: what it looks for, `[entries, d_in]`.
        outputs: what it gives there, `[entries, d_out]`.
        instead: what to do with it where weights are wanted.
    """

    kind: ClassVar[str]
    instead: ClassVar[str] = "Use it in memory, from Python (factedit.load_edited)"
    keys: Tensor
    matrix: MatrixName

    @property
    @abstractmethod
    def outputs(self) -> Tensor: ...  # noqa: D102

    @classmethod
    @abstractmethod
    def hook(cls, rows: Sequence[Sequence[Self]], weight: Tensor) -> MatrixHook:
        """Return what acts on the rows of a batch, each under its own effects beside this matrix; of one row, on all.

        Args:
            rows: per row its effects, whose shapes fit.
            weight: the matrix, `[d_in, d_out]`.
        """

    @contextmanager
    def on_batch(self, model: EditableModel) -> Iterator[None]:
        """Act on every row alike."""
        with type(self).on_rows(model, [[self]]):  # what one row has is every row's
            yield

    @classmethod
    @contextmanager
    def on_rows(cls, model: EditableModel, rows: Sequence[Sequence[Self]]) -> Iterator[None]:
        """Act on each row by its own effects.

        Raises:
            EditError: an effect beside a matrix of another shape.
        """
        with ExitStack() as stack:
            for layer, matrix in sorted({(effect.layer, effect.matrix) for row in rows for effect in row}):
                effects_here = [[e for e in row if (e.layer, e.matrix) == (layer, matrix)] for row in rows]
                weight = model.weight(layer, matrix)
                for effect in (effect for row in effects_here for effect in row):
                    effect._check(weight)
                stack.enter_context(model.on_matrix(layer, cls.hook(effects_here, weight), matrix))
            yield

    def _check(self, weight: Tensor) -> None:
        shape = self._where()["shape"]
        if shape != list(weight.shape):
            raise EditError(
                f"The {self.kind} stands beside a matrix {shape}; the matrix {self.matrix!r} of layer {self.layer} is "
                f"{list(weight.shape)}. It was made for another model."
            )

    def _where(self) -> dict[str, Any]:
        """Return the values of `BesideFields`."""
        shape = [self.keys.shape[1], self.outputs.shape[1]]
        return {"layer": self.layer, "matrix": self.matrix, "shape": shape}
