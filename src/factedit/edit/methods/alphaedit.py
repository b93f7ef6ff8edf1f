"""AlphaEdit (Fang et al. 2025, arXiv 2410.02355): changes confined to the null space of C, beside the earlier keys.

In the coordinates of the null space it is ridge regression without λC: ΔW = R K̃ᵀ(K̃K̃ᵀ + H̃H̃ᵀ + L2·I)⁻¹Uᵀ, K̃ = UᵀK.
`alphaedit-no-history` forgets the earlier keys, which tells what the null space does without them.
`alphaedit-nas` gives the values the norm that they have on average (NAS, arXiv 2602.02543).

Departures from the published program: everything is solved in float64 in that symmetric form (the program solves a
non-symmetric one in float32); the null space and L2 follow from shares where no preset gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factedit.edit.many.joint import JointMethod
from factedit.edit.many.make import make_joint
from factedit.edit.many.presets import ALPHAEDIT_PRESETS
from factedit.edit.many.settings import AlphaEditSettings, joint_settings
from factedit.edit.method import MomentSource
from factedit.models.adapter import EditableModel
from factedit.stats.penalty import Penalty
from factedit.stats.preserved import Preserved

PAPER = "arXiv 2410.02355"


def alphaedit(model: EditableModel, moments: MomentSource, **settings: Any) -> JointMethod:
    """Make `alphaedit`; settings as in `AlphaEditSettings`, and `context_templates` to give them, not sampled."""
    return _make("alphaedit", PAPER, model, moments, **settings)


def alphaedit_no_history(model: EditableModel, moments: MomentSource, **settings: Any) -> JointMethod:
    """Make `alphaedit-no-history`; settings as for `alphaedit`."""
    return _make("alphaedit-no-history", PAPER, model, moments, **{"history": False, **settings})


def alphaedit_nas(model: EditableModel, moments: MomentSource, **settings: Any) -> JointMethod:
    """Make `alphaedit-nas`; settings as for `alphaedit`."""
    return _make("alphaedit-nas", f"{PAPER}, arXiv 2602.02543", model, moments, **{"anchored": True, **settings})


def _make(
    name: str,
    paper: str,
    model: EditableModel,
    moments: MomentSource,
    /,
    *,
    context_templates: Sequence[str] | None = None,
    **changes: Any,
) -> JointMethod:
    settings = joint_settings(AlphaEditSettings, name, ALPHAEDIT_PRESETS, model, changes)

    def penalty(kept: Preserved) -> Penalty:
        energy = settings.energy if settings.threshold is None else None
        return kept.null_space(threshold=settings.threshold, energy=energy)

    return make_joint(
        name, paper, model, moments, settings, penalty=penalty, scale=settings.l2, contexts=context_templates
    )
