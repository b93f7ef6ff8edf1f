"""One Edit of many facts: its effects and what there is to say about it, whatever the method."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from factedit.edit.artefact import Edit, Notes
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.experts import EditedExperts
from factedit.edit.many.conflicts import near_keys
from factedit.edit.many.prompts import Prompts
from factedit.edit.many.solver import LayerPast
from factedit.edit.state import State
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.preserved import Preserved

PAIRS_TOLD = 20  # of facts with one key
Pairs = Sequence[Sequence[int]]
logger = logging.getLogger("factedit")


def one_edit(
    method: str,
    model: EditableModel,
    requests: Sequence[EditRequest],
    effects: Sequence[LowRank | Dense],
    *,
    notes: Sequence[Notes],
    settings: dict[str, Any],
    layers: Mapping[int, dict[str, Any]] | None = None,
    diagnostics: dict[str, Any] | None = None,
) -> Edit:
    """Return the edit of all requests, made for the model as it is.

    Args:
        method: its name.
        model: the model.
        requests: the facts.
        effects: what changes, one per matrix.
        notes: one per request.
        settings: all settings in force.
        layers: per edited layer what the method measured.
        diagnostics: of the whole.
    """
    norms = [update_norm(effect) for effect in effects]
    told: dict[str, dict[str, Any]] = {str(layer): dict(of_layer) for layer, of_layer in (layers or {}).items()}
    for effect, norm in zip(effects, norms, strict=True):
        of_layer = told.setdefault(str(effect.layer), {})
        of_layer["update_norm"] = math.hypot(of_layer.get("update_norm", 0.0), norm)  # of all its experts
    weights = [model.matrix(*effect.place).norm for effect in effects]
    return Edit(
        method=method,
        requests=tuple(requests),
        effects=tuple(effects),
        made_for=model.fingerprint(),
        notes=tuple(notes),
        settings=settings,
        diagnostics={
            "update_norm": sum(norm**2 for norm in norms) ** 0.5,
            "weight_norm": sum(norm**2 for norm in weights) ** 0.5,
            "layers": told,
            **(diagnostics or {}),
        },
        model_name=model.name,
    )


def update_norm(effect: LowRank | Dense) -> float:
    """Return ‖ΔW‖; of a product from its factors, as the root of tr(LᵀL RRᵀ)."""
    factors = effect.factors()
    if factors is None:
        return float(effect.delta().norm())
    left, right = (factor.double() for factor in factors)
    return float(((left.T @ left) * (right @ right.T)).sum().clamp(min=0).sqrt())


def base_of(model: EditableModel, preserved: Sequence[Preserved], state: State | None) -> str:
    """Return the fingerprint of the unedited model that a sequence began with.

    Raises:
        EditError: the history is of another base than C, or than the model where C names none.
    """
    if state is None:
        return model.fingerprint()
    named = {each.moment.model for each in preserved} - {""}
    known = named - {state.base}
    if not named:
        with model.with_first_changes(0):
            known = {model.fingerprint()} - {state.base}
        if known:
            raise EditError(
                f"The history belongs to the base {state.base[:12]}…, and the model without its edits has "
                f"{min(known)[:12]}…. Give the model that the sequence began with, its edits put on by factedit."
            )
    if known:
        raise EditError(
            f"The history belongs to the base {state.base[:12]}…, the second moments to {sorted(known)[0][:12]}…. "
            "C must stay that of the unedited model: make the method for the base that the sequence began with."
        )
    return state.base


class Begun(NamedTuple):
    """What a batch begins with.

    Attributes:
        base: fingerprint of the unedited model that the sequence began with.
        pasts: what earlier batches left, per edited layer, from the lowest to the highest.
    """

    base: str
    pasts: dict[int, LayerPast]


def begin_batch(
    model: EditableModel,
    kept: Mapping[int, Preserved],
    requests: Sequence[EditRequest],
    state: State | None,
    *,
    history: bool,
    experts: EditedExperts,
) -> Begun:
    """Return what a batch begins with; facts that have nearly one key are told of, before any value is sought.

    Args:
        model: the model as it is.
        kept: what must stay, per edited layer, from the lowest to the highest.
        requests: the facts.
        state: what earlier batches left; None before the first.
        history: whether their keys are kept beside C.
        experts: see `edit/experts.py`.

    Raises:
        EditError: the history is of another base than C, or of other layers.
    """
    base = base_of(model, list(kept.values()), state)
    pasts = {layer: LayerPast.of(model, layer, state if history else None) for layer in kept}
    first = next(iter(pasts))
    warn_of_near(model, first, requests, pasts[first].keys, experts=experts)
    return Begun(base, pasts)


def warn_of_near(
    model: EditableModel,
    layer: int,
    requests: Sequence[EditRequest],
    earlier: Tensor,
    *,
    experts: EditedExperts = "each",
) -> None:
    """Say, before any value is sought, which facts have nearly one key in their bare prompts.

    Of different values at such a key only the mean can be written.

    Args:
        model: the model as it is.
        layer: the first edited one.
        requests: the facts.
        earlier: keys of the facts before, `[N, d_mlp]`.
        experts: see `edit/experts.py`.
    """
    prompts = Prompts(model, requests, [["{}"]], layer, experts=experts)
    tell_near(requests, *near_keys(prompts.see(layer, layer).keys, earlier))


def tell_near(
    requests: Sequence[EditRequest], within: Sequence[Sequence[int]], across: Sequence[Sequence[int]]
) -> None:
    """Say which facts have nearly one key: pairs within the batch, and pairs of a fact of it and one before it."""
    for first, second in within[:PAIRS_TOLD]:
        logger.warning(
            "%r and %r have nearly the same key: of different values only the mean can be written.",
            requests[first].text,
            requests[second].text,
        )
    for fact, before in across[:PAIRS_TOLD]:
        logger.warning(
            "%r has nearly the same key as fact %d of those before: of different values the mean is left.",
            requests[fact].text,
            before,
        )
    rest = len(within) + len(across) - len(within[:PAIRS_TOLD]) - len(across[:PAIRS_TOLD])
    if rest:
        logger.warning("%d more pairs of facts have nearly the same key.", rest)


def same_keys(keys: Tensor, earlier: Tensor) -> dict[str, Any]:
    """Return which facts have nearly one key, over all contexts, as diagnostics."""
    within, across = near_keys(keys, earlier)
    return {
        "same_key": within[:PAIRS_TOLD],
        "same_key_as_earlier": across[:PAIRS_TOLD],
        "same_keys": len(within) + len(across),
    }
