"""What a model must be, so that nothing of it is traced or edited wrongly without a word; looked at, not run.

An edit writes into the parameter of a matrix, and hooks see what its module reads and gives. Where the module computes
its weight from others (weight norm, `parametrize`), where its layer was compiled or wrapped, or where two layers share
the memory of a matrix, an edit would do nothing, or more than was asked. What only shows when the model runs is in
`check.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from factedit.errors import UnsupportedModel, UsageError
from factedit.files.tokenizer_check import refuse_sampling
from factedit.models.families import Family
from factedit.models.finite import not_finite, widened
from factedit.models.matrix import Matrix


def refuse_unsound(
    model: Any, tokenizer: Any, weights: Callable[[], Iterable[tuple[str, Tensor]]] | None = None
) -> None:
    """Refuse a model or a tokenizer of a kind that cannot be read or edited soundly.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        weights: gives all its weights by name, where they are not in its memory.

    Raises:
        UsageError: something else than a model and its tokenizer.
        UnsupportedModel: quantised, offloaded or compiled; weights that are not finite; a tokenizer without offsets.
    """
    if not isinstance(model, nn.Module) or not hasattr(getattr(model, "config", None), "model_type"):
        raise UsageError(
            f"A causal language model of transformers is needed; a {type(model).__name__} was given. "
            "Load it with AutoModelForCausalLM, or give `load` its name."
        )
    if getattr(model.config, "quantization_config", None) is not None or getattr(model, "is_quantized", False):
        raise UnsupportedModel(
            "The model's weights are quantised in memory, so an edit cannot be written into them exactly. Give its "
            "folder or hub id, which is read as the values its weights stand for; or load it in float32."
        )
    _refuse_compiled(model)
    _refuse_endless(model.config)
    for name in ("get_output_embeddings", "get_input_embeddings"):
        module: Any = getattr(model, name, lambda: None)()
        if not isinstance(getattr(module, "weight", None), Tensor):
            raise UnsupportedModel(
                f"{type(model).__name__} gives no logits over a vocabulary, or reads no tokens, by one matrix "
                f"({name} gives {type(module).__name__}). Load it with AutoModelForCausalLM."
            )
    packed = [name for name, p in model.named_parameters() if p.is_floating_point() and p.itemsize < 2]
    if packed:
        raise UnsupportedModel(
            f"{len(packed)} of the model's weights are stored in eight bits or fewer (the first is {packed[0]}), in "
            "which nothing is computed. Give its folder or hub id, or convert it: model.float()."
        )
    away = [] if weights else [name for name, p in model.named_parameters() if p.device.type == "meta"]
    if away:
        raise UnsupportedModel(
            f"{len(away)} weights are offloaded (the first is {away[0]}), where an edit would silently do nothing. "
            "Load the whole model into memory, in a smaller type if need be; or let accelerate place it, whose hooks "
            "factedit.load follows."
        )
    refuse_slow(tokenizer)
    named = not_finite(weights() if weights else model.state_dict(keep_vars=True).items())
    broken = list(dict.fromkeys((*named, *_odd_buffers(model))))
    if broken:
        raise UnsupportedModel(
            f"{len(broken)} of the model's weights are not finite (NaN or infinity; the first is {broken[0]}). "
            "Get a sound copy of the model, or load it in float32."
        )


def _odd_buffers(model: nn.Module) -> list[str]:
    """Return the buffers with NaN or infinity, also those that no file holds (rotary frequencies, slopes).

    Infinities below zero stay: they are masks.
    """
    buffers = ((name, b) for name, b in model.named_buffers() if b.is_floating_point() and not b.is_meta)
    return [name for name, buffer in buffers if not bool((widened(buffer) < torch.inf).all())]


def refuse_settings(config: Any, family: Family) -> None:
    """Refuse a configuration that switches on what this family's models cannot be traced and edited with.

    Raises:
        UnsupportedModel: naming the setting and why.
    """
    settings = config.get_text_config()
    for name, why in family.refused_settings:
        if getattr(settings, name, None):
            raise UnsupportedModel(
                f"The model's configuration sets {name} to {getattr(settings, name)}: {why}. Choose a model without it."
            )


def _refuse_endless(config: Any) -> None:
    """Refuse a configuration that holds a number beyond all size, with which a model answers all alike.

    The upper end of a range may be infinite, as that of Mamba's time steps is.

    Raises:
        UnsupportedModel: naming the setting.
    """
    for name, value in config.to_dict().items():
        if _holds_endless(value):
            raise UnsupportedModel(
                f"The model's configuration sets {name} to a number that is not finite. Get a sound copy of the model."
            )


def _holds_endless(value: Any) -> bool:
    if isinstance(value, list | tuple) and len(value) == 2 and value[1] == math.inf:
        value = value[:1]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return (isinstance(value, float) and not math.isfinite(value)) or any(map(_holds_endless, inner))


def layers_at(model: Any, path: str) -> tuple[nn.Module, list[nn.Module]]:
    """Return the module that owns the list of layers at a path of a family, and the layers.

    Raises:
        UnsupportedModel: there are none, or others than its configuration says or than they are numbered: some were
            taken out.
    """
    layers = list(submodule(model, path))  # type: ignore[call-overload]
    said = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if isinstance(said, int) and said != len(layers):
        raise UnsupportedModel(
            f"The model has {len(layers)} layers, and its configuration says {said}: layers were taken out or put in, "
            "and what it keeps of earlier tokens would be mixed up. Set config.num_hidden_layers, and load it again."
        )
    for n, layer in enumerate(layers):
        for module in layer.modules():
            number = getattr(module, "layer_idx", None)
            if isinstance(number, int) and number != n:
                raise UnsupportedModel(
                    f"Layer {n} of the model is numbered {number} (layer_idx): layers were taken out or moved, and "
                    "what it keeps of earlier tokens would be mixed up. Save the model, and load it again."
                )
    return submodule(model, path.rpartition(".")[0]), layers


def refuse_slow(tokenizer: Any) -> None:
    """Refuse a tokenizer without character offsets, or one that draws.

    Raises:
        UsageError, UnsupportedModel: see `refuse_unsound`.
    """
    if tokenizer is None:
        raise UsageError("A model in memory needs its tokenizer: load(model, tokenizer).")
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModel(
            f"{type(tokenizer).__name__} gives no character offsets, which finding the subject needs. "
            "Use the model's fast tokenizer (tokenizer.json)."
        )
    refuse_sampling(tokenizer.backend_tokenizer)


def _refuse_compiled(model: nn.Module) -> None:
    """A compiled part keeps its own copy of what it runs: hooks and changed weights may pass it by."""
    for name, module in model.named_modules():
        forward = getattr(module, "forward", None)
        compiled = (
            "_orig_mod" in module._modules
            or getattr(module, "_compiled_call_impl", None) is not None
            or getattr(forward, "_torchdynamo_orig_callable", None) is not None
            or isinstance(module, torch.jit.ScriptModule)
        )
        if compiled:
            raise UnsupportedModel(
                f"{name or 'The model'} is compiled, so hooks and edits may pass it by without a word. "
                "Give the model as it was before torch.compile or torch.jit."
            )


def submodule(model: nn.Module, path: str) -> nn.Module:
    """Return the part of a model at a path of its family.

    Raises:
        UnsupportedModel: there is none, since the model is wrapped or of another class.
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise UnsupportedModel(
            f"{type(model).__name__} has no {path}, which a model of its kind has: it is wrapped (by an adapter?), or "
            "another class than AutoModelForCausalLM gives. Give the plain model (peft: merge_and_unload)."
        ) from error


def has_submodule(model: nn.Module, path: str) -> bool:
    """Return whether a model has a part at a path."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def refuse_unknown_storage(model: nn.Module, matrices: Sequence[Matrix]) -> None:
    """Refuse matrices that are not plain parameters of their own, each with its own memory.

    Raises:
        UnsupportedModel: naming the first.
    """
    names = {matrix.name for matrix in matrices}
    for matrix in matrices:
        parameter = matrix.module._parameters.get(matrix.name.rpartition(".")[2])
        plain = type(parameter) is nn.Parameter and type(parameter.data) is Tensor and matrix.stored.ndim == 2
        if not plain or matrix.stored.layout is not torch.strided:
            raise UnsupportedModel(
                f"{matrix.name} is no plain parameter: {type(matrix.module).__name__} computes it from others "
                "(weight norm, parametrize, an adapter) or stores it otherwise (sparse), so an edit of it would do "
                "nothing. Remove the parametrisation, merge the adapter, or make it dense first."
            )
    spans = sorted((*_span(t), name) for name, t in _in_memory(model))
    end, before = ("", 0), ""
    for device, begin, stop, name in spans:
        if (device, begin) < end and (name in names or before in names):
            raise UnsupportedModel(
                f"{before} and {name} share memory, so an edit of one would change the other without a word. "
                "Give the model with a matrix for each (clone one of them)."
            )
        if (device, stop) > end:
            end, before = (device, stop), name


def _in_memory(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(n, t) for n, t in model.state_dict(keep_vars=True).items() if t.numel() and not t.is_meta]


def _span(tensor: Tensor) -> tuple[str, int, int]:
    """[device, first byte, byte after the last] of a tensor's memory."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + reach * tensor.element_size()
