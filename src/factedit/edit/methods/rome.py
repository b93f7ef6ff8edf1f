"""ROME: rank-one model editing (Meng et al. 2022, arXiv 2202.05262).

`rome` uses one k*, the mean over the contexts, above and below the bar of eq. 2, which is r-ROME
(arXiv 2403.07175) and has no disabling edits; where the preset says so, C is joined by the second moment over the
names of other subjects (`stats/subjects.py`) and δ is stretched. `rome-original` computes what the published
program computes: the direction from the mean key, the denominator and W k from the bare prompt's key.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from factedit.edit.artefact import Edit, LowRank
from factedit.edit.key import check_contexts, sample_contexts
from factedit.edit.method import MomentSource
from factedit.edit.presets import RomeSettings, settings_for
from factedit.edit.updates import RankOne, insert
from factedit.edit.value import Value, find_values
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.stats.subjects import plain_name, subject_keys, subject_moment, subject_names

AFTER_VALUE = {"subject_weight": 0.0, "stretch": 1.0}  # settings of the insertion that the published program lacks


@dataclass(frozen=True)
class Rome:
    """Either variant of ROME, set up for one model.

    Attributes:
        name: `rome` or `rome-original`.
        settings: with the layer decided.
        layer: the edited layer.
        moment: C of that layer, joined by that over subjects' names where the settings say so.
        contexts: templates, the bare one first.
        bare_denominator: take the denominator with the bare prompt's key (`rome-original`).
    """

    name: str
    settings: RomeSettings
    layer: int
    moment: SecondMoment
    contexts: tuple[str, ...]
    bare_denominator: bool
    paper: str = "arXiv 2202.05262"

    def compute(self, model: EditableModel, requests: Sequence[EditRequest]) -> list[Edit]:
        """One independent edit per request (ROME eq. 2 to 4).

        Raises:
            EditError: an update that is not finite.
            RequestError: a subject or target without tokens.
        """
        return self.finish(model, requests, self.prepare(model, requests))

    @property
    def preparation(self) -> str:
        """Methods of one preparation (layer, contexts, settings) share `prepare`: both variants optimise one v*."""
        settings = self.settings.model_dump(mode="json", exclude={"ridge", *AFTER_VALUE})
        return json.dumps(["v*", self.layer, self.contexts, settings])

    def prepare(self, model: EditableModel, requests: Sequence[EditRequest]) -> list[Value]:
        """k* and v* of each request (ROME eq. 3 and 4)."""
        return find_values(model, self.layer, requests, self.contexts, self.settings)

    def finish(self, model: EditableModel, requests: Sequence[EditRequest], prepared: Sequence[Value]) -> list[Edit]:
        """The insertion of each (ROME eq. 2)."""
        if not requests:
            return []
        solved = self._solve(model, requests, torch.stack([value.key for value in prepared]))
        norm = float(model.weight(self.layer).float().norm())
        return [self._edit(model, *own, norm) for own in zip(requests, prepared, solved, strict=True)]

    def _edit(self, model: EditableModel, request: EditRequest, value: Value, solved: Tensor, norm: float) -> Edit:
        # v* = W k + δ, with W k taken at the same key as the denominator, so that v* − W k = δ in both variants
        key = value.bare_key if self.bare_denominator else value.key
        change = insert(solved, key, self.settings.stretch * value.delta)
        left, right = change.direction[:, None], (change.residual / change.denominator)[None]
        return Edit(
            method=self.name,
            requests=(request,),
            changes=(LowRank(self.layer, left, right),),
            settings=self.describe(),
            diagnostics=self._diagnostics(value, key, solved, change) | {"weight_norm": norm},
            model_name=model.name,
        )

    def _solve(self, model: EditableModel, requests: Sequence[EditRequest], keys: Tensor) -> Tensor:
        """C⁻¹k* of each, `[requests, d_mlp]`; a subject that is one of the names in C is left out of it."""
        names = subject_names() if self.settings.subject_weight else {}
        own = {n: names[plain] for n, r in enumerate(requests) if (plain := plain_name(r.subject)) in names}
        if not own:
            return self.moment.solve(keys)
        share = (self.settings.subject_weight / len(names)) ** 0.5
        left_out = torch.zeros_like(keys)
        left_out[list(own)] = share * subject_keys(model, self.layer, [("{}", name) for name in own.values()]).to(keys)
        return self.moment.solve_without(keys, left_out)

    def describe(self) -> dict[str, Any]:
        """Everything that decides an edit beside the model and the request, as JSON values."""
        return {
            **self.settings.model_dump(mode="json"),
            "layer": self.layer,
            "context_templates": list(self.contexts),
            "second_moment": self.moment.fingerprint,
        }

    def _diagnostics(self, value: Value, key: Tensor, solved: Tensor, change: RankOne) -> dict[str, Any]:
        return {
            "key_norm": float(value.key.norm()),
            "value_norm": float(value.initial.norm()),
            "residual_norm": float(change.residual.norm()),
            "denominator": change.denominator,
            "spill": float((solved @ value.key.double()).sqrt() / (solved @ key.double()).abs()),
            "update_norm": float(change.direction.norm() * change.residual.norm() / abs(change.denominator)),
            "losses": [list(losses) for losses in value.losses],
            "second_moment": {
                "corpus": self.moment.corpus,
                "tokens": self.moment.tokens,
                "ridge": self.moment.ridge_used,
                "condition": self.moment.condition,
                "fingerprint": self.moment.fingerprint,
            },
        }


def rome(model: EditableModel, moments: MomentSource, **settings: Any) -> Rome:
    """`rome` for a model; settings as in `RomeSettings`, and `context_templates` to give them instead of sampling."""
    return _make("rome", False, model, moments, **settings)


def rome_original(model: EditableModel, moments: MomentSource, **settings: Any) -> Rome:
    """`rome-original` for a model; settings as for `rome`, without a preset's `subject_weight` and `stretch`."""
    return _make("rome-original", True, model, moments, **AFTER_VALUE | settings)


def _make(
    name: str,
    bare_denominator: bool,
    model: EditableModel,
    moments: MomentSource,
    *,
    context_templates: Sequence[str] | None = None,
    **changes: Any,
) -> Rome:
    settings = settings_for(model, **changes)
    layer = model.check_layer(settings.layer or 0)
    if context_templates is None:
        contexts = sample_contexts(
            model, settings.contexts, seed=settings.context_seed, openings=settings.context_openings
        )
    else:
        contexts = check_contexts(context_templates)
    moment = moments(model, layer)
    if settings.subject_weight:
        moment = moment.plus(subject_moment(model, layer), settings.subject_weight)
    moment = moment.with_ridge(settings.ridge)
    return Rome(name, settings, layer, moment, contexts, bare_denominator)
