"""MEMIT (Meng et al. 2023, arXiv 2210.07229): least squares of the new facts against λC, over several layers.

`memit` keeps the keys of earlier batches beside λC (arXiv 2605.26670), so that a sequence ends where one batch of all
facts would; `memit-no-history` is the published method, which forgets them. `memit-rect` keeps only those entries of
each update that change most (RECT, arXiv 2401.04700).

Departures from the published program: λ follows from the share of its residual that a fact reaches, where no preset
gives it; target tokens are found in the joined text; where a norm follows the matrix, see `many/value_space.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factedit.edit.many.joint import JointMethod
from factedit.edit.many.make import make_joint
from factedit.edit.many.presets import MEMIT_PRESETS
from factedit.edit.many.settings import MemitSettings, joint_settings
from factedit.edit.method import MomentSource
from factedit.models.adapter import EditableModel

PAPER = "arXiv 2210.07229"
RECT_KEPT = 0.4


def memit(model: EditableModel, moments: MomentSource, **settings: Any) -> JointMethod:
    """Make `memit`; settings as in `MemitSettings`, and `context_templates` to give them instead of sampling."""
    return _make("memit", f"{PAPER}, history as in arXiv 2605.26670", model, moments, **settings)


def memit_no_history(model: EditableModel, moments: MomentSource, **settings: Any) -> JointMethod:
    """Make `memit-no-history`; settings as for `memit`."""
    return _make("memit-no-history", PAPER, model, moments, **{"history": False, **settings})


def memit_rect(model: EditableModel, moments: MomentSource, **settings: Any) -> JointMethod:
    """Make `memit-rect`; settings as for `memit`."""
    return _make("memit-rect", f"{PAPER}, arXiv 2401.04700", model, moments, **{"keep": RECT_KEPT, **settings})


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
    settings = joint_settings(MemitSettings, name, MEMIT_PRESETS, model, changes)
    return make_joint(name, paper, model, moments, settings, scale=settings.weight, contexts=context_templates)
