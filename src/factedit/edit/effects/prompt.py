"""A text before every prompt: an edit that changes no weight (in-context editing, arXiv 2305.12740).

It acts where prompts are made: whoever runs the model asks the edit's `on_prompt`. It cannot be written into weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from factedit.edit.effects.of_prompts import OfPrompts


class PromptFields(BaseModel):
    """What `edit.json` tells of it.

    Attributes:
        text: what stands before every prompt.
        cue: what stands between it and the prompt, once however many texts there are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    text: str = Field(min_length=1)
    cue: str = ""


@dataclass(frozen=True, eq=False)
class Prompt(OfPrompts):
    """A text before every prompt.

    Attributes:
        text: the text.
        cue: what leads over to the prompt; beside other texts it stands once, behind the last.
        instead: what to do with it where weights are wanted.
    """

    kind: ClassVar[str] = "prompt"
    instead: ClassVar[str] = (
        "Put its text before every prompt yourself ('factedit show' prints it; in Python edit.on_prompt(prompt), or "
        "factedit.load_edited)"
    )
    text: str = field(repr=False)
    cue: str = field(default="", repr=False)

    def on_prompt(self, text: str) -> str:
        """Return the text after the edit's own."""
        return self.text + self.cue + text

    def followed_by(self, other: Prompt) -> Prompt | None:
        """Return both texts one after the other; None where they lead over to the prompt in other words."""
        return Prompt(self.text + other.text, self.cue) if self.cue == other.cue else None

    def fields(self) -> dict[str, Any]:
        """Return the text, and what leads over to the prompt where it is apart."""
        return {"text": self.text} | ({"cue": self.cue} if self.cue else {})

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
        stored = PromptFields(**fields)
        return cls(stored.text, stored.cue)
