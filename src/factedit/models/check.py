"""Prove a family row on the model at hand, by one tiny forward pass.

Three statements are checked on every layer (ROME, arXiv 2202.05262, section 2):
h[l] = h[l-1] + attn_out[l] + mlp_out[l]; value = key · W (+ bias); mlp_out equals the value unless a norm stands
between them. A configuration that breaks one (a residual multiplier, a norm after the sum) is refused
instead of being traced and edited wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor

from factedit.errors import UnsupportedModel
from factedit.models.adapter import CONTRIBUTIONS, EditableModel
from factedit.models.half import times
from factedit.models.resume import Segment, embed

RELATIVE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@torch.no_grad()
def prove(model: EditableModel, *, tokens: int = 3) -> None:
    """Check the family row of a loaded model on `tokens` arbitrary tokens.

    Raises:
        UnsupportedModel: naming the layer and the statement that does not hold, or weights that are not finite.
    """
    ids = torch.arange(tokens, device=model.device).remainder(model.vocab).unsqueeze(0) + min(2, model.vocab - tokens)
    segment = Segment(model, torch.ones_like(ids, dtype=torch.bool), embeddings=embed(model, ids))
    hidden = segment.start
    for layer in range(model.n_layer):
        after, seen = _watched(model, segment, layer, hidden)
        _check_layer(model, layer, hidden, after, seen)
        hidden = after


def _watched(model: EditableModel, segment: Segment, layer: int, hidden: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """A layer's output, and what its modules gave on the way."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], None]:
        return lambda out: seen.update({name: out.clone()})  # a copy: some families add to their output in place

    with ExitStack() as stack:
        for kind in CONTRIBUTIONS:
            stack.enter_context(model.on_output(kind, layer, keep(kind)))
        if not model.family.experts:
            both = lambda key, value: seen.update(key=key.clone(), value=value.clone())  # noqa: E731
            stack.enter_context(model.on_matrix(layer, both))
        return segment.run(hidden, range(layer, layer + 1)), seen


def _check_layer(model: EditableModel, layer: int, before: Tensor, after: Tensor, seen: dict[str, Tensor]) -> None:
    if not torch.isfinite(after).all():
        raise UnsupportedModel(
            f"Layer {layer} of {model.name} gives values that are not finite: the weights hold NaN or infinity. "
            "Get a sound copy of the model, or load it in float32."
        )
    _check(model, layer, "h[l] = h[l-1] + attn_out + mlp_out", after, before + seen["attn"] + seen["mlp"])
    if model.family.experts:
        return
    bias = getattr(model.matrix(layer), "bias", None)
    value = times(seen["key"], model.weight(layer))
    _check(model, layer, "value = key · W", seen["value"], value if bias is None else value + bias)
    if not model.family.norm_after:
        _check(model, layer, "mlp_out = value", seen["mlp"], seen["value"])


def _check(model: EditableModel, layer: int, statement: str, found: Tensor, expected: Tensor) -> None:
    error = (found - expected).norm() / found.norm().clamp(min=1e-30)
    if not error <= RELATIVE_TOLERANCE[model.dtype]:
        raise UnsupportedModel(
            f"{model.name} ({model.family.name}) does not fit its family: at layer {layer}, {statement} is off by "
            f"{float(error):.1e} of its size. Its configuration uses a variant that factedit does not know, so it "
            "would be traced and edited wrongly. Please report the config.json."
        )
