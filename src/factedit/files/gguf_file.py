"""A .gguf file becomes a transformers model and its tokenizer, in float32.

Architectures: `gemma3` (text) and `llama`. GGUF keeps other names and two other layouts than transformers:
Gemma 3 stores every norm's weight plus 1; Llama stores the rows of each head's query and key matrix interleaved
(row 2i and 2i + 1 where transformers has i and i + d/2). The weights are equal to the bit to those of transformers'
own GGUF path, which reads the vocabulary several times and takes ten times as long.

A tensor that is not known here is refused by name (`rope_freqs.weight` of Llama 3.1, a bias, an expert): skipping it
would give a model that looks right and computes something else.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from factedit.errors import DataError, UnsupportedModel, shown
from factedit.files.gguf_config import GgufShape, config_of, shape_of
from factedit.files.gguf_reader import GgufFile, open_gguf
from factedit.files.gguf_tokenizer import load_gguf_tokenizer
from factedit.files.quiet import quiet_transformers
from factedit.memory import require_memory

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# GGUF's name -> transformers' name and the dimensions, as letters of `GgufShape.sizes`.
_OUTER = {
    "token_embd.weight": ("model.embed_tokens.weight", "vd"),
    "output_norm.weight": ("model.norm.weight", "d"),
    "output.weight": ("lm_head.weight", "vd"),
}
SMALLER = "Read it from disk (--stream), or take a smaller model."
_COMMON = {
    "attn_norm.weight": ("input_layernorm.weight", "d"),
    "attn_q.weight": ("self_attn.q_proj.weight", "qd"),
    "attn_k.weight": ("self_attn.k_proj.weight", "kd"),
    "attn_v.weight": ("self_attn.v_proj.weight", "kd"),
    "attn_output.weight": ("self_attn.o_proj.weight", "dq"),
    "ffn_gate.weight": ("mlp.gate_proj.weight", "md"),
    "ffn_up.weight": ("mlp.up_proj.weight", "md"),
    "ffn_down.weight": ("mlp.down_proj.weight", "dm"),
}
_LAYER = {
    "llama": {**_COMMON, "ffn_norm.weight": ("post_attention_layernorm.weight", "d")},
    "gemma3": {
        **_COMMON,
        "attn_q_norm.weight": ("self_attn.q_norm.weight", "h"),
        "attn_k_norm.weight": ("self_attn.k_norm.weight", "h"),
        "post_attention_norm.weight": ("post_attention_layernorm.weight", "d"),
        "ffn_norm.weight": ("pre_feedforward_layernorm.weight", "d"),
        "post_ffw_norm.weight": ("post_feedforward_layernorm.weight", "d"),
    },
}


def load_gguf(path: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model from a .gguf file, dequantised to float32 on the CPU, and its fast tokenizer.

    Args:
        path: the file; architectures gemma3 and llama.

    Returns:
        The model in eval mode, and the tokenizer.

    Raises:
        ModelError: no such file.
        DataError: the file is cut off or does not hold what its header promises.
        UnsupportedModel: an architecture, a key, a tensor or a storage type that is not read.
        ResourceError: there is not memory enough.
    """
    file = open_gguf(path)
    config = config_of(file)
    require_memory(file.name, 4.0 * sum(prod(tensor.shape) for tensor in file.tensors.values()), SMALLER)
    tensors = read_gguf_tensors(file)
    return build_model(config, tensors), load_gguf_tokenizer(file)


def outline_gguf(path: Path) -> tuple[Any, Any]:
    """Return the configuration and the tokenizer of a .gguf file; see `load_gguf`."""
    file = open_gguf(path)
    return config_of(file), load_gguf_tokenizer(file)


def read_gguf_tensors(file: GgufFile) -> dict[str, Tensor]:
    """Return all tensors in float32, by transformers' names and in its layout; a tied output matrix is not repeated.

    Raises:
        UnsupportedModel: a tensor that is not known, or stored in a way that cannot be read.
        DataError: a tensor that is missing or has another shape than the header says.
    """
    import torch

    shape = shape_of(file)
    tensors = {}
    for stored, name in list(names_of(file, shape)):
        tensors[name] = torch.from_numpy(in_transformers_layout(shape, stored, file.read(stored)))
    return tensors


def build_model(config: PreTrainedConfig, tensors: dict[str, Tensor]) -> PreTrainedModel:
    """Return a model that takes over the given tensors, in eval mode; nothing is initialised at random or copied.

    Args:
        config: of Gemma 3 (text) or Llama.
        tensors: all parameters in float32 by transformers' names; a tied output matrix may be left out.
    """
    import torch
    from transformers import Gemma3ForCausalLM, LlamaForCausalLM

    cls: Any = {"gemma3_text": Gemma3ForCausalLM, "llama": LlamaForCausalLM}[config.model_type]
    with quiet_transformers():
        model = cls.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)
    model.config._name_or_path = model.name_or_path = ""  # there is no folder to name
    evaluated: PreTrainedModel = model.eval()
    return evaluated


def names_of(file: GgufFile, shape: GgufShape) -> Iterator[tuple[str, str]]:
    """Yield [GGUF's name, transformers' name] of every tensor, each checked to be there in its shape.

    Raises:
        UnsupportedModel, DataError: see `read_gguf_tensors`.
    """
    wanted = dict(_OUTER)
    if "output.weight" not in file.tensors:
        del wanted["output.weight"]
    if shape.layers > len(file.tensors):
        raise DataError(f"{file.name} promises {shape.layers:,} layers and holds {len(file.tensors):,} tensors.")
    for layer in range(shape.layers):
        for stored, (name, letters) in _LAYER[shape.architecture].items():
            wanted[f"blk.{layer}.{stored}"] = (f"model.layers.{layer}.{name}", letters)
    unknown = sorted(set(file.tensors) - set(wanted))
    if unknown:
        raise UnsupportedModel(
            f"{file.name} holds {len(unknown)} tensors that a plain {shape.architecture} model does not have, e.g. "
            f"{shown(unknown[0])}. Use the model's folder in the transformers format instead."
        )
    for stored, (name, letters) in wanted.items():
        if stored not in file.tensors:
            raise DataError(f"{file.name} holds no tensor {shown(stored)}. Download or convert it again.")
        stored_shape, expected = file.tensors[stored].shape, tuple(shape.sizes[letter] for letter in letters)
        if stored_shape != expected:
            raise DataError(
                f"The tensor {shown(stored)} of {file.name} has the shape {list(stored_shape)}; its header asks for "
                f"{list(expected)}. Download or convert it again."
            )
        yield stored, name


def in_transformers_layout(shape: GgufShape, stored: str, numbers: np.ndarray) -> np.ndarray:
    """Return a tensor as transformers has it; it may be changed in place.

    Args:
        shape: of the file.
        stored: GGUF's name of the tensor.
        numbers: as GGUF has them, float32.
    """
    if shape.architecture == "gemma3" and stored.endswith("norm.weight"):
        numbers -= 1
    elif shape.architecture == "llama" and stored.endswith(("attn_q.weight", "attn_k.weight")):
        return _halves(numbers, shape.sizes["h"])
    return numbers


def _halves(rows: np.ndarray, head: int) -> np.ndarray:
    """Rows of each head from GGUF's order (2i, 2i + 1) into transformers' (i, i + d/2): `[heads * head, d_model]`."""
    pairs = rows.reshape(-1, head // 2, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)
