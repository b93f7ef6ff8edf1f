"""ENCORE (Gupta et al. 2025, arXiv 2502.01636): MEMIT with an early stop, a ridge and the earlier keys.

The published stop counts evaluations in which single tokens of the target are ranked first, up to a fixed number of
texts, so a target of several tokens never stops it. Here an evaluation counts where all tokens of the target are
ranked first after every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from factedit.edit.many.joint import JointMethod
from factedit.edit.many.make import make_joint
from factedit.edit.many.presets import ENCORE_PRESETS
from factedit.edit.many.settings import EncoreSettings, joint_settings
from factedit.edit.many.stops import LikelyEnough, RankedFirst
from factedit.edit.method import MomentSource
from factedit.edit.objective import MakeRule
from factedit.errors import UsageError
from factedit.models.adapter import EditableModel
from factedit.stats.penalty import MomentPenalty, Penalty
from factedit.stats.preserved import Preserved


def encore(
    model: EditableModel, moments: MomentSource, *, context_templates: Sequence[str] | None = None, **changes: Any
) -> JointMethod:
    """Make `encore` for a model; settings as in `EncoreSettings`, and `context_templates` to give them.

    Raises:
        UsageError: a damping without the λ that it is measured against.
    """
    settings = joint_settings(EncoreSettings, "encore", ENCORE_PRESETS, model, changes)
    if settings.damping and settings.weight is None:
        raise UsageError("ENCORE's damping is added to λC: give the λ (weight) too, or a ridge in its place.")

    def penalty(kept: Preserved) -> Penalty:
        mean = float(kept.moment.matrix.diagonal().mean())
        ridge = settings.damping / (settings.weight or 1.0) / mean  # of the mean eigenvalue, so that λ·ridge is it
        return MomentPenalty(kept.moment.with_ridge(settings.ridge + ridge))

    stop = settings.stop_probability
    rule: MakeRule = partial(RankedFirst, settings.stop_after) if stop is None else partial(LikelyEnough, stop)
    paper = "arXiv 2502.01636"
    return make_joint(
        "encore",
        paper,
        model,
        moments,
        settings,
        penalty=penalty,
        scale=settings.weight,
        contexts=context_templates,
        rule=rule,
    )
