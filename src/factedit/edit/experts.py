"""Which of a layer's experts a fact is written into: those that get the subject's last token.

The key of a layer's experts together (`models/experts.py`) is the mean over the contexts, so an expert that the subject
is sent to in some contexts only has its share of it, and of the change. That is the default; a fact may also be written
into the experts of its bare prompt alone, or be refused where contexts go elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

EditedExperts = Literal["each", "bare", "refuse"]
logger = logging.getLogger("factedit")


def usual(choice: Any) -> bool:
    """Return whether the choice is the default, which is left out of what is kept."""
    return bool(choice == "each")


def chosen_key(
    model: EditableModel, layer: int, request: EditRequest, key: Tensor, bare: Tensor, choice: EditedExperts
) -> Tensor:
    """Return the key with the parts of those experts alone that are to be edited; as it is where there are none.

    Args:
        model: the model.
        layer: the edited layer.
        request: whose key, for messages.
        key: the mean over the contexts, `[width]`.
        bare: in the bare prompt, `[width]`.
        choice: `each`: every expert that any context sends the subject's last token to; `bare`: those of the bare
            prompt; `refuse`: the same, and all contexts must agree.

    Raises:
        EditError: contexts that do not agree, where that is refused.
    """
    mixture = model.mixture(layer)
    if mixture is None:
        return key
    of_bare, every = set(mixture.parts(bare)), set(mixture.parts(key))
    others = sorted(every - of_bare)
    if others and choice == "refuse":
        raise EditError(
            f"{request.text!r}: at layer {layer} the subject's last token is sent to {', '.join(sorted(of_bare))} "
            f"in the bare prompt and after other texts to {', '.join(others)}, too. Edit each of them (experts=each), "
            "those of the bare prompt alone (experts=bare), or another layer."
        )
    if others:
        logger.info(
            "%r: at layer %d %s in the bare prompt, in other contexts %s, too; edited: %s",
            request.text, layer, ", ".join(sorted(of_bare)), ", ".join(others),
            "each by its share" if choice == "each" else "those of the bare prompt",
        )  # fmt: skip
    if choice == "each" or not others:
        return key
    kept = torch.zeros_like(key)
    for name in of_bare:
        kept[mixture.slices[name]] = key[mixture.slices[name]]
    return kept


def expert_shares(model: EditableModel, layer: int, key: Tensor, direction: Tensor) -> dict[str, float]:
    """Return how much of the change at a fact's key each expert gives; nothing without experts.

    Args:
        model: the model.
        layer: the edited layer.
        key, direction: `[width]`; the change at the key is key · direction times the residual.
    """
    mixture = model.mixture(layer)
    if mixture is None:
        return {}
    key, direction = key.double(), direction.to(key.device).double()
    whole = float(key @ direction)
    part = {name: float(key_part @ direction[mixture.slices[name]]) for name, key_part in mixture.parts(key).items()}
    return {name: share / whole if whole else 0.0 for name, share in part.items()}


def experts_of(model: EditableModel, layers: Iterable[tuple[int, Tensor, Tensor]]) -> dict[str, Any]:
    """Return `expert_shares` of a fact at several layers, as one diagnostic; nothing where no layer has experts.

    Args:
        model: the model.
        layers: layer, key and direction, both `[width]`.
    """
    shares = {str(layer): expert_shares(model, layer, key, direction) for layer, key, direction in layers}
    nonempty = {layer: share for layer, share in shares.items() if share}
    return {"experts": nonempty} if nonempty else {}
