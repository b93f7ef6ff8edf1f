"""One row per architecture, and how to find it. What a row's entries mean is said in `families.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from factedit.errors import UnknownName, UnsupportedModel
from factedit.models.families import Family
from factedit.models.refused import REFUSED

_FUSED: dict[str, Any] = {"matrix_in": "mlp.gate_up_proj", "matrix_gate": ""}
_DENSE = ("mlp.dense_4h_to_h", "mlp.dense_h_to_4h")
_FC = ("mlp.c_proj", "mlp.c_fc")
_TWO = ("fc2", "fc1")
_POST = ("post_attention_layernorm", "post_feedforward_layernorm")
_GPT: dict[str, Any] = {"layers": "transformer.h", "attn_out": "attn"}
_SCALED: dict[str, Any] = {"attn_out": "self_attn*residual_multiplier", "mlp_out": "mlp*residual_multiplier"}
_QWEN = ("shared_expert", "shared_expert_gate")
_LINEAR: dict[str, Any] = {"attn_out": "self_attn|linear_attn", "state": "linear_attn.conv1d"}
_W: dict[str, Any] = {
    "matrix": "feed_forward.w2", "matrix_in": "feed_forward.w3", "matrix_gate": "feed_forward.w1", "state": "conv.conv",
}  # fmt: skip


def _norm_after(name: str, attn_norm: str, mlp_norm: str, **places: Any) -> Family:
    return Family(name=name, attn_out=attn_norm, mlp_out=mlp_norm, **places)


def _plain(name: str, matrix: str, matrix_in: str, **rest: Any) -> Family:
    """Return a row without a gate."""
    return Family(name=name, matrix=matrix, matrix_in=matrix_in, matrix_gate="", **rest)


def _gated(name: str, *blocks: str, **rest: Any) -> Family:
    """Return a row of gated MLPs that stand in one of these blocks."""

    def in_blocks(matrix: str) -> str:
        return "|".join(f"{block}.{matrix}" for block in blocks)

    return Family(
        name=name, matrix=in_blocks("down_proj"), matrix_in=in_blocks("up_proj"), matrix_gate=in_blocks("gate_proj"),
        **rest,
    )  # fmt: skip


def _experts(name: str, shared: str = "", gate: str = "", **rest: Any) -> Family:
    """Return a row of stacked experts, in some layers or in all, and of what they share."""
    shared, gate = (f"mlp.{part}" if part else "" for part in (shared, gate))
    return Family(name=name, experts="mlp.experts", shared=shared, shared_gate=gate, **rest)


_ROWS = (
    # gated MLP, sequential, matrix straight into the residual
    Family(name="mistral", gguf="llama"),
    *(Family(name=n, gguf=n) for n in ("llama", "qwen2", "qwen3", "gemma", "olmo", "stablelm")),
    *(Family(name=n, gguf=n) for n in ("smollm3", "seed_oss", "ernie4_5")),
    Family(name="hunyuan_v1_dense", gguf="hunyuan-dense"),
    *(Family(name=n) for n in ("bitnet", "cwm", "diffllama", "helium", "internlm3", "iquestcoder")),
    *(Family(name=n) for n in ("ministral", "ministral3", "vaultgemma", "youtu")),
    Family(name="phi3", gguf="phi3", **_FUSED),
    Family(name="phi4_multimodal", **_FUSED),
    Family(name="glm", gguf="chatglm", **_FUSED),
    _plain("modernbert-decoder", "mlp.Wo", "mlp.Wi", attn_out="attn"),
    # what modules give is multiplied before it is added
    Family(name="granite", gguf="granite", **_SCALED),
    Family(name="granite_swa", **_SCALED),
    Family(name="minicpm3", gguf="minicpm3", attn_out="self_attn*residual_scale", mlp_out="mlp*residual_scale"),
    Family(name="hyperclovax", attn_out="post_norm1*residual_multiplier", mlp_out="post_norm2*residual_multiplier"),
    # a norm between the matrix and the residual
    _norm_after("gemma3_text", *_POST, gguf="gemma3"),
    *(_norm_after(n, *_POST, gguf=n) for n in ("gemma2", "olmo2", "exaone4")),
    _norm_after("olmo3", *_POST),
    *(
        _norm_after(
            n,
            *_POST,
            gain="layer_scalar",
            refused_settings=(
                ("hidden_size_per_layer_input", "its layers read the token ids once more, which no hidden state holds"),
                ("num_kv_shared_layers", "its upper layers read the keys of lower ones, so none can be resumed alone"),
            ),
        )
        for n in ("gemma4_text", "gemma4_unified_text")
    ),
    _norm_after("glm4", "post_self_attn_layernorm", "post_mlp_layernorm", gguf="glm4", **_FUSED),
    # attention and MLP read the same input
    Family(name="cohere", gguf="command-r"),
    Family(name="cohere2", gguf="cohere2"),
    Family(name="cohere_compass_text"),
    _plain("phi", "mlp.fc2", "mlp.fc1", gguf="phi2"),
    *(_plain(n, "mlp.fc_out", "mlp.fc_in", tuple_output=True, **_GPT) for n in ("gptj", "codegen")),
    _plain("gpt_neox", *_DENSE, layers="gpt_neox.layers", attn_out="attention", gguf="gptneox"),
    _plain(
        "falcon",
        *_DENSE,
        layers="transformer.h",
        attn_out="self_attention",
        tuple_output=True,
        gguf="falcon",
    ),
    # plain two-matrix MLP, sequential
    _plain("starcoder2", *_FC, gguf="starcoder2"),
    *(_plain(n, *_FC, stored_in_out=True, gguf="gpt2", **_GPT) for n in ("gpt2", "gpt-sw3")),
    _plain("gpt_neo", *_FC, tuple_output=True, **_GPT),
    _plain("gpt_bigcode", *_FC, gguf="starcoder", **_GPT),
    _plain("persimmon", *_DENSE),
    _plain("ctrl", "ffn.2", "ffn.0", layers="transformer.h", attn_out="multi_head_attention", mlp_out="ffn"),
    *(_plain(n, "mlp.fc2", "mlp.fc1") for n in ("nanochat", "moshi")),
    *(_plain(n, "mlp.down_proj", "mlp.up_proj", gguf=n) for n in ("arcee", "nemotron", "apertus", "jais2")),
    _plain("opt", *_TWO, layers="model.decoder.layers", mlp_out="fc2"),
    _plain("xglm", *_TWO, mlp_out="fc2"),
    _plain("biogpt", *_TWO, layers="biogpt.layers", mlp_out="fc2"),
    # the MLP (BLOOM: attention too) returns the sum with the residual: its last matrix is the contribution
    _plain(
        "bloom",
        *_DENSE,
        layers="transformer.h",
        attn_out="self_attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        tuple_output=True,
        gguf="bloom",
    ),
    _plain(
        "mpt",
        "ffn.down_proj",
        "ffn.up_proj",
        layers="transformer.blocks",
        attn_out="attn",
        mlp_out="ffn.down_proj",
        tuple_output=True,
        gguf="mpt",
    ),
    # some layers go on from a state (Mamba, linear attention, convolutions)
    Family(name="qwen3_5_text", **_LINEAR),
    Family(
        name="olmo_hybrid",
        attn_out="linear_attn|post_attention_layernorm",
        mlp_out="post_feedforward_layernorm|mlp",
        state="linear_attn.conv1d",
    ),
    Family(name="lfm2", attn_out="self_attn|conv", mlp_out="feed_forward", gguf="lfm2", **_W),
    Family(name="lfm3", attn_out="post_operator_norm", mlp_out="post_ffn_norm", **_W),
    _gated(
        "bamba",
        "feed_forward",
        attn_out="self_attn|mamba",
        mlp_out="feed_forward",
        state="mamba.conv1d",
        tuple_output=True,
    ),
    _gated(
        "falcon_h1",
        "feed_forward",
        attn_out="mamba*ssm_out_multiplier+self_attn*attn_out_multiplier",
        mlp_out="feed_forward",
        state="mamba.conv1d",
        embedding_gain="embedding_multiplier",
        tuple_output=True,
        gguf="falcon-h1",
    ),
    _gated(
        "jamba",
        "feed_forward",
        attn_out="self_attn|mamba",
        mlp_out="feed_forward",
        state="mamba.conv1d",
        experts="feed_forward.experts",
        gguf="jamba",
    ),
    # stacked experts, in some layers or in all; a shared one beside them
    *(
        _experts(n, "shared_experts", gguf=gguf)
        for n, gguf in (
            ("deepseek_v2", "deepseek2"),
            ("deepseek_v3", "deepseek2"),
            ("ernie4_5_moe", "ernie4_5-moe"),
            ("glm4_moe", "glm4moe"),
            ("dots1", "dots1"),
            ("glm4_moe_lite", ""),
            ("exaone_moe", ""),
            ("hy_v3", ""),
            ("laguna", ""),
            ("solar_open", ""),
        )
    ),
    _experts("kolibri1", "shared_experts", attn_out="post_self_attn_layernorm", mlp_out="post_mlp_layernorm"),
    _experts("afmoe", "shared_experts", attn_out=_POST[0], mlp_out="post_mlp_layernorm"),
    _experts("hunyuan_v1_moe", "shared_mlp", gguf="hunyuan-moe"),
    _experts("qwen2_moe", *_QWEN, gguf="qwen2moe"),
    _experts("qwen3_next", *_QWEN, gguf="qwen3next", **_LINEAR),
    _experts("qwen3_5_moe_text", *_QWEN, **_LINEAR),
    _experts("flint", "shared_expert"),
    *(_experts(n, "shared_experts", state="self_attn.conv1d") for n in ("bailing_hybrid", "kimi_linear")),
    *(_experts(n) for n in ("mixtral", "qwen3_moe", "phimoe", "olmoe", "mellum", "minimax_m2")),
    *(_experts(n) for n in ("mimo_v2_flash", "cohere2_moe")),
    _experts("gpt_oss", stored_in_out=True),
    _experts("aria_text", "shared_experts", stored_in_out=True),
    _experts("flex_olmo", attn_out=_POST[0], mlp_out=_POST[1]),
    Family(name="lfm2_moe", attn_out="self_attn|conv", mlp_out="feed_forward", experts="feed_forward.experts", **_W),
    Family(
        name="granitemoe",
        experts="block_sparse_moe.experts",
        attn_out=_SCALED["attn_out"],
        mlp_out="block_sparse_moe*residual_multiplier",
    ),
    # experts that are not edited, beside layers or matrices that are
    _gated(
        "llama4_text",
        "feed_forward",
        "feed_forward.shared_expert",
        mlp_out="feed_forward",
        gguf="llama4",
    ),
    Family(name="axk1"),  # a norm behind its experts
    *(
        Family(
            name=n,
            attn_out=attn,
            mlp_out="block_sparse_moe*residual_multiplier+shared_mlp*residual_multiplier"
            "|shared_mlp*residual_multiplier|block_sparse_moe*residual_multiplier",
            matrix="shared_mlp.output_linear",
            matrix_in="shared_mlp.input_linear",
            matrix_gate="",
            state=state,
        )
        for n, attn, state in (
            ("granitemoeshared", "self_attn*residual_multiplier", ""),
            ("granitemoe_swa", "self_attn*residual_multiplier", ""),
            ("granitemoehybrid", "self_attn*residual_multiplier|mamba*residual_multiplier", "mamba.conv1d"),
        )
    ),
    Family(
        name="dbrx",
        layers="transformer.blocks",
        attn_out="norm_attn_norm.attn",
        mlp_out="ffn",
        refused="its experts are stored in a way of their own",
    ),
    Family(
        name="jetmoe",
        attn_out="self_attention",
        refused="its experts are stored in a way of their own, and its attention has experts too",
    ),
)

FAMILIES: dict[str, Family] = {row.name: row for row in _ROWS}


# Where multimodal wrappers keep the body of their text model, if not in `model.language_model`.
_TEXT_BODY = {
    "idefics2": "model.text_model", "idefics3": "model.text_model", "smolvlm": "model.text_model",
    "llama4": "language_model.model",
}  # fmt: skip


def model_types_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return the `model_type` of a configuration, and that of its text model (empty where it is no wrapper)."""
    text = config.get("text_config")
    return str(config.get("model_type", "")), str(text.get("model_type", "")) if isinstance(text, Mapping) else ""


def family_of(model_type: str, text_type: str = "") -> Family:
    """Return the row of an architecture.

    Args:
        model_type: as the configuration says.
        text_type: of a multimodal wrapper what the configuration of its text model says; its row is that model's,
            with layers where the wrapper keeps them.

    Raises:
        UnknownName: no row has this `model_type`; the message offers the nearest.
        UnsupportedModel: it is known that it cannot be read, and why.
    """
    known = REFUSED.get(model_type) or REFUSED.get(text_type)
    if known:
        raise UnsupportedModel(f"{text_type or model_type} cannot be traced or edited: {known}. Choose another model.")
    if model_type not in FAMILIES and text_type in FAMILIES:
        row, body = FAMILIES[text_type], _TEXT_BODY.get(model_type, "model.language_model")
        return replace(row, layers=f"{body}.{row.layers.rpartition('.')[2]}")
    if model_type not in FAMILIES:
        raise UnknownName(
            "architecture",
            text_type or model_type,
            FAMILIES,
            "'factedit models --probe FOLDER' proposes a row for it and proves it; a new one is one row in "
            "factedit/models/family_table.py.",
        )
    return FAMILIES[model_type]
