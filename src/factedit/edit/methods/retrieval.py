"""Retrieval: facts are kept as text, and the nearest one is said before a prompt (arXiv 2606.00570).

The encoder is the model itself, by its mean hidden state over a text (the published program takes a sentence encoder),
or BM25 over words. One edited fact alone is always the nearest: a `threshold` keeps it from prompts that are not like
it, and with BM25 it is kept from those that share no word with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.effects.retrieved import Encoder, Retrieved, directions
from factedit.edit.method import Made, MomentSource, Scope
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

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        if not requests:
            return Made(())
        states = torch.zeros(len(requests), 0, 0)
        if self.settings.encoder == "states":
            texts = [stated(request.text, request.target_new) for request in requests]
            states = directions(self.model, texts)[:, None]
        made_for = self.model.fingerprint()
        facts = zip(requests, states, strict=True)
        return Made(tuple(self._edit(request, fact_state, made_for) for request, fact_state in facts))

    def _edit(self, request: EditRequest, state: Tensor, made_for: str) -> Edit:
        settings, fact = self.settings, new_fact(request)
        check_length(self.model, fact + CUE, request, "Use a model with a longer context")
        effect = Retrieved((fact,), CUE, settings.encoder, settings.threshold, settings.count, state)
        return Edit(
            method=self.name, requests=(request,), effects=(effect,), made_for=made_for, settings=self.describe(),
            model_name=self.model.name,
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return how facts are found."""
        return self.settings.model_dump(mode="json")


def retrieval(model: EditableModel, _moments: MomentSource, **changes: Any) -> Retrieval:
    """Return `retrieval` for a model; settings as in `RetrievalSettings`.

    Raises:
        UsageError: settings that do not hold.
    """
    return Retrieval(model, checked(RetrievalSettings, "retrieval", {}, changes))
