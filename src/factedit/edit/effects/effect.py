"""What an effect is: a part of an edit that acts on a model while it runs.

An effect may add to what a matrix gives (`low_rank.py`, `dense.py`), keep a memory beside a matrix, or put text before
a prompt. Whoever runs the model asks it four things: from which layer on something differs, what it makes of a prompt,
and how it acts on a whole batch or on the rows of one. Effects of weights can besides be written into the weights,
and they alone are shipped, stacked and verified (`weights.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor

from factedit.models.adapter import EditableModel
from factedit.models.families import Place


@runtime_checkable
class Effect(Protocol):
    """One kind of effect; a file of `edit/effects/` and a line in its table, or an entry point `factedit.effects`."""

    kind: ClassVar[str]

    def first_layer(self) -> int:
        """Return the first layer that computes something else than in the unedited model; what lies before is
        shared.
        """
        ...

    def on_prompt(self, text: str) -> str:
        """Return what the model is asked in place of this text; the text itself for everything but edits of prompts."""
        ...

    def on_batch(self, model: EditableModel) -> AbstractContextManager[None]:
        """Inside, every row of every batch sees the effect; nothing is copied per row, no weight is touched."""
        ...

    @classmethod
    def on_rows(cls, model: EditableModel, rows: Sequence[Sequence[Self]]) -> AbstractContextManager[None]:
        """Inside, row n of a batch sees the effects `rows[n]` of this kind; no weight is touched."""
        ...

    def fields(self) -> dict[str, Any]:
        """Return what `edit.json` tells of it beside its kind, as JSON values."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what `edit.safetensors` holds of it, by name."""
        ...

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the tensors that go with these fields.

        Raises:
            ValueError, TypeError, KeyError: the fields are not those of this kind.
        """
        ...

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the effect back from its fields and tensors, whose shapes were checked."""
        ...


@runtime_checkable
class WeightEffect(Effect, Protocol):
    """An effect that is a change ΔW of one matrix."""

    @property
    def place(self) -> Place:
        """Which matrix: layer and name."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """`[d_in, d_out]` of the matrix it fits."""
        ...

    @property
    def rank(self) -> int:
        """The greatest rank that ΔW can have."""
        ...

    def delta(self) -> Tensor:
        """Return ΔW `[d_in, d_out]`, float32, the same bits on every machine."""
        ...

    def factors(self) -> tuple[Tensor, Tensor] | None:
        """Return ΔW as a product of `[d_in, rank]` and `[rank, d_out]`, exactly; None where it is not one."""
        ...
