"""PRUNE (Ma et al. 2025, arXiv 2405.16821): the sum of all updates, its largest singular values cut back.

Every batch is computed as MEMIT without history would, on the weights that it would have left; what stands on the model
is the sum of these updates with singular values above the largest one of the unedited matrix grown by their logarithm
only (`many/restrain.py`). So after every batch the model is what the published program leaves when it is run once, at
the end. What was cut off is handed on, so that the next batch is computed without the cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.many.joint import JointMethod
from factedit.edit.many.make import make_joint
from factedit.edit.many.one_edit import base_of, one_edit
from factedit.edit.many.presets import MEMIT_PRESETS
from factedit.edit.many.restrain import restrain
from factedit.edit.many.settings import MemitSettings, joint_settings
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.state import State
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.families import Place

PAPER = "arXiv 2405.16821, on arXiv 2210.07229"
SUM, CUT = "sum", "cut"  # of the state: the updates so far, and what of them is not on the model


class PruneSettings(MemitSettings):
    """PRUNE's settings, those of MEMIT among them.

    Args:
        log_base: of the logarithm by which singular values grow; published: e, and 1.2 as an alternative.
    """

    history: bool = False
    log_base: float = Field(math.e, gt=1)


@dataclass(frozen=True, eq=False)
class Prune:
    """`prune`, set up for one model.

    Attributes:
        updates: makes the updates of which the sum is cut back.
        settings: with the layers decided.
    """

    updates: JointMethod
    settings: PruneSettings
    name: str = "prune"
    paper: str = PAPER
    scope: Scope = "joint"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one edit of all requests: the difference of what stood on the model and what is to stand there.

        Raises:
            EditError, RequestError, ResourceError: see `JointMethod.edit`.
        """
        if not requests:
            return Made((), state)
        model = self.updates.model
        base = base_of(model, [solver.preserved for solver in self.updates.solvers.values()], state)
        before = {} if state is None else state.tensors
        with ExitStack() as stack:
            for name, cut in before.items():
                if name.startswith(f"{CUT}."):
                    layer, which = _place(name)
                    stack.enter_context(
                        model.with_weight(layer, model.weight(layer, which) + cut.to(model.device), which)
                    )
            [made] = self.updates.edit(requests).edits
        changes, tensors, restrained = list[LowRank | Dense](), dict(before), dict[str, int]()
        for effect in made.effects:
            assert isinstance(effect, LowRank | Dense)
            change, told, restrained[_name(effect.place)] = self._restrained(model, effect, before)
            changes.append(change)
            tensors |= told
        return Made((self._edit(requests, made, changes, restrained),), State(base, tensors))

    def _restrained(
        self, model: EditableModel, effect: LowRank | Dense, before: Any
    ) -> tuple[LowRank | Dense, dict[str, Tensor], int]:
        """Return the change of a matrix, its state, and how many singular values were cut back."""
        layer, which = effect.place
        update, weight = effect.delta().to(model.device), model.weight(layer, which).float()
        nothing = torch.zeros_like(update)
        earlier, cut = (before.get(_key(what, effect.place), nothing).to(update) for what in (SUM, CUT))
        total = earlier + update
        pruned = restrain(total, weight + cut - earlier, base=self.settings.log_base)
        count = int((pruned.after != pruned.before).sum())
        now = total - pruned.left @ pruned.right if count else nothing
        state = {_key(SUM, effect.place): total.cpu(), _key(CUT, effect.place): now.cpu()}
        if not count and not cut.any():
            return effect, state, count
        return Dense(layer, update + cut - now, which), state, count

    def _edit(
        self,
        requests: Sequence[EditRequest],
        made: Edit,
        changes: Sequence[LowRank | Dense],
        restrained: dict[str, int],
    ) -> Edit:
        layers = {
            int(layer): {name: value for name, value in told.items() if name != "update_norm"}
            for layer, told in made.diagnostics["layers"].items()
        }
        told = {name: made.diagnostics[name] for name in ("missing", "same_key", "same_key_as_earlier", "same_keys")}
        return one_edit(
            self.name, self.updates.model, requests, changes, notes=made.notes, settings=self.describe(), layers=layers,
            diagnostics={**told, "restrained": restrained},
        )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model, the requests and the state, as JSON values."""
        return {**self.updates.describe(), **self.settings.model_dump(mode="json", include={"log_base"})}


def _key(what: str, place: Place) -> str:
    return f"{what}.{_name(place)}"


def _name(place: Place) -> str:
    return f"{place[0]}.{place[1]}"


def _place(key: str) -> Place:
    _, layer, which = key.split(".", 2)
    return int(layer), which


def prune(
    model: EditableModel, moments: MomentSource, *, context_templates: Sequence[str] | None = None, **changes: Any
) -> Prune:
    """Make `prune` for a model; settings as in `PruneSettings`, and `context_templates` to give them.

    Raises:
        UsageError: history, which its updates are computed without.
    """
    settings = joint_settings(PruneSettings, "prune", MEMIT_PRESETS, model, changes)
    if settings.history or settings.keep < 1:
        raise UsageError("prune cuts back the sum of MEMIT's own updates: leave history and keep out, or take memit.")
    updates = make_joint("prune", PAPER, model, moments, settings, scale=settings.weight, contexts=context_templates)
    return Prune(updates, settings)
