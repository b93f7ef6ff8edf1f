"""ROME's keys and values, written in one joint solve: `rome-joint`.

k* and δ are those of `rome` (arXiv 2202.05262, eq. 3 and 4), each fact's found on the model as it is; what is joint is
the insertion, ΔW = Kᵀ-combination of MEMIT's kind (arXiv 2210.07229, eq. 14), so that facts do not overwrite each other
as the sum of single insertions does. δ sits on the matrix's own output, so a norm behind it makes no difference.

With several layers each gets a δ of its own, all found together (`spread_values.py`) and written from the lowest layer
to the highest, each for the keys of the model with the layers below as already written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.low_rank import low_rank_at
from factedit.edit.experts import chosen_key, experts_of
from factedit.edit.further_rows import Neighbour, pool_at, reached
from factedit.edit.key import check_contexts, sample_contexts
from factedit.edit.many.make import check_layers
from factedit.edit.many.one_edit import begin_batch, one_edit, same_keys
from factedit.edit.many.presets import ROME_JOINT_PRESETS
from factedit.edit.many.settings import RomeJointSettings
from factedit.edit.many.solver import LayerPast, Solved, Solver, state_after, with_values
from factedit.edit.many.spread_values import find_spread_values, keys_at
from factedit.edit.many.taking_back import take_facts_back
from factedit.edit.many.write import layer_written
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.presets import rome_values
from factedit.edit.presets_baselines import checked, preset_values
from factedit.edit.standing import FactOn
from factedit.edit.state import State
from factedit.edit.value import Value, find_values, prompt_rows_of
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.preserved import preserved_at


@dataclass(frozen=True, eq=False)
class RomeJoint:
    """`rome-joint`, set up for one model.

    Attributes:
        model: the model.
        settings: with the layers decided.
        solvers: per edited layer, from the lowest to the highest.
        contexts: templates, the bare one first.
    """

    model: EditableModel
    settings: RomeJointSettings
    solvers: Mapping[int, Solver]
    contexts: tuple[str, ...]
    name: str = "rome-joint"
    paper: str = "arXiv 2202.05262, solved jointly as in arXiv 2210.07229"
    scope: Scope = "joint"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit of all requests, beside those before it.

        Raises:
            EditError: a loss or an update that is not finite; keys that depend on each other written exactly.
            RequestError: a subject or target without tokens.
        """
        if not requests:
            return Made((), state)
        base, pasts = begin_batch(
            self.model, {n: solver.preserved for n, solver in self.solvers.items()}, requests, state,
            history=self.settings.history, experts=self.settings.experts,
        )  # fmt: skip
        first = next(iter(self.solvers))
        values: dict[int, list[Value]] = {}
        solved: dict[int, Solved] = {}
        with ExitStack() as stack:
            for layer, layer_values in self._values_by_layer(requests):
                values[layer] = [
                    replace(v, key=chosen_key(self.model, layer, r, v.key, v.bare_key, self.settings.experts))
                    for r, v in zip(requests, layer_values, strict=True)
                ]
                solved[layer] = self._solve(layer, requests, values[layer], pasts[layer])
                stack.enter_context(layer_written(self.model, layer, solved[layer].change))
        keys = torch.stack([value.key for value in values[first]])
        edit = one_edit(
            self.name,
            self.model,
            requests,
            [
                effect
                for n, solution in solved.items()
                for effect in low_rank_at(self.model, n, solution.change.left.float(), solution.change.right.float())
            ],
            notes=[self._notes(fact, values, solved) for fact in range(len(requests))],
            settings=self.describe(),
            layers={n: solution.notes for n, solution in solved.items()},
            diagnostics=same_keys(keys, pasts[first].keys),
        )
        after = {n: solution.past for n, solution in solved.items()}
        return Made((edit,), state_after(base, after) if self.settings.history else None)

    def _values_by_layer(self, requests: Sequence[EditRequest]) -> Iterator[tuple[int, list[Value]]]:
        """Yield layer after layer with the values to be written there; a layer's keys are read when it is asked for."""
        model, settings, (first, *above) = self.model, self.settings, self.solvers
        rows = prompt_rows_of(model, requests, self.contexts, settings, self._reached(first, requests))
        if not above:
            yield first, find_values(model, first, requests, self.contexts, settings, rows=rows)
            return
        spread = find_spread_values(model, [first, *above], rows, settings)
        for number, layer in enumerate(self.solvers):
            keys = keys_at(model, layer, rows)
            yield layer, [value.at(number, *its) for value, its in zip(spread, keys, strict=True)]

    def _reached(self, layer: int, requests: Sequence[EditRequest]) -> list[list[Neighbour]] | None:
        """Return the other facts that the edits reach, where the settings ask for some."""
        if not self.settings.neighbours:
            return None
        pool, preserved = pool_at(self.model, layer), self.solvers[layer].preserved
        return reached(self.model, layer, requests, self.settings.neighbours, pool, preserved=preserved)

    def _solve(self, layer: int, requests: Sequence[EditRequest], values: Sequence[Value], past: LayerPast) -> Solved:
        keys = torch.stack([value.key for value in values])
        residual = self.settings.stretch * torch.stack([value.delta for value in values])
        solved = self.solvers[layer].solve(keys, residual, [request.subject for request in requests], past)
        standing = self.model.mlp(layer).product(keys) + residual
        return solved._replace(past=with_values(solved.past, standing))

    def _notes(self, fact: int, values: Mapping[int, Sequence[Value]], solved: Mapping[int, Solved]) -> Notes:
        """Return what there is to say of a fact; of several layers the last one's losses and norms."""
        last = values[list(values)[-1]][fact]
        told = {"key_norm": last.key, "value_norm": last.initial, "delta_norm": last.delta}
        losses = [list(terms) for terms in last.losses]
        experts = experts_of(self.model, [(n, values[n][fact].key, solved[n].change.left[:, fact]) for n in solved])
        return Notes(
            diagnostics={"losses": losses, **{n: float(vector.norm()) for n, vector in told.items()}, **experts}
        )

    def take_back(self, edits: Sequence[Edit], gone: Sequence[FactOn], state: State) -> Edit:
        """See `TakesBack`.

        Raises:
            EditError: settings under which no single fact can be taken back.
        """
        return take_facts_back(self.model, self.solvers, edits, gone, state)

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model, the requests and the state, as JSON values."""
        return {
            **self.settings.model_dump(mode="json", exclude={"layer"}),
            "layers": list(self.solvers),
            "context_templates": list(self.contexts),
            "second_moments": {str(n): solver.preserved.moment.fingerprint for n, solver in self.solvers.items()},
        }


def rome_joint(
    model: EditableModel, moments: MomentSource, *, context_templates: Sequence[str] | None = None, **changes: Any
) -> RomeJoint:
    """Make `rome-joint` for a model; settings as in `RomeJointSettings`, and `context_templates` to give them.

    Raises:
        UsageError: as `rome_joint_settings`; layers that do not ascend or are not there.
    """
    settings = rome_joint_settings(model, changes)
    layers = check_layers(model, settings.layers or ())
    if context_templates is None:
        context_templates = sample_contexts(
            model, settings.contexts, seed=settings.context_seed, openings=settings.context_openings
        )
    solvers = {}
    for layer in layers:
        kept = preserved_at(model, layer, moments, subject_weight=settings.subject_weight, ridge=settings.ridge)
        exact = settings.share == 1
        of_batch = settings.share_of == "batch"
        solvers[layer] = Solver(kept, kept.penalty(), None, settings.share, exact, settings.history, of_batch)
    return RomeJoint(model, settings, solvers, check_contexts(context_templates))


def rome_joint_settings(model: EditableModel, changes: Mapping[str, Any]) -> RomeJointSettings:
    """Return the settings of `rome-joint` with changes, the layers decided.

    The preset is that of `rome`, with what many facts together ask for.

    Raises:
        UsageError: a change that is no setting; `layer` beside `layers`.
    """
    values = {**rome_values(model), **preset_values(ROME_JOINT_PRESETS, model)}
    if changes.get("layer") is not None:
        if changes.get("layers") is not None:
            raise UsageError(
                f"rome-joint was given both layer {changes['layer']} and layers {changes['layers']}. Name one of them."
            )
        values["layers"] = None  # of the preset
    settings = checked(RomeJointSettings, "rome-joint", values, dict(changes))
    return settings.model_copy(update={"layers": settings.layers or (settings.layer or 0,)})
