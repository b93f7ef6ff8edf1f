"""What edits have in common that act where prompts are made, and leave the model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from factedit.models.adapter import EditableModel


class OfPrompts:
    """An effect on prompts alone."""

    def first_layer(self) -> int:
        """Return the first layer: the model is asked something else."""
        return 0

    @contextmanager
    def on_batch(self, model: EditableModel) -> Iterator[None]:
        """Change nothing: the prompts are other ones already."""
        del model
        yield

    @classmethod
    @contextmanager
    def on_rows(cls, model: EditableModel, rows: Sequence[Sequence[Self]]) -> Iterator[None]:
        """Change nothing: the prompts are other ones already."""
        del model, rows
        yield
