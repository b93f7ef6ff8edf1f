"""PMET (Li et al. 2024, arXiv 2308.08742): values for the MLP's and the attention's output; the MLP's is written.

Its part for each layer is the root of MEMIT's, and its values are those of the matrix itself, so nothing stands between
them and the change where a norm follows the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from factedit.edit.many.joint import JointMethod, Values
from factedit.edit.many.make import make_contexts, make_solvers
from factedit.edit.many.presets import PMET_PRESETS
from factedit.edit.many.settings import PmetSettings, joint_settings
from factedit.edit.many.stops import KeepEssence
from factedit.edit.many.two_values import find_two_values
from factedit.edit.many.write import root_parts
from factedit.edit.method import MomentSource
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.preserved import Preserved


@dataclass(frozen=True, eq=False)
class PmetValues:
    """PMET's values of facts; attributes as in `find_two_values`."""

    model: EditableModel
    layer: int
    contexts: Sequence[str]
    settings: PmetSettings

    def __call__(self, requests: Sequence[EditRequest]) -> Values:
        """Return the values of these facts on the model as it is."""
        values = find_two_values(self.model, self.layer, requests, self.contexts, self.settings, rule=KeepEssence)
        targets, deltas = (torch.stack([getattr(value, name) for value in values]) for name in ("target", "delta"))
        return Values(targets, deltas, [value.losses for value in values], reading="value")


def pmet(
    model: EditableModel, moments: MomentSource, *, context_templates: Sequence[str] | None = None, **changes: Any
) -> JointMethod:
    """Make `pmet` for a model; settings as in `PmetSettings`, and `context_templates` to give them."""
    settings = joint_settings(PmetSettings, "pmet", PMET_PRESETS, model, changes)
    contexts = make_contexts(model, settings, context_templates)
    exact = settings.weight is None and settings.share == 1
    solvers = make_solvers(model, moments, settings, Preserved.penalty, settings.weight, exact=exact)
    find = PmetValues(model, list(solvers)[-1], contexts, settings)
    return JointMethod("pmet", "arXiv 2308.08742", model, settings, solvers, contexts, find, root_parts)
