"""A memory beside a matrix: ROME's k* and v* kept as they are, the value added where a key is like k*.

After NeuralDB (ICLR 2026). No C is needed: what is no fact of the memory is kept by the gate, and not by a solve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.memory import Memory
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.methods.rome import FromValues, contexts_for
from factedit.edit.presets import RomeSettings, settings_for
from factedit.edit.value import Value
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

GAMMA = 0.65  # NeuralDB's


@dataclass(frozen=True)
class GatedMemory(FromValues):
    """The method, set up for one model; it shares k* and v* with `rome`.

    Attributes:
        model: the model.
        settings: ROME's, with the layer decided.
        layer: beside whose last matrix the memory stands.
        contexts: templates, the bare one first.
        gamma: the cosine above which a fact's value is added.
    """

    model: EditableModel
    settings: RomeSettings
    layer: int
    contexts: tuple[str, ...]
    gamma: float
    name: str = "memory"
    paper: str = "after NeuralDB (ICLR 2026)"
    preserved: None = None  # the gate keeps what is no fact of the memory
    scope: Scope = "each"

    def finish(self, requests: Sequence[EditRequest], prepared: Sequence[Value]) -> Made:
        """Return each as a memory of one fact."""
        made_for = self.model.fingerprint() if requests else ""
        return Made(tuple(self._kept(*fact, made_for) for fact in zip(requests, prepared, strict=True)))

    def _kept(self, request: EditRequest, value: Value, made_for: str) -> Edit:
        residual = self.settings.stretch * value.delta
        if not (torch.isfinite(value.key).all() and torch.isfinite(residual).all()):
            raise EditError(f"The key or value of {request.text[:80]!r} is not finite; nothing is kept.")
        told = {
            "key_norm": float(value.key.norm()),
            "residual_norm": float(residual.norm()),
            "cosine_of_bare_key": float(torch.cosine_similarity(value.key, value.bare_key, dim=0)),
            "losses": [list(losses) for losses in value.losses],
        }
        return Edit(
            method=self.name, requests=(request,), made_for=made_for, settings=self.describe(),
            effects=(Memory(self.layer, value.key[None].float(), residual[None].float(), self.gamma),),
            notes=(Notes(diagnostics=told),), model_name=self.model.name,
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the request, as JSON values."""
        settings = self.settings.model_dump(mode="json", exclude={"ridge", "subject_weight"})
        return {**settings, "layer": self.layer, "context_templates": list(self.contexts), "gamma": self.gamma}


def memory(
    model: EditableModel,
    _moments: MomentSource,
    *,
    gamma: float | None = None,
    context_templates: Sequence[str] | None = None,
    **changes: Any,
) -> GatedMemory:
    """Return `memory` for a model; settings as in `RomeSettings`, and `gamma`.

    Raises:
        UsageError: a setting that does not hold.
    """
    gamma = GAMMA if gamma is None else gamma
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma < 1:
        raise UsageError(f"The gamma {gamma!r} of memory must lie between 0 and 1: the cosine above which it opens.")
    settings = settings_for(model, **changes)
    layer = model.check_layer(settings.layer or 0)
    model.matrix(layer)  # a memory stands beside one matrix: a layer of experts is refused
    return GatedMemory(model, settings, layer, contexts_for(model, settings, context_templates), float(gamma))
