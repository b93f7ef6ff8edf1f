"""Prove a family row on the model at hand, by two tiny forward passes.

Four statements are checked on every layer (ROME, arXiv 2202.05262, section 2):
h[l] = h[l-1] + attn_out[l] + mlp_out[l]; value = key · W (+ bias); mlp_out equals the value unless a norm stands
between them; and no state depends on a later token. A configuration that breaks one (a residual multiplier, a norm
after the sum, bidirectional attention) is refused instead of being traced and edited wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from factedit.errors import UnsupportedModel
from factedit.models.adapter import CONTRIBUTIONS, EditableModel

RELATIVE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 5e-2, torch.float16: 1e-2}
States = list[dict[str, Tensor]]  # per layer, by name


@torch.no_grad()
def prove(model: EditableModel, *, tokens: int = 3) -> None:
    """Check the family row of a loaded model on `tokens` arbitrary tokens.

    Raises:
        UnsupportedModel: naming the layer and the statement that does not hold, or weights that are not finite.
    """
    ids = torch.arange(tokens, device=model.device).remainder(model.vocab).unsqueeze(0) + min(2, model.vocab - tokens)
    states = _states(model, ids)
    for layer, seen in enumerate(states):
        _check_layer(model, layer, seen)
    other = ids.clone()
    other[0, -1] = 0 if ids[0, -1] else 1
    for layer, (seen, changed) in enumerate(zip(states, _states(model, other), strict=True)):
        own, their = seen["after"][:, :-1], changed["after"][:, :-1]
        _check(model, layer, "no state depends on a later token", own, their)


def _states(model: EditableModel, ids: Tensor) -> States:
    """What every layer receives, gives, and contributes; its keys and values where it has one edited matrix."""
    states: States = [{} for _ in model.layers]

    def keep(layer: int, name: str) -> Callable[[Tensor], None]:
        return lambda out: states[layer].update({name: out.clone()})  # a copy: some families add to it in place

    def both(layer: int) -> Callable[[Tensor, Tensor], None]:
        return lambda key, value: states[layer].update(key=key.clone(), value=value.clone())

    with ExitStack() as stack:
        for layer, module in enumerate(model.layers):
            stack.callback(module.register_forward_pre_hook(_before(states[layer]), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(_after(states[layer])).remove)
            for kind in CONTRIBUTIONS:
                stack.enter_context(model.on_output(kind, layer, keep(layer, kind)))
            if not model.family.experts:
                stack.enter_context(model.on_matrix(layer, both(layer)))
        model.body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return states


def _before(seen: dict[str, Tensor]) -> Callable[..., None]:
    def hook(_module: Any, args: Any, kwargs: Any) -> None:
        seen["before"] = (args[0] if args else kwargs["hidden_states"]).clone()

    return hook


def _after(seen: dict[str, Tensor]) -> Callable[..., None]:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        seen["after"] = (output[0] if isinstance(output, tuple) else output).clone()

    return hook


def _check_layer(model: EditableModel, layer: int, seen: dict[str, Tensor]) -> None:
    if not torch.isfinite(seen["after"]).all():
        raise UnsupportedModel(
            f"Layer {layer} of {model.name} gives values that are not finite: the weights hold NaN or infinity. "
            "Get a sound copy of the model, or load it in float32."
        )
    total = seen["before"] + seen["attn"] + seen["mlp"]
    _check(model, layer, "h[l] = h[l-1] + attn_out + mlp_out", seen["after"], total)
    if model.family.experts:
        return
    bias = model.matrix(layer).bias
    wide = torch.promote_types(model.dtype, torch.float32)
    value = seen["key"].to(wide) @ model.weight(layer).to(wide)
    _check(model, layer, "value = key · W", seen["value"], value if bias is None else value + bias)
    if not model.family.norm_after:
        _check(model, layer, "mlp_out = value", seen["mlp"], seen["value"])


def _check(model: EditableModel, layer: int, statement: str, found: Tensor, expected: Tensor) -> None:
    error = (found - expected).norm() / found.norm().clamp(min=1e-30)
    if not error <= RELATIVE_TOLERANCE[model.dtype]:
        raise UnsupportedModel(
            f"{model.name} ({model.family.name}) does not fit its family: at layer {layer}, {statement!r} is off by "
            f"{float(error):.1e} of its size. Its configuration uses a variant that factedit does not know, so it "
            "would be traced and edited wrongly. Please report the config.json."
        )
