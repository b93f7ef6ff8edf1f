"""ROME: rank-one model editing (Meng et al. 2022, arXiv 2202.05262).

`rome` uses one k*, the mean over the contexts, above and below the bar of eq. 2, which is r-ROME
(arXiv 2403.07175) and has no disabling edits; where the preset says so, C is joined by the second moment over the
names of other subjects (`stats/subjects.py`) and δ is stretched. `rome-original` computes what the published
program computes: the direction from the mean key, the denominator and W k from the bare prompt's key.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.low_rank import low_rank_at
from factedit.edit.experts import chosen_key, experts_of
from factedit.edit.further_rows import Pool, pool_at, reached
from factedit.edit.key import check_contexts, sample_contexts
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.presets import RomeSettings, settings_for
from factedit.edit.state import State
from factedit.edit.updates import RankOne, insert
from factedit.edit.value import Value, find_values
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.preserved import Preserved, preserved_at

AFTER_VALUE = {"subject_weight": 0.0, "stretch": 1.0}  # settings of the insertion that the published program lacks


class FromValues(ABC):
    """A method that makes one edit of every fact from ROME's k* and v*; see `TwoStep`.

    Attributes:
        model: the model.
        settings: ROME's, with the layer decided.
        layer: whose last matrix.
        contexts: templates, the bare one first.
        preserved: C of that layer, where the method has one.
    """

    model: EditableModel
    settings: RomeSettings
    layer: int
    contexts: tuple[str, ...]
    preserved: Preserved | None

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one independent edit per request (ROME eq. 2 to 4).

        Raises:
            EditError: an update, key or value that is not finite.
            RequestError: a subject or target without tokens.
        """
        return self.finish(requests, self.prepare(requests))

    @property
    def preparation(self) -> str:
        """What decides k* and v*, by name: methods that have it in common share `prepare`."""
        decides = self.settings.model_dump(mode="json", exclude={"ridge", *AFTER_VALUE})
        chosen = [self.chosen_by] if self.settings.neighbours else []
        return json.dumps(["v*", self.layer, list(self.contexts), decides, *chosen])

    @property
    def chosen_by(self) -> str:
        """What says which other facts an edit reaches."""
        return "" if self.preserved is None else self.preserved.moment.fingerprint

    def prepare(self, requests: Sequence[EditRequest]) -> list[Value]:
        """Return k* and v* of each request (ROME eq. 3 and 4)."""
        count, near = self.settings.neighbours, None
        if count:
            near = reached(self.model, self.layer, requests, count, self._pool, preserved=self.preserved)
        return find_values(self.model, self.layer, requests, self.contexts, self.settings, neighbours=near)

    @cached_property
    def _pool(self) -> Pool:
        return pool_at(self.model, self.layer)

    @abstractmethod
    def finish(self, requests: Sequence[EditRequest], prepared: Sequence[Value]) -> Made:
        """Return the edit of each from its k* and v*."""


@dataclass(frozen=True)
class Rome(FromValues):
    """Either variant of ROME, set up for one model.

    Attributes:
        name: `rome` or `rome-original`.
        model: the model.
        settings: with the layer decided.
        layer: the edited layer.
        preserved: C of that layer, joined by that over subjects' names where the settings say so.
        contexts: templates, the bare one first.
        bare_denominator: take the denominator with the bare prompt's key (`rome-original`).
    """

    name: str
    model: EditableModel
    settings: RomeSettings
    layer: int
    preserved: Preserved
    contexts: tuple[str, ...]
    bare_denominator: bool
    paper: str = "arXiv 2202.05262"
    scope: Scope = "each"

    def finish(self, requests: Sequence[EditRequest], prepared: Sequence[Value]) -> Made:
        """Return the insertion of each (ROME eq. 2)."""
        if not requests:
            return Made(())
        prepared = [self._with_chosen(request, value) for request, value in zip(requests, prepared, strict=True)]
        keys = torch.stack([value.key for value in prepared])
        solved = self.preserved.solve(keys, subjects=[request.subject for request in requests])
        norm, made_for = self.model.mlp(self.layer).norm, self.model.fingerprint()
        facts = zip(requests, prepared, solved, strict=True)
        return Made(tuple(self._insertion(*fact, norm, made_for) for fact in facts))

    def _with_chosen(self, request: EditRequest, value: Value) -> Value:
        """The value with the keys of the experts that are edited."""
        choose = partial(chosen_key, self.model, self.layer, request, bare=value.bare_key, choice=self.settings.experts)
        return replace(value, key=choose(key=value.key))

    def _insertion(self, request: EditRequest, value: Value, solved: Tensor, norm: float, made_for: str) -> Edit:
        # v* = W k + δ, with W k taken at the same key as the denominator, so that v* − W k = δ in both variants
        key = value.bare_key if self.bare_denominator else value.key
        change = insert(solved, key, self.settings.stretch * value.delta)
        left, right = change.direction[:, None], (change.residual / change.denominator)[None]
        size = float(change.direction.norm() * change.residual.norm() / abs(change.denominator))
        return Edit(
            method=self.name,
            requests=(request,),
            effects=tuple(low_rank_at(self.model, self.layer, left, right)),
            made_for=made_for,
            notes=(Notes(diagnostics=self._diagnostics(value, key, solved, change)),),
            settings=self.describe(),
            diagnostics={"update_norm": size, "weight_norm": norm},
            model_name=self.model.name,
        )

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the request, as JSON values."""
        return {
            **self.settings.model_dump(mode="json"),
            "layer": self.layer,
            "context_templates": list(self.contexts),
            "second_moment": self.preserved.moment.fingerprint,
        }

    def _diagnostics(self, value: Value, key: Tensor, solved: Tensor, change: RankOne) -> dict[str, Any]:
        moment = self.preserved.moment
        return {
            "key_norm": float(value.key.norm()),
            "value_norm": float(value.initial.norm()),
            "residual_norm": float(change.residual.norm()),
            "denominator": change.denominator,
            "spill": float((solved @ value.key.double()).sqrt() / (solved @ key.double()).abs()),
            "losses": [list(losses) for losses in value.losses],
            **experts_of(self.model, [(self.layer, key, change.direction)]),
            "second_moment": {
                "corpus": moment.corpus,
                "tokens": moment.tokens,
                "ridge": moment.ridge_used,
                "condition": moment.condition,
                "fingerprint": moment.fingerprint,
            },
        }


def rome(model: EditableModel, moments: MomentSource, **settings: Any) -> Rome:
    """Make `rome` for a model; settings as in `RomeSettings`, and `context_templates` to give them, not sampled."""
    return _make("rome", False, model, moments, **settings)


def rome_original(model: EditableModel, moments: MomentSource, **settings: Any) -> Rome:
    """Make `rome-original` for a model; settings as for `rome`, without a preset's `subject_weight` and `stretch`."""
    return _make("rome-original", True, model, moments, **AFTER_VALUE | settings)


def _make(
    name: str,
    bare_denominator: bool,
    model: EditableModel,
    moments: MomentSource,
    /,
    *,
    context_templates: Sequence[str] | None = None,
    **changes: Any,
) -> Rome:
    settings = settings_for(model, **changes)
    layer, contexts = model.check_layer(settings.layer or 0), contexts_for(model, settings, context_templates)
    preserved = preserved_at(model, layer, moments, subject_weight=settings.subject_weight, ridge=settings.ridge)
    return Rome(name, model, settings, layer, preserved, contexts, bare_denominator)


def contexts_for(model: EditableModel, settings: RomeSettings, given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the contexts of k* and v*, the bare one first: those given, else sampled ones.

    Raises:
        UsageError: a template without exactly one `{}`.
    """
    if given is not None:
        return check_contexts(given)
    return sample_contexts(model, settings.contexts, seed=settings.context_seed, openings=settings.context_openings)
