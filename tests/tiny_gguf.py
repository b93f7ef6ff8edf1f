"""Tiny .gguf files, written as the published converters write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Kind

from conftest import tiny_lm, tiny_tokenizer

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMS = {
    "llama": {"post_attention_layernorm": "ffn_norm"},
    "gemma3": {
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}
WORDS = [
    "the",
    "▁the",
    "▁th",
    "th",
    "he",
    "▁t",
    "▁",
    "▁▁",
    "▁▁▁▁",
    "Sp",
    "Space",
    "ace",
    "ac",
    "ing",
    "in",
    "ng",
    "\n\n",
]
Change = Callable[[gguf.GGUFWriter], None]


def gemma3_lm(**changes: Any) -> Any:
    """A tiny Gemma 3 with one full-attention layer of six."""
    kinds = ["full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(7)]
    settings = {
        "num_hidden_layers": 7,
        "layer_types": kinds,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "rms_norm_eps": 2**-20,
    }
    return tiny_lm("gemma3_text", **{**settings, **changes})


def llama_lm(**changes: Any) -> Any:
    """A tiny Llama with two query heads for each key head."""
    settings = {"head_dim": 8, "tie_word_embeddings": False, "rms_norm_eps": 2**-17}
    return tiny_lm("llama", **{**settings, **changes})


def sentencepiece_tokens(size: int) -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a small SentencePiece vocabulary, filled up with unused tokens."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<user>"]
    types = [3, 3, 3, 2, 4, 4]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [6] * 256
    text = [word.replace("▁▁", "  ") if set(word) == {"▁"} and len(word) > 1 else word for word in WORDS]
    text += [character for character in dict.fromkeys("".join(WORDS)) if character not in text]
    tokens += text
    types += [1] * len(text)
    types += [5] * (size - len(tokens))
    tokens += [f"<unused{number}>" for number in range(size - len(tokens))]
    return tokens, [-float(number % 40) for number in range(size)], types


def write(
    path: Path,
    lm: Any,
    *,
    kind: Kind = Kind.F32,
    tokenizer: str = "",
    change: Change | None = None,
    settings: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray | None] | None = None,
    raw: dict[str, tuple[Kind, np.ndarray]] | None = None,
) -> Path:
    """Write a model as the converters do.

    Args:
        path: where to.
        lm: a tiny Gemma 3 or Llama.
        kind: how matrices whose rows are multiples of 32 are stored; the rest is F32.
        tokenizer: `llama` or `gpt2`; empty is what the architecture usually has.
        change: called with the writer before it writes.
        settings: keys under the architecture's name; None leaves a key out.
        tensors: by GGUF's name; None leaves a tensor out.
        raw: tensors as they are stored, `[rows, bytes]`, with their kind.
    """
    config = lm.config
    architecture = "llama" if config.model_type == "llama" else "gemma3"
    writer = gguf.GGUFWriter(path, architecture)
    said = _settings(config, architecture) | {f"{architecture}.{k}": v for k, v in (settings or {}).items()}
    for key, value in said.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    _write_tokenizer(writer, tokenizer or {"llama": "gpt2", "gemma3": "llama"}[architecture], config.vocab_size)
    if change is not None:
        change(writer)
    for name, numbers in ({**stored_tensors(lm), **(tensors or {})}).items():
        if name in (raw or {}):
            used, stored = (raw or {})[name]
            writer.add_tensor(name, stored, raw_dtype=used)
        elif numbers is not None:
            used = kind if numbers.ndim == 2 and numbers.shape[1] % 32 == 0 else Kind.F32
            writer.add_tensor(name, gguf.quants.quantize(numbers, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored_tensors(lm: Any) -> dict[str, np.ndarray]:
    """The tensors by GGUF's names and in its layout, float32."""
    config = lm.config
    architecture = "llama" if config.model_type == "llama" else "gemma3"
    names = {**NAMES, **NORMS[architecture]}
    stored = {}
    for full, tensor in lm.state_dict().items():
        if full == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = full.removesuffix(".weight")
        prefix = ""
        if name.startswith("model.layers."):
            layer, _, name = name.removeprefix("model.layers.").partition(".")
            prefix = f"blk.{layer}."
        numbers = tensor.clone()
        if architecture == "gemma3" and "norm" in name:
            numbers = numbers + 1
        if architecture == "llama" and name in ("self_attn.q_proj", "self_attn.k_proj"):
            halves = numbers.reshape(-1, 2, config.head_dim // 2, numbers.shape[1])
            numbers = halves.transpose(1, 2).reshape(numbers.shape)
        stored[f"{prefix}{names[name]}.weight"] = numbers.contiguous().numpy()
    return stored


def _settings(config: Any, architecture: str) -> dict[str, Any]:
    rope = config.rope_parameters
    said: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
    }
    if architecture == "llama":
        said |= {"rope.freq_base": float(rope["rope_theta"]), "rope.dimension_count": config.head_dim}
        said["vocab_size"] = config.vocab_size
    else:
        said["rope.freq_base"] = float(rope["full_attention"]["rope_theta"])
        said["attention.sliding_window"] = config.sliding_window
    return {f"{architecture}.{key}": value for key, value in said.items()}


def _write_tokenizer(writer: gguf.GGUFWriter, kind: str, size: int) -> None:
    writer.add_tokenizer_model(kind)
    if kind == "llama":
        tokens, scores, types = sentencepiece_tokens(size)
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        numbers = {"pad": 0, "eos": 1, "bos": 2, "unk": 3}
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(False)
    else:
        backend = tiny_tokenizer()._tokenizer
        model = json.loads(backend.to_str())["model"]
        vocabulary = sorted(model["vocab"], key=model["vocab"].get)
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(vocabulary)
        writer.add_token_types([3, 3, 3] + [1] * (len(vocabulary) - 3))
        writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
        numbers = {"pad": 0, "bos": 1, "eos": 2, "unk": 0}
        writer.add_add_bos_token(False)
    writer.add_bos_token_id(numbers["bos"])
    writer.add_eos_token_id(numbers["eos"])
    writer.add_unk_token_id(numbers["unk"])
    writer.add_pad_token_id(numbers["pad"])


def same_tensors(found: Any, expected: Any) -> bool:
    """Whether two models have the same tensors, to the bit."""
    left, right = found.state_dict(), expected.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in right)
