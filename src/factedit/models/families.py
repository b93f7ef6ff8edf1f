"""One row per architecture: where a decoder keeps what the field talks about.

The field's terms are those of ROME (arXiv 2202.05262, section 2): in layer l the hidden state grows by
two contributions, h[l] = h[l-1] + attn_out + mlp_out, and the MLP is a memory whose *keys* are the inputs
and whose *values* are the outputs of its last matrix. A row names the modules that give these; nothing
else in factedit knows an architecture. `check.py` proves a row on the loaded model.
"""

from __future__ import annotations

from dataclasses import dataclass

from factedit.errors import UnknownName

EXPERTS = "its MLP is a mixture of experts, stored as one stacked tensor per layer"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where one architecture keeps layers, contributions and the edited matrix.

    Args:
        name: `config.model_type` of the architecture.
        layers: path of the list of layers, from the causal language model.
        attn_out: path inside a layer of the module whose output the residual receives from attention.
        mlp_out: the same for the MLP: the norm after the matrix where there is one.
        matrix: path inside a layer of the last matrix of the MLP, the one that is edited.
        stored_in_out: the matrix is stored `[d_mlp, d_model]` (GPT-2's Conv1D), not `[d_model, d_mlp]`.
        tuple_output: a layer returns a tuple whose first entry is the hidden state.
        flat_tokens: the matrix sees `[batch * tokens, d_mlp]`.
        norm_after: a norm stands between the matrix and the residual, so only the value's direction counts.
        parallel: attention and MLP read the same input.
        experts: why the matrix cannot be edited, or an empty string.
    """

    name: str
    layers: str = "model.layers"
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    matrix: str = "mlp.down_proj"
    stored_in_out: bool = False
    tuple_output: bool = False
    flat_tokens: bool = False
    norm_after: bool = False
    parallel: bool = False
    experts: str = ""


def _norm_after(name: str, attn_norm: str, mlp_norm: str) -> Family:
    return Family(name=name, attn_out=attn_norm, mlp_out=mlp_norm, norm_after=True)


_POST = ("post_attention_layernorm", "post_feedforward_layernorm")

_ROWS = (
    # gated MLP, sequential, matrix straight into the residual
    *(Family(name=n) for n in ("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo", "phi3", "stablelm", "smollm3")),
    # a norm between the matrix and the residual
    *(_norm_after(n, *_POST) for n in ("gemma2", "gemma3_text", "olmo2")),
    _norm_after("glm4", "post_self_attn_layernorm", "post_mlp_layernorm"),
    # attention and MLP read the same input
    *(Family(name=n, parallel=True) for n in ("cohere", "cohere2")),
    Family(name="phi", matrix="mlp.fc2", parallel=True),
    Family(name="gptj", layers="transformer.h", attn_out="attn", matrix="mlp.fc_out", tuple_output=True, parallel=True),
    Family(name="gpt_neox", layers="gpt_neox.layers", attn_out="attention", matrix="mlp.dense_4h_to_h", parallel=True),
    Family(
        name="falcon",
        layers="transformer.h",
        attn_out="self_attention",
        matrix="mlp.dense_4h_to_h",
        tuple_output=True,
        parallel=True,
    ),
    # plain two-matrix MLP, sequential
    Family(name="starcoder2", matrix="mlp.c_proj"),
    Family(name="gpt2", layers="transformer.h", attn_out="attn", matrix="mlp.c_proj", stored_in_out=True),
    Family(name="gpt_neo", layers="transformer.h", attn_out="attn", matrix="mlp.c_proj", tuple_output=True),
    Family(name="opt", layers="model.decoder.layers", mlp_out="fc2", matrix="fc2", flat_tokens=True),
    # BLOOM's attention and MLP modules return the sum with the residual: their last matrices are the contributions
    Family(
        name="bloom",
        layers="transformer.h",
        attn_out="self_attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        matrix="mlp.dense_4h_to_h",
        tuple_output=True,
    ),
    # stacked experts: traced, not edited
    *(Family(name=n, experts=EXPERTS) for n in ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3")),
)

FAMILIES: dict[str, Family] = {row.name: row for row in _ROWS}


def family_of(model_type: str) -> Family:
    """The row of an architecture.

    Raises:
        UnknownName: no row has this `model_type`; the message offers the nearest.
    """
    if model_type not in FAMILIES:
        raise UnknownName(
            "architecture",
            model_type,
            FAMILIES,
            "A new one is one row in factedit/models/families.py, proven by its conformance test.",
        )
    return FAMILIES[model_type]
