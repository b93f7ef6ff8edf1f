"""Tiny configurations of every family: four layers of width 32, with whatever else a family asks for."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

_SLIDING = ["sliding_attention", "full_attention"] * 2
_SETTINGS: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8, "sliding_window": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    # names that older families have for the same
    "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "d_model": 32, "n_layers": 4, "n_heads": 4,
    "ffn_dim": 48, "num_layers": 4, "attention_heads": 4, "max_seq_len": 64, "dff": 48,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "n_shared_experts": 1, "moe_num_experts": 4, "shared_intermediate_size": 24,
    # latent attention
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "qk_nope_head_dim": 8,
    # states
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2, "mamba_n_groups": 1,
    "mamba_dt_rank": 4, "mamba_d_ssm": 64, "mamba_chunk_size": 8,
}  # fmt: skip
_SENSE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
_LATENT = {"num_key_value_heads": 4}
_SPECIAL: dict[str, dict[str, Any]] = {
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": _LATENT,
    "bailing_hybrid": {"num_key_value_heads": 4, "layer_types": ["linear_attention", "full_attention"] * 2},
    "kimi_linear": {
        "num_key_value_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "cohere2_moe": {"mlp_layer_types": ["dense", *["sparse"] * 3], "prefix_dense_intermediate_size": 48},
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "layer_types": _SLIDING,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]} for kind in _SLIDING[:2]
        },
    },
    "cwm": {"layer_types": _SLIDING},
    "dbrx": {
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 2, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "exaone4": {"sliding_window_pattern": 2},
    "exaone_moe": {"layer_types": _SLIDING},
    "falcon": {"alibi": False},
    "falcon_h1": {"embedding_multiplier": 1.7, "ssm_out_multiplier": 0.6, "attention_out_multiplier": 1.4},
    "gemma4_text": {"hidden_size_per_layer_input": 0, "global_head_dim": 8, "layer_types": _SLIDING},
    "gemma4_unified_text": {"hidden_size_per_layer_input": 0, "global_head_dim": 8, "layer_types": _SLIDING},
    "gemma3n_text": {
        "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
        "layer_types": _SLIDING, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4,
    },
    "gpt_neo": {"num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 4},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "glm4_moe_lite": _LATENT,
    "granite": {"residual_multiplier": 0.6, "embedding_multiplier": 1.7, "logits_scaling": 1.3},
    "granite_swa": {"residual_multiplier": 0.6},
    "granitemoehybrid": {"residual_multiplier": 0.6, "layer_types": ["linear_attention", "full_attention"] * 2},
    "granitemoeshared": {"residual_multiplier": 0.6},
    "granitemoe": {"residual_multiplier": 0.6},
    "hyperclovax": {"residual_multiplier": 0.6},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"full_attn_idxs": [1, 3], "block_ff_dim": 48, "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 2},
    "llama4_text": {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 8},
    "opt": {"word_embed_proj_dim": 32},
    "phi": {"num_key_value_heads": 4},
    "phi4_multimodal": {
        "vision_config": {**_SENSE, "image_size": 28, "patch_size": 14},
        "audio_config": {
            **_SENSE, "num_blocks": 1, "ext_pw_out_channel": 16, "input_size": 16, "nemo_conv_channels": 8,
            "depthwise_separable_out_channel": 16,
        },
    },
    "qwen2_moe": {"mlp_only_layers": [0], "sliding_window": None},
    "qwen3_moe": {"mlp_only_layers": [0]},
    "qwen3_next": {"mlp_only_layers": [0], "layer_types": ["linear_attention", "full_attention"] * 2},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "youtu": _LATENT,
    "zaya": {"num_experts_per_tok": 1},
    "minicpm3": _LATENT,
}  # fmt: skip


def tiny_config(model_type: str, **changes: Any) -> Any:
    """A configuration of this architecture; only settings that its class knows are given."""
    made = CONFIG_MAPPING[model_type]
    known = {*inspect.signature(made.__init__).parameters, *getattr(made, "__dataclass_fields__", {})}
    known |= set(getattr(made, "attribute_map", {}))
    settings = {name: value for name, value in _SETTINGS.items() if name in known}
    return made(**{**settings, **_SPECIAL.get(model_type, {}), **changes})


def tiny_family_lm(model_type: str, *, seed: int = 0, **changes: Any) -> Any:
    """A causal language model of this architecture, as its class makes it."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(tiny_config(model_type, **changes)).eval()
