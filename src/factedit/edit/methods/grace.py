"""GRACE: a codebook of keys beside one matrix, whose balls defer to the model elsewhere (arXiv 2211.11031).

An entry's key is what the matrix reads at the prompt's last token, its value what makes the model give the new object,
found by Adam from the matrix's own output on.

Departures from the published program: rate and radius are relative to the norms of value and key, since absolute ones
hold for one model (`epsilon` and `relative_rate` give the published form); the value is replaced at the tokens whose
key is near, wherever they stand, and not at all tokens of a prompt whose last one is near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.codebook import Codebook
from factedit.edit.endings import Stop, ended, spoken
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.presets import RomeSettings, off, scaled_layer
from factedit.edit.presets_baselines import checked
from factedit.edit.state import State
from factedit.edit.value import Value, find_values
from factedit.edit.value_rows import PromptRow
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation


class GraceSettings(BaseModel):
    """Settings of GRACE.

    Args:
        layer: beside whose last matrix the codebook stands; None scales the published 35 of GPT-2 XL's 48.
        learning_rate: Adam's.
        relative_rate: take the learning rate times the norm of the matrix's own output.
        steps: evaluations of the loss at most.
        stop_loss: stop when the loss is below.
        epsilon: the radius of a new entry; None takes `share`.
        share: the radius as a share of the key's norm.
        stop: how the target ends: `none`, in the `end`-of-text token, or as a `sentence` (published: none).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layer: int | None = None
    learning_rate: float = Field(0.04, gt=0)
    relative_rate: bool = True
    steps: int = Field(100, ge=1)
    stop_loss: float = Field(0.01, ge=0)
    epsilon: float | None = Field(None, gt=0)
    share: float = Field(0.3, gt=0, lt=2)
    stop: Stop = Field("none", exclude_if=off)


@dataclass(frozen=True)
class Grace:
    """The method, set up for one model.

    Attributes:
        model: the model.
        settings: rate and radius.
        layer: beside whose last matrix.
    """

    model: EditableModel
    settings: GraceSettings
    layer: int
    name: str = "grace"
    paper: str = "arXiv 2211.11031"
    scope: Scope = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one codebook of one entry per request; on a model together they are put into one another.

        Raises:
            EditError: a loss, key or value that is not finite.
            RequestError: a target without tokens.
        """
        if not requests:
            return Made(())
        settings = self.settings
        given = settings.model_dump(include={"learning_rate", "relative_rate", "steps", "stop_loss"})
        how = checked(RomeSettings, self.name, {**given, "decay": 0.0, "kl": 0.0, "clamp": NO_CLAMP}, {})
        rows = [[self._row(fact, request)] for fact, request in enumerate(requests)]
        values, made_for = find_values(self.model, self.layer, requests, (), how, rows=rows), self.model.fingerprint()
        return Made(tuple(self._entry(*fact, made_for) for fact in zip(requests, values, strict=True)))

    def _row(self, fact: int, request: EditRequest) -> PromptRow:
        """Return the prompt and its object, δ at the prompt's last token."""
        ids, first = continuation(self.model, request.text, spoken(request.target_new, self.settings.stop))
        row = PromptRow(fact, 0, ids[:-1], first - 1, tuple(range(first - 1, len(ids) - 1)), ids[first:])
        return ended(self.model, row, self.settings.stop)

    def _entry(self, request: EditRequest, value: Value, made_for: str) -> Edit:
        new, size = value.initial + value.delta, float(value.key.norm())
        if not (torch.isfinite(value.key).all() and torch.isfinite(new).all()):
            raise EditError(f"The key or value of {request.text[:80]!r} is not finite; nothing is kept.")
        radius = self.settings.share * size if self.settings.epsilon is None else self.settings.epsilon
        effect = Codebook(
            self.layer, value.key[None].float(), new[None].float(), torch.tensor([radius]), (request.target_new,)
        )
        told = {"key_norm": size, "radius": radius, "losses": [list(losses) for losses in value.losses]}
        return Edit(
            method=self.name, requests=(request,), made_for=made_for, settings=self.describe(), effects=(effect,),
            notes=(Notes(diagnostics=told),), model_name=self.model.name,
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the request, as JSON values."""
        return {**self.settings.model_dump(mode="json"), "layer": self.layer}


NO_CLAMP = 1e9  # GRACE lets a value go where it will


def grace(model: EditableModel, _moments: MomentSource, **changes: Any) -> Grace:
    """Return `grace` for a model; settings as in `GraceSettings`.

    Raises:
        UsageError: settings that do not hold.
    """
    settings = checked(GraceSettings, "grace", {"layer": scaled_layer(model, 35, 48)}, changes)
    return Grace(model, settings, model.check_layer(settings.layer or 0))
