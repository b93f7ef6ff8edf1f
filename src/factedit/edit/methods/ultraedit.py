"""UltraEdit (Gu et al. 2025, arXiv 2505.14679): no subject, no optimisation; one gradient, normalised, one ridge solve.

A turn is one call: its facts are sorted by falling length and their gradients taken in batches, which are part of the
method. The normaliser goes on from turn to turn; keys are not remembered.

Departures from the published program: the ridge solve is in float64 (there float32); the rate, where no preset gives
it, is the one at which a row changes its matrix's output by as much as on Llama 3 8B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from factedit.edit.artefact import Notes
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.many.gradients import GradientNormaliser, Rows, gradient_rows, observed, ridge_change, shape_name
from factedit.edit.many.one_edit import one_edit
from factedit.edit.many.presets import ULTRAEDIT_PRESETS
from factedit.edit.many.settings import UltraEditSettings, default_layers
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.presets_baselines import checked, preset_values
from factedit.edit.state import State
from factedit.edit.target_rows import target_row
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.families import Place

SIZE = 1e-6 * 4096 * 14336**0.5  # rate · d_in · √d_out of the published file for Llama 3 8B's gates


@dataclass(frozen=True, eq=False)
class UltraEdit:
    """`ultraedit`, set up for one model.

    Attributes:
        model: the model.
        settings: with the matrices decided.
        places: the matrices, in the order of their turns.
    """

    model: EditableModel
    settings: UltraEditSettings
    places: tuple[Place, ...]
    name: str = "ultraedit"
    paper: str = "arXiv 2505.14679"
    scope: Scope = "joint"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit of all requests, with the normaliser of the turns before.

        Raises:
            EditError: gradients that are not finite; a state of other matrices.
            RequestError: a target without tokens.
        """
        if not requests:
            return Made((), state)
        model = self.model
        base = model.fingerprint() if state is None else state.base
        rows = [target_row(model, request.text, request.target_new) for request in requests]
        order = sorted(range(len(rows)), key=lambda n: -len(rows[n].ids))
        normalisers = self._normalisers(state)
        seen: dict[Place, list[Rows]] = {place: [] for place in self.places}
        for begin in range(0, len(order), self.settings.batch):
            batch = gradient_rows(model, [rows[n] for n in order[begin : begin + self.settings.batch]], self.places)
            normalisers = observed(normalisers, batch)
            for place, gradients in batch.items():
                seen[place].append(gradients)
        effects = [self._effect(place, parts, normalisers) for place, parts in seen.items()]
        edit = one_edit(
            self.name,
            model,
            requests,
            effects,
            notes=[Notes(diagnostics={"target_tokens": len(row.targets)}) for row in rows],
            settings=self.describe(),
            diagnostics={"rows_seen": {name: normaliser.count for name, normaliser in normalisers.items()}},
        )
        return Made((edit,), State(base, _tensors(normalisers)))

    def _effect(self, place: Place, seen: Sequence[Rows], normalisers: Mapping[str, GradientNormaliser]) -> LowRank:
        rows = Rows(*(torch.cat(parts) for parts in zip(*seen, strict=True)))
        d_in, d_out = rows.inputs.shape[1], rows.slopes.shape[1]
        rate = self.settings.learning_rate or SIZE / (d_in * d_out**0.5)
        left, right = ridge_change(rows, normalisers[shape_name(rows)], rate)
        if not (torch.isfinite(left).all() and torch.isfinite(right).all()):
            raise EditError(
                f"The gradients at the matrix {place[1]!r} of layer {place[0]} are not finite; the model is unchanged. "
                "Check the weights for NaN."
            )
        return LowRank(place[0], left.float(), right.float(), place[1])

    def _normalisers(self, state: State | None) -> dict[str, GradientNormaliser]:
        """Return the normalisers that the turns before left.

        Raises:
            EditError: they are of other shapes.
        """
        shapes = {f"{a}x{b}": a + b for a, b in (self.model.matrix(*place).shape for place in self.places)}
        if state is None or not state.tensors:
            return {name: GradientNormaliser.empty(width, self.model.device) for name, width in shapes.items()}
        normalisers = {}
        for name, width in shapes.items():
            count, mean, total = (state.tensors.get(f"{part}.{name}") for part in ("count", "mean", "total"))
            if count is None or mean is None or total is None or mean.shape != (width,) or total.shape != (width,):
                raise EditError(
                    f"The sequence's state has no normaliser of matrices {name}; it holds {sorted(state.tensors)}. "
                    "It was left by another method or for other matrices."
                )
            normalisers[name] = GradientNormaliser(
                float(count), mean.to(self.model.device), total.to(self.model.device)
            )
        return normalisers

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model, the requests and the state, as JSON values."""
        return {**self.settings.model_dump(mode="json"), "matrices": [list(place) for place in self.places]}


def _tensors(normalisers: Mapping[str, GradientNormaliser]) -> dict[str, Tensor]:
    held: dict[str, Tensor] = {}
    for name, normaliser in normalisers.items():
        held[f"count.{name}"] = torch.tensor([normaliser.count], dtype=torch.float64)
        held[f"mean.{name}"], held[f"total.{name}"] = normaliser.mean, normaliser.total
    return held


def ultraedit(model: EditableModel, _moments: MomentSource, **changes: Any) -> UltraEdit:
    """Make `ultraedit` for a model; settings as in `UltraEditSettings`.

    Raises:
        UsageError: matrices that the model does not have, or one twice.
    """
    default = [(layer, "out") for layer in default_layers(model)]
    values = {"matrices": default, **preset_values(ULTRAEDIT_PRESETS, model)}
    settings = checked(UltraEditSettings, "ultraedit", values, changes)
    places = tuple(settings.matrices)
    for layer, which in places:
        model.matrix(layer, which)
    if not places or len(set(places)) != len(places):
        raise UsageError(f"UltraEdit needs matrices to edit, each named once; found {[list(p) for p in places]}.")
    return UltraEdit(model, settings, places)
