"""EMMET (Gupta et al. 2024, arXiv 2403.14236): every value written exactly, the past moved least.

The published program softens the constraint by a ridge e for more than one fact, which makes it MEMIT with λ = w·e
(push-through identity): λ = 100 on GPT-2 XL, 0.1 on GPT-J. Here `softness` is that e, in the presets as published; it
is 0 elsewhere, which is the equality that the paper is about, and which refuses keys that depend on each other.

In a sequence the keys of earlier batches are kept beside C, which the published program does not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factedit.edit.many.joint import JointMethod
from factedit.edit.many.make import make_joint
from factedit.edit.many.presets import EMMET_PRESETS
from factedit.edit.many.settings import EmmetSettings, joint_settings
from factedit.edit.method import MomentSource
from factedit.models.adapter import EditableModel


def emmet(
    model: EditableModel, moments: MomentSource, *, context_templates: Sequence[str] | None = None, **changes: Any
) -> JointMethod:
    """Make `emmet` for a model; settings as in `EmmetSettings`, and `context_templates` to give them."""
    settings = joint_settings(EmmetSettings, "emmet", EMMET_PRESETS, model, changes, one_layer=True)
    exact = settings.softness == 0
    scale = settings.weight if exact else settings.weight * settings.softness
    paper = "arXiv 2403.14236"
    return make_joint("emmet", paper, model, moments, settings, scale=scale, exact=exact, contexts=context_templates)
