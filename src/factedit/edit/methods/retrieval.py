"""Retrieval: facts are kept as text, and the nearest one is said before a prompt (arXiv 2606.00570).

The encoder is the model itself, by its mean hidden state over a text (the published program takes a sentence encoder),
or BM25 over words. One edited fact alone is always the nearest: a `threshold` keeps it from prompts that are not like
it, and with BM25 it is kept from those that share no word with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from factedit.edit.effects.retrieved import Encoder, Retrieved, directions
from factedit.edit.method import Made, MomentSource, Scope, edits_of_effects
from factedit.edit.methods.ice import CUE, check_length, new_fact, stated
from factedit.edit.presets_baselines import checked
from factedit.edit.state import State
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


class RetrievalSettings(BaseModel):
    """Settings of retrieval.

    Args:
        encoder: how facts are found: `states` (the model's own mean hidden state) or `bm25`.
        threshold: the cosine (or BM25 score) above which a fact is said.
        count: how many facts are said at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    encoder: Encoder = "states"
    threshold: float = Field(0.0, ge=0)
    count: int = Field(1, ge=1)


@dataclass(frozen=True)
class Retrieval:
    """The method, set up for one model.

    Attributes:
        model: the model.
        settings: how facts are found.
    """

    model: EditableModel
    settings: RetrievalSettings
    name: str = "retrieval"
    paper: str = "arXiv 2606.00570"
    scope: Scope = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit per request: its fact as a text to be found.

        Raises:
            EditError: the edited prompt with that text is longer than the context.
            RequestError: a request that the model cannot read.
        """
        effects = looked_up(self.model, requests, self.settings, new_fact, cue=CUE)
        return edits_of_effects(self.name, self.model, requests, effects, self.describe())

    def describe(self) -> dict[str, Any]:
        """Return how facts are found."""
        return self.settings.model_dump(mode="json")


def looked_up(
    model: EditableModel,
    requests: Sequence[EditRequest],
    settings: RetrievalSettings,
    say: Callable[[EditRequest], str],
    *,
    cue: str,
) -> list[Retrieved]:
    """Return per request its fact as a text to be found.

    Args:
        model: whose states a fact is found by, with the encoder `states`.
        requests: the facts.
        settings: how they are found.
        say: gives a fact's text.
        cue: what leads over to a prompt.

    Raises:
        EditError: an edited prompt with its fact before it is longer than the context.
        RequestError: a request that the model cannot read.
    """
    if not requests:
        return []
    states = torch.zeros(len(requests), 0, 0)
    if settings.encoder == "states":
        states = directions(model, [stated(request.text, request.target_new) for request in requests])[:, None]
    for request in requests:
        check_length(model, new_fact(request) + CUE, request, "Use a model with a longer context")
    how = settings.encoder, settings.threshold, settings.count
    return [Retrieved((say(request),), cue, *how, state) for request, state in zip(requests, states, strict=True)]


def retrieval(model: EditableModel, _moments: MomentSource, **changes: Any) -> Retrieval:
    """Return `retrieval` for a model; settings as in `RetrievalSettings`.

    Raises:
        UsageError: settings that do not hold.
    """
    return Retrieval(model, checked(RetrievalSettings, "retrieval", {}, changes))
