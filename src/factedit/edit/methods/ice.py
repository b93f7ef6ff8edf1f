"""ICE: in-context editing. The new fact is said before every prompt, and no weight changes (arXiv 2305.12740)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from factedit.edit.effects.prompt import Prompt
from factedit.edit.method import Made, MomentSource, Scope, edits_of_effects
from factedit.edit.presets_baselines import checked
from factedit.edit.state import State
from factedit.errors import EditError
from factedit.facts import EditRequest, with_space
from factedit.models.adapter import EditableModel

CUE = "Prompt: "


class IceSettings(BaseModel):
    """Of this method: none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Ice:
    """The method, set up for one model.

    Attributes:
        model: the model.
    """

    model: EditableModel
    name: str = "ice"
    paper: str = "arXiv 2305.12740"
    scope: Scope = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit per request: its fact as a text before every prompt.

        Raises:
            EditError: the edited prompt with that text is longer than the context.
        """
        effects = [self._prompt(request) for request in requests]
        return edits_of_effects(self.name, self.model, requests, effects, self.describe())

    def _prompt(self, request: EditRequest) -> Prompt:
        effect = Prompt(new_fact(request), CUE)
        check_length(self.model, effect.on_prompt(""), request, "Use a model with a longer context")
        return effect

    def describe(self) -> dict[str, Any]:
        """Return the form of the text."""
        return {"text": "New Fact: {prompt} {target}\nPrompt: {query}"}


def new_fact(request: EditRequest) -> str:
    """Return the line that says a request's new fact."""
    return f"New Fact: {stated(request.text, request.target_new)}\n"


def stated(prompt: str, target: str) -> str:
    """Return a prompt with its object."""
    return prompt + with_space(prompt, target)


def check_length(model: EditableModel, text: str, request: EditRequest, advice: str) -> None:
    """Refuse a text before prompts that leaves no room for the edited prompt and its object.

    Raises:
        EditError: with the two lengths and the advice.
    """
    asked = text + stated(request.text, request.target_new)
    tokens = len(model.tokenizer.backend_tokenizer.encode(asked).ids)
    if tokens > model.context_length:
        raise EditError(
            f"The text that is put before the prompt {request.text[:40]!r} makes {tokens} tokens with it; {model.name} "
            f"reads {model.context_length}. {advice}, or a method that changes weights."
        )


def ice(model: EditableModel, _moments: MomentSource, **changes: Any) -> Ice:
    """Return `ice` for a model; it has no settings.

    Raises:
        UsageError: a setting.
    """
    checked(IceSettings, "ice", {}, changes)
    return Ice(model)
