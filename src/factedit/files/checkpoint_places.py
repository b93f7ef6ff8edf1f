"""Where each tensor of a folder went in the loaded model.

Refused is a tensor that the model has no place for (biases under `attention_bias: false`, a fourth layer under a
configuration of three), which transformers drops. Only buffers that models of today compute themselves may be left
over, and rotary frequencies only where they are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from factedit.errors import ModelError, UnsupportedModel
from factedit.files.checkpoint_weights import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FLOATS = {"F64", "F32", "F16", "BF16"}
# Buffers that older versions of transformers saved, and that its models compute themselves today.
_MASK = re.compile(r"(.*\.)?(attn|attention|crossattention)\.(masked_)?bias")
_FREQUENCIES = re.compile(r"(.*\.)?rotary_emb\.inv_freq")
_ALWAYS_IGNORED = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")  # by `transformers`, for every class
_POSITIONS = re.compile(r"(.*\.)?position_ids")


def check_tensor_places(
    model: PreTrainedModel, unexpected: set[str], stored: Mapping[str, StoredTensor], folder: Path, what: str
) -> None:
    """Refuse a checkpoint of which something found no place in the model, or two tensors found the same.

    Args:
        model: as it was loaded.
        unexpected: what `transformers` says was left over.
        stored: the tensors of the files.
        folder: of the files.
        what: how to name the model in messages.

    Raises:
        ModelError: naming the tensors.
        UnsupportedModel: weights stored as whole numbers or in eight bits, without what they stand for.
    """
    model_tensors, prefix = model.state_dict(), f"{model.base_model_prefix}."
    places: dict[str, str] = {}
    left = []
    for name, tensor in stored.items():
        place = next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in model_tensors), None)
        if place is None:
            if name in unexpected or _is_ignored(model, name) or _is_buffer(name, tensor):
                left.append(name)
            continue
        if places.setdefault(place, name) != name:
            raise ModelError(
                f"{what} has {place!r} twice, as {places[place]!r} and {name!r}, and only one would be used. "
                "Remove the wrong one, or get the model again."
            )
        if model_tensors[place].is_floating_point() and tensor.kind not in FLOATS:
            raise UnsupportedModel(
                f"The weights {name!r} of {what} are stored as {tensor.kind}: quantised in place, or something else. "
                "Use the original weights, in float32, bfloat16 or float16."
            )
    refused = [name for name in left if not _may_be_left(model, name, stored[name], folder)]
    if refused:
        raise ModelError(
            f"{what} has {len(refused)} tensors that the model of its config.json has no place for, e.g. "
            f"{sorted(refused)[0]!r}: it would compute something else than they were trained for. "
            "Get the config.json that goes with them (number of layers, biases, tied embeddings)."
        )


def _is_buffer(name: str, tensor: StoredTensor) -> bool:
    mask = _MASK.fullmatch(name) and (len(tensor.shape) in (0, 4) or tensor.shape == (1,))
    return bool(mask or _FREQUENCIES.fullmatch(name) or _POSITIONS.fullmatch(name))


def _may_be_left(model: PreTrainedModel, name: str, tensor: StoredTensor, folder: Path) -> bool:
    """Whether a tensor is a buffer of older versions, or the head that predicts a token more (after the last layer)."""
    if _FREQUENCIES.fullmatch(name):
        return _same_frequencies(model, name, tensor, folder)
    config = model.config.get_text_config()
    further = getattr(config, "num_nextn_predict_layers", 0) and _is_ignored(model, name)
    return _is_buffer(name, tensor) or bool(further and name.startswith(f"model.layers.{config.num_hidden_layers}."))


def _is_ignored(model: PreTrainedModel, name: str) -> bool:
    """Whether `transformers` would not even say that it drops a tensor of this name."""
    patterns = (*(model._keys_to_ignore_on_load_unexpected or ()), *_ALWAYS_IGNORED)
    return any(re.search(pattern, name) for pattern in patterns)


def _same_frequencies(model: PreTrainedModel, name: str, tensor: StoredTensor, folder: Path) -> bool:
    """Whether stored rotary frequencies are those that the model computes: else its positions were scaled."""
    import torch
    from safetensors import safe_open

    with safe_open(folder / tensor.file, framework="pt") as file:
        stored: Tensor = file.get_tensor(name).float()
    computed = [
        b.float() for n, b in model.named_buffers() if n.endswith("inv_freq") and not n.endswith("original_inv_freq")
    ]
    return any(b.shape == stored.shape and torch.allclose(b, stored, rtol=1e-2, atol=0) for b in computed)
