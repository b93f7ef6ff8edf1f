"""Prove a family row on the model at hand, by two tiny forward passes.

Checked on every layer (ROME, arXiv 2202.05262, section 2): h[l] = h[l-1] + attn_out[l] + mlp_out[l]; value = key · W
(+ bias), for each of the MLP's matrices, and with another W too; mlp_out, or what the norm before it reads, is the
value; and no state depends on a later token, on how many follow, or on another row. The second pass is of longer rows
that go on otherwise, and there contributions and values are replaced through the hooks: what an edit and a restoration
do must reach the residual. And each layer is called once more with what it read before and another W: what it gives
must change. A configuration that breaks a statement (a residual multiplier, a norm after the sum, bidirectional
attention, a norm over the batch), and a module that does not use its weight or keeps its answers, is refused instead of
being traced and edited wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from factedit.errors import FacteditError, UnsupportedModel
from factedit.memory import is_out_of_memory, out_of_memory
from factedit.models.check_experts import check_experts, experts_seen
from factedit.models.families import CONTRIBUTIONS, MATRICES, split_name
from factedit.models.matrix import first_of
from factedit.models.statement import RELATIVE_TOLERANCE, check_statement

if TYPE_CHECKING:
    from factedit.models.adapter import EditableModel
    from factedit.models.matrix import Matrix

States = list[dict[str, Tensor]]  # per layer, by name
Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]  # per layer, what it was called with
BEYOND = 5  # tokens that the rows of the second pass are longer by
ALONE = "no state depends on a later token or on another row"


@torch.no_grad()
def prove_family(model: EditableModel, *, tokens: int = 3) -> None:
    """Check the family row of a loaded model on `tokens` arbitrary tokens.

    Raises:
        UnsupportedModel: naming the layer and the statement that does not hold, or a model that cannot be run.
        ResourceError: memory ran out.
    """
    if not model.layers or model.dtype not in RELATIVE_TOLERANCE:
        raise UnsupportedModel(f"{model.name} has {model.n_layer} layers of {model.dtype}, which is no model to edit.")
    try:
        _prove(model, tokens)
    except FacteditError:
        raise
    except Exception as error:  # the model's own code, on a configuration of others: anything may be raised
        if is_out_of_memory(error):
            raise out_of_memory(error) from error
        reason = (str(error).splitlines() or [""])[0][:200]
        raise UnsupportedModel(
            f"{model.name} ({model.family.name}) cannot be run: {type(error).__name__}: {reason}. Its configuration "
            "is damaged, or its files do not belong together."
        ) from error


def _prove(model: EditableModel, tokens: int) -> None:
    ids = torch.arange(tokens, device=model.device).remainder(model.vocab).unsqueeze(0) + min(2, model.vocab - tokens)
    with ExitStack() as stack:
        experts = [stack.enter_context(experts_seen(m)) for n in range(model.n_layer) if (m := model.mixture(n))]
        calls: Calls = []
        for module in model.layers:
            note = lambda _m, args, kwargs: calls.append(_kept_call(args, kwargs))  # noqa: E731
            stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        states = _states(model, ids)
    for seen_experts in experts:
        check_experts(model, *seen_experts)
    for layer, seen in enumerate(states):
        _check_layer(model, layer, seen)
        with model.present(layer):
            for matrix in _alone(model, layer):
                _check_matrix(model, matrix, seen)
            if model.places[layer].matrices:
                _check_called_again(model, layer, seen, calls[layer])
    for layer, (seen, changed) in enumerate(
        zip(states, _states(model, _otherwise(model, ids), twice=True), strict=True)
    ):
        plain, their = seen["after"][:, :-1], changed["after"][:1, : tokens - 1]
        check_statement(model, layer, ALONE, plain, their)
        check_statement(model, layer, ALONE, changed["after"][:1, :-1], changed["after"][1:2, :-1])
        _check_layer(model, layer, changed)


def _otherwise(model: EditableModel, ids: Tensor) -> Tensor:
    """Two rows that begin as `ids` and go on otherwise, longer, with another last token each, and a third text.

    One row of the same length where a router's choice could hang on the order of a sum.
    """
    other = ids.clone()
    other[0, -1] = 0 if ids[0, -1] else 1
    routed = any(model.mixture(n) for n in range(model.n_layer))
    if routed and torch.finfo(model.dtype).bits < 32:
        return other
    beyond = max(0, min(BEYOND, model.context_length - ids.shape[1]))
    more = torch.arange(beyond, device=ids.device).remainder(model.vocab).unsqueeze(0)
    first = torch.cat([other, more], 1)
    second = first.clone()
    second[0, -1] = 2 if first[0, -1] == 0 else 0
    return torch.cat([first, second, first.flip(1)])


def _kept_call(args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a layer is called with, its hidden states as a copy, since some families add to them in place."""
    if args:
        return (args[0].clone(), *args[1:]), dict(kwargs)
    return args, {**kwargs, "hidden_states": kwargs["hidden_states"].clone()}


def _check_called_again(
    model: EditableModel, layer: int, seen: dict[str, Tensor], call: tuple[tuple[Any, ...], dict[str, Any]]
) -> None:
    """Another W changes what the layer gives, also of what it has read before."""
    matrix, value = model.matrix(layer), seen["out value"]
    bias = 0 if matrix.bias is None else matrix.bias
    with matrix.replaced(-matrix.values):
        again = first_of(model.layers[layer](*call[0], **call[1]))
    if torch.equal(again, seen["after"]) and not torch.equal(value, 2 * bias - value):
        raise UnsupportedModel(
            f"Layer {layer} of {model.name} gives the same with another matrix as without: it keeps what it gave "
            "before, so an edit would do nothing there. Give the plain model of transformers."
        )


def _states(model: EditableModel, ids: Tensor, *, twice: bool = False) -> States:
    """Return what every layer receives, gives, and contributes, and what its matrices read and give.

    Args:
        model: the model.
        ids: `[1, tokens]`.
        twice: attention's contribution and the edited matrix's value are doubled at the last token.
    """
    states: States = [{} for _ in model.layers]
    with ExitStack() as stack:
        for layer, module in enumerate(model.layers):
            stack.callback(module.register_forward_pre_hook(_first(states[layer], "before"), with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(_after(states[layer], "after")).remove)
            _watch_parts(stack, model, layer, states[layer], twice=twice)
            _watch_norm_and_giver(stack, model, layer, states[layer])
        model.body(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return states


def _watch_parts(stack: ExitStack, model: EditableModel, layer: int, state: dict[str, Tensor], *, twice: bool) -> None:
    """Note what a layer contributes and what its matrices read and give."""

    def noted(name: str, *, doubled: bool) -> Callable[[Tensor], Tensor | None]:
        def hook(out: Tensor) -> Tensor | None:
            new = _doubled(out) if doubled else None
            state[name] = out.clone() if new is None else new.clone()
            return new

        return hook

    def both(which: str) -> Callable[[Tensor, Tensor], Tensor | None]:
        note_value = noted(f"{which} value", doubled=twice and which == "out")

        def hook(key: Tensor, value: Tensor) -> Tensor | None:
            state[f"{which} key"] = key.clone()
            return note_value(value)

        return hook

    for matrix in _alone(model, layer):  # before the contributions, which may come from the same module
        stack.enter_context(matrix.watched(both(matrix.place[1])))
    mixture = model.mixture(layer)
    if mixture is not None:
        stack.enter_context(mixture.valued(noted("out value", doubled=twice)))
    for kind in CONTRIBUTIONS:
        stack.enter_context(model.on_output(kind, layer, noted(kind, doubled=twice and kind == "attn")))


def _watch_norm_and_giver(stack: ExitStack, model: EditableModel, layer: int, state: dict[str, Tensor]) -> None:
    """Note what the norm after the matrix reads, and what the module that gives the MLP's output reads and gives."""
    places = model.places[layer]
    if places.giver is not None:
        stack.callback(places.giver.register_forward_hook(_after(state, "given")).remove)
    for name, part in (("norm", places.norm), ("giver", None if places.whole else places.giver)):
        if part is not None:
            stack.callback(part.register_forward_pre_hook(_first(state, name), with_kwargs=True).remove)


def _doubled(out: Tensor) -> Tensor:
    """Return it with the last token's doubled."""
    new = out.clone()  # a copy: some families add to it in place
    new[:, -1] *= 2
    return new


def _alone(model: EditableModel, layer: int) -> list[Matrix]:
    """Return the matrices that every token goes through."""
    return [m for m in model.matrices_of(layer) if not split_name(m.place[1])[1].isdecimal()]


def _first(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(_module: Any, args: Any, kwargs: Any) -> None:
        seen[name] = (args[0] if args else kwargs["hidden_states"]).clone()

    return hook


def _after(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        seen[name] = first_of(output).clone()

    return hook


def _check_layer(model: EditableModel, layer: int, seen: dict[str, Tensor]) -> None:
    read = [f"{m.place[1]} value" for m in _alone(model, layer)]
    silent = [name for name in ("before", "after", *CONTRIBUTIONS, *read) if name not in seen]
    if silent:
        raise UnsupportedModel(
            f"{model.name} runs layer {layer} without calling the module that gives {silent[0]!r}: it is compiled, "
            "fused or wrapped, and an edit would pass it by. Give the plain model of transformers."
        )
    if not torch.isfinite(seen["after"]).all():
        raise UnsupportedModel(
            f"Layer {layer} of {model.name} gives values that are not finite: the weights are too large, or hold NaN "
            "or infinity. Get a sound copy of the model, or load it in float32."
        )
    places = model.places[layer]
    total = (seen["before"] + seen["attn"] + seen["mlp"]) * places.gain
    check_statement(model, layer, "h[l] = h[l-1] + attn_out + mlp_out", seen["after"], total)
    if "out value" not in seen:
        return
    value = seen["out value"]
    if not places.whole:
        _check_part(model, layer, seen["giver"], value)
    elif places.norm is not None:
        check_statement(model, layer, "the norm reads the value", seen["norm"].view_as(value), value)
    elif len(places.contributions["mlp"]) == 1:
        expected = value * (places.mlp_gain / places.gain)
        check_statement(model, layer, "mlp_out = value", seen["mlp"], expected)
    else:
        check_statement(model, layer, "the block gives the value", seen["given"].view_as(value), value)


def _check_part(model: EditableModel, layer: int, read: Tensor, value: Tensor) -> None:
    """Beside experts: what the block gives is what it gives without the value, and the value times a number a token."""
    giver = model.places[layer].giver
    assert giver is not None  # the layer has a matrix
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        stack.callback(giver.register_forward_hook(_after(seen, "given")).remove)
        giver(read)
        whole = seen["given"].view_as(value)
        handle = model.matrix(layer).module.register_forward_hook(
            lambda _module, _args, output: torch.zeros_like(output)
        )
        stack.callback(handle.remove)
        giver(read)
    added = whole - seen["given"].view_as(value)
    size = (added * value).sum(-1, keepdim=True) / value.square().sum(-1, keepdim=True).clamp(min=1e-30)
    expected = size * value if added.any() else value
    check_statement(model, layer, "the block adds the value, times a number for each token", added, expected)


def _check_matrix(model: EditableModel, matrix: Matrix, seen: dict[str, Tensor]) -> None:
    """What the module gives is key · W, also where W is replaced by −W as an edit would replace it."""
    layer, which = matrix.place
    key, value = seen[f"{which} key"], seen[f"{which} value"]
    wide = torch.promote_types(model.dtype, torch.float32)
    bias = torch.zeros((), device=value.device) if matrix.bias is None else matrix.bias
    statement = "value = key · W" if which == MATRICES[0] else f"value = key · W ({which})"
    check_statement(model, layer, statement, value, key.to(wide) @ matrix.values.to(wide) + bias)
    with matrix.replaced(-matrix.values):
        check_statement(model, layer, f"{statement} of another W", matrix.given(key), 2 * bias - value)
