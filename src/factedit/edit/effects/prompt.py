"""A text before every prompt: an edit that changes no weight (in-context editing, arXiv 2305.12740).

It acts where prompts are made: whoever runs the model asks the edit's `on_prompt`. It cannot be written into weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from factedit.models.adapter import EditableModel


class PromptFields(BaseModel):
    """What `edit.json` tells of it.

    Attributes:
        text: what stands before every prompt.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    text: str = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class Prompt:
    """A text before every prompt.

    Attributes:
        text: the text, with all that stands between it and the prompt.
        instead: what to do with it where weights are wanted.
    """

    kind: ClassVar[str] = "prompt"
    instead: ClassVar[str] = (
        "Put its text before every prompt yourself ('factedit show' prints it; in Python edit.on_prompt(prompt))"
    )
    text: str = field(repr=False)

    def first_layer(self) -> int:
        """Return the first layer: the model is asked something else."""
        return 0

    def on_prompt(self, text: str) -> str:
        """Return the text after the edit's own."""
        return self.text + text

    @contextmanager
    def on_batch(self, model: EditableModel) -> Iterator[None]:
        """Change nothing: the prompts are other ones already."""
        yield

    @classmethod
    @contextmanager
    def on_rows(cls, model: EditableModel, rows: Sequence[Sequence[Self]]) -> Iterator[None]:
        """Change nothing: the prompts are other ones already."""
        del model, rows
        yield

    def fields(self) -> dict[str, Any]:
        """Return the text."""
        return {"text": self.text}

    def tensors(self) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    @classmethod
    def shapes(cls, fields: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return nothing, once the fields are those of a prompt."""
        PromptFields(**fields)
        return {}

    @classmethod
    def read(cls, fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the text back from what is stored."""
        del tensors
        return cls(PromptFields(**fields).text)
