"""A row for an architecture that the table does not have, from shapes and from what one pass shows.

The layers are the longest list of modules that the model runs. In each layer every module's output is held against
what the layer adds: two of them, each times 1 or a number that the layer keeps, are the contributions. The MLP is the
one whose block treats tokens one by one, the other is attention. The last matrix is the one whose value the MLP gives,
or the norm behind it reads. Nothing here is believed: the row that comes out is proven like one of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from factedit.errors import FacteditError, UnsupportedModel
from factedit.models.families import Family, terms
from factedit.models.matrix import first_of
from factedit.models.sound import has_submodule

NEAR = 1e-4  # of a vector's size, within which two are the same
TOKENS = 4
NO_MLP = "what gives its MLP's contribution is no block of two or three matrices, and none of stacked experts"


@dataclass
class _Seen:
    """What the modules of one layer read and gave."""

    layer: nn.Module
    before: Tensor = field(default_factory=lambda: torch.empty(0))
    after: Tensor = field(default_factory=lambda: torch.empty(0))
    is_tuple: bool = False
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)
    gives: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def propose(lm: Any) -> Family:
    """Return a row for a causal language model of transformers, not proven yet.

    Raises:
        UnsupportedModel: no list of layers, or a layer of which no two modules give what it adds.
    """
    path = _layers_path(lm)
    layers = list(lm.get_submodule(path))
    try:
        return _found(lm, path, layers)
    except FacteditError:
        raise
    except Exception as error:  # the model's own code: anything may be raised, and layers may give anything
        why = (str(error).splitlines() or [""])[0][:200]
        raise UnsupportedModel(f"{type(lm).__name__} cannot be probed: {type(error).__name__}: {why}.") from error


def _found(lm: Any, path: str, layers: list[nn.Module]) -> Family:
    all_seen = _run(lm, layers)
    rows = [_row_of_layer(seen) for seen in all_seen]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    places: dict[str, Any] = {key: _alternatives(layers, [row.get(key, "") for row in rows]) for key in keys}
    return Family(
        name=str(lm.config.model_type),
        layers=path,
        stored_in_out=any(isinstance(m, Conv1D) or getattr(m, "is_transposed", False) for m in layers[-1].modules()),
        tuple_output=any(seen.is_tuple for seen in all_seen),
        refused="" if {"matrix", "experts"} & set(keys) else NO_MLP,
        **places,
    )


def _alternatives(layers: list[nn.Module], by_layer: list[str]) -> str:
    """Return `a|b`, in an order in which every layer's own choice is the first that the layer has."""
    choices = list(dict.fromkeys(choice for choice in by_layer if choice))
    for order in permutations(choices):
        firsts = [next((c for c in order if _is_there(layer, c)), "") for layer in layers]
        if all(choice in ("", first) for choice, first in zip(by_layer, firsts, strict=True)):
            return "|".join(order)
    return "|".join(choices)


def _is_there(layer: nn.Module, choice: str) -> bool:
    return all(has_submodule(layer, path) for path, _ in terms(choice))


def _layers_path(lm: Any) -> str:
    wanted = int(getattr(lm.config.get_text_config(), "num_hidden_layers", 0))
    lists = [(name, m) for name, m in lm.named_modules() if isinstance(m, nn.ModuleList) and len(m) == wanted]
    if not lists:
        raise UnsupportedModel(
            f"{type(lm).__name__} has no list of {wanted} layers, as its configuration says. It cannot be probed."
        )
    name, _ = max(lists, key=lambda named: sum(p.numel() for p in named[1].parameters()))
    return str(name)


def _run(lm: Any, layers: list[nn.Module]) -> list[_Seen]:
    """Run the model once on a few tokens, and keep what every module of every layer read and gave."""
    all_seen = [_Seen(layer) for layer in layers]
    ids = torch.arange(2, 2 + TOKENS).remainder(lm.get_input_embeddings().weight.shape[0]).unsqueeze(0)

    def around(seen: _Seen) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            seen.before = (args[0] if args else kwargs["hidden_states"]).clone()
            seen.after, seen.is_tuple = first_of(output).clone(), isinstance(output, tuple)

        return hook

    def inside(seen: _Seen, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            read = next((a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), None)
            given = first_of(output)
            if isinstance(read, Tensor) and isinstance(given, Tensor):
                seen.calls[name] = args, kwargs
                seen.reads[name], seen.gives[name] = read.clone(), given.clone()

        return hook

    with ExitStack() as stack:
        for seen in all_seen:
            for name, module in seen.layer.named_modules():
                hook = inside(seen, name) if name else around(seen)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        lm(input_ids=ids, use_cache=False)
    return all_seen


def _row_of_layer(seen: _Seen) -> dict[str, str]:
    added, traced = seen.after - seen.before, list[dict[str, str]]()
    for (one, by_one), (other, by_other) in _sums(seen, added):
        for attn, mlp, factor_a, factor_m in ((one, other, by_one, by_other), (other, one, by_other, by_one)):
            inner = _experts(seen) or _dense(seen, mlp)
            places = {"attn_out": f"{attn}{factor_a}", "mlp_out": f"{mlp}{factor_m}", "state": _state(seen, attn)}
            if inner and _one_by_one(seen, (inner.get("experts") or inner["matrix"]).rpartition(".")[0]):
                return {**places, **inner}
            if _one_by_one(seen, mlp) and not _one_by_one(seen, attn):
                traced.append(places)
    if traced:
        return traced[0]
    raise UnsupportedModel(
        f"No two modules of a {type(seen.layer).__name__} give what it adds, of which one is an MLP and one attention: "
        f"'h[l] = h[l-1] + attn_out + mlp_out' cannot be shown. {_closest(seen, added)} The model cannot be traced or "
        "edited."
    )


def _candidates(seen: _Seen) -> list[str]:
    passing = (nn.Dropout, nn.Identity)
    return [
        name
        for name, given in seen.gives.items()
        if given.numel() == seen.before.numel() and not isinstance(seen.layer.get_submodule(name), passing)
    ]


def _factors(layer: nn.Module) -> list[tuple[str, float]]:
    """What a layer may multiply by: nothing, or a number that it keeps."""
    kept = [(f"*{name}", float(n)) for name, n in vars(layer).items() if isinstance(n, float) and n not in (0.0, 1.0)]
    return [("", 1.0), *kept]


def _sums(seen: _Seen, added: Tensor) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs of modules, with their factors, whose outputs add up to what the layer adds; outermost modules first."""
    names = sorted(_candidates(seen), key=lambda name: name.count("."))
    for text, factor in _factors(seen.layer):
        for n, one in enumerate(names):
            rest = added - factor * seen.gives[one].reshape_as(added)
            for other in names[n + 1 :]:
                if _same(factor * seen.gives[other].reshape_as(added), rest, added):
                    yield (one, text), (other, text)


def _same(given: Tensor, expected: Tensor, scale: Tensor) -> bool:
    return bool((given - expected).norm() <= NEAR * scale.norm())


def _closest(seen: _Seen, added: Tensor) -> str:
    pairs = [
        (float((added - seen.gives[a].reshape_as(added) - seen.gives[b].reshape_as(added)).norm() / added.norm()), a, b)
        for a, b in permutations(_candidates(seen), 2)
        if a < b
    ]
    if not pairs:
        return "None of them gives as many numbers."
    off, one, other = min(pairs)
    if off <= NEAR:
        return f"{one} and {other} give it, and which of them reads other tokens cannot be told."
    return f"The nearest are {one} and {other}, off by {off:.1e} of its size."


def _matrix_of(seen: _Seen, mlp: str) -> str:
    """The matrix whose value a module gives, or, as a norm, reads; empty where there is none."""
    wanted = seen.gives[mlp]
    for target in (wanted, seen.reads[mlp]):
        for name, given in seen.gives.items():
            module = seen.layer.get_submodule(name)
            linear = isinstance(module, nn.Linear | Conv1D) and given.numel() == target.numel()
            if linear and _same(given.reshape_as(target), target, target):
                return name
    return ""


def _one_by_one(seen: _Seen, block: str) -> bool:
    """Whether a block treats tokens one by one: turned round, they give the same turned round."""
    if not block:
        return True  # a matrix of the layer's own, between no others

    def turned(value: Any) -> Any:
        states = isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] == TOKENS
        return value.flip(1) if states else value

    args, kwargs = seen.calls[block]
    module = seen.layer.get_submodule(block)
    given = first_of(module(*map(turned, args), **{name: turned(value) for name, value in kwargs.items()}))
    plain = seen.gives[block]
    return _same(given.reshape(1, TOKENS, -1).flip(1), plain.reshape(1, TOKENS, -1), plain)


def _experts(seen: _Seen) -> dict[str, str]:
    """Stacked experts as transformers stores them, and what stands beside them; empty where there are none, or where
    they have no block of their own.
    """
    stacks = [name for name, m in seen.layer.named_modules() if hasattr(m, "is_transposed") and hasattr(m, "down_proj")]
    block = stacks[0].rpartition(".")[0] if stacks else ""
    if not block:
        return {}
    beside = dict(seen.layer.get_submodule(block).named_children())
    shared = [f"{block}.{name}" for name, module in beside.items() if has_submodule(module, "down_proj")]
    gates = [f"{block}.{name}" for name, m in beside.items() if isinstance(m, nn.Linear) and m.out_features == 1]
    return {"experts": stacks[0], "shared": "".join(shared[:1]), "shared_gate": "".join(gates[:1])}


def _state(seen: _Seen, attn: str) -> str:
    """The convolution of a module that goes on from a state; empty where there is none."""
    convolutions = (name for name, module in seen.layer.named_modules() if isinstance(module, nn.Conv1d))
    return next((name for name in convolutions if name.startswith(f"{attn}.") or "." in name), "")


def _dense(seen: _Seen, mlp: str) -> dict[str, str]:
    """The matrices of an MLP: the last, the one that reads the state, and the gate where there is one of its own."""
    matrix = _matrix_of(seen, mlp)
    if not matrix:
        return {}
    block, width, d_model = matrix.rpartition(".")[0], seen.reads[matrix].shape[-1], seen.before.shape[-1]
    others = [
        name
        for name, module in seen.layer.named_modules()
        if name in seen.gives
        and name.rpartition(".")[0] == block
        and name != matrix
        and isinstance(module, nn.Linear | Conv1D)
        and seen.reads[name].shape[-1] == d_model
        and seen.gives[name].shape[-1] in (width, 2 * width)
    ]
    if len(others) == 2:  # where an activation or a norm hides it, by name
        others.sort(key=lambda name: (not _is_linear_in(seen, block, matrix, name), "gate" in name))
    if len(others) not in (1, 2):
        return {}
    return {"matrix": matrix, "matrix_in": others[0], "matrix_gate": others[1] if len(others) == 2 else ""}


def _is_linear_in(seen: _Seen, block: str, matrix: str, name: str) -> bool:
    """Whether the key triples when a matrix gives three times as much: no activation stands behind it."""
    keys: list[Tensor] = []
    module, last = seen.layer.get_submodule(name), seen.layer.get_submodule(matrix)
    with ExitStack() as stack:
        stack.callback(module.register_forward_hook(lambda _m, _a, output: 3 * output).remove)
        stack.callback(last.register_forward_hook(lambda _m, args, _o: keys.append(args[0].clone())).remove)
        args, kwargs = seen.calls[block]
        seen.layer.get_submodule(block)(*args, **kwargs)
    return _same(keys[0].reshape_as(seen.reads[matrix]), 3 * seen.reads[matrix], seen.reads[matrix])
