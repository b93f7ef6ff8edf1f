"""One row per architecture: where a decoder keeps what the field talks about.

The field's terms are those of ROME (arXiv 2202.05262, section 2): in layer l the hidden state grows by
two contributions, h[l] = h[l-1] + attn_out + mlp_out, and the MLP is a memory whose *keys* are the inputs
and whose *values* are the outputs of its last matrix. A row names the modules that give these; nothing
else in factedit knows an architecture. `check.py` proves a row on the loaded model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from factedit.errors import UnknownName, UnsupportedModel, UsageError

Contribution = Literal["attn", "mlp"]
CONTRIBUTIONS: tuple[Contribution, ...] = get_args(Contribution)
MatrixKind = Literal["out", "in", "gate"]
MATRICES: tuple[MatrixKind, ...] = get_args(MatrixKind)
SHARED = "shared"
# a kind; of an expert with its number (`out.5`), of the one that gets every token `out.shared`
MatrixName = Annotated[str, Field(pattern=r"^(out|in|gate)(\.(0|[1-9]\d*|shared))?$")]
Place = tuple[int, MatrixName]  # layer and matrix, with its expert
STACKED = "mlp.experts"


def matrix_name(kind: str, expert: int | str) -> str:
    """Return the name of an expert's matrix."""
    return f"{kind}.{expert}"


def split_name(name: str) -> tuple[str, str]:
    """Return kind and expert of a matrix's name; the expert is empty where there is none."""
    kind, _, expert = name.partition(".")
    return kind, expert


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where one architecture keeps layers, contributions and the edited matrix.

    Args:
        name: `config.model_type` of the architecture.
        layers: path of the list of layers, from the causal language model.
        attn_out: path inside a layer of the module whose output the residual receives from attention.
        mlp_out: the same for the MLP: the norm after the matrix where there is one.
        matrix: path inside a layer of the last matrix of the MLP, the one whose inputs are the keys: `out`.
        matrix_in: the same for the matrix that reads the hidden state: `in` (with the gate's rows above, where the
            family stores both as one).
        matrix_gate: the same for the matrix whose activation multiplies the one of `in`: `gate`; empty where there
            is none of its own.
        stored_in_out: matrices are stored `[d_in, d_out]` (GPT-2's Conv1D), not `[d_out, d_in]`.
        tuple_output: a layer returns a tuple whose first entry is the hidden state.
        norm_after: a norm stands between the matrix and the residual, so only the value's direction counts.
        experts: path inside a layer of the module that stores stacked experts, in the way of transformers' experts
            interface; a layer that has none there has one MLP. Empty: no layer has any.
        shared: the same for the MLP that gets every token beside the routed ones.
        shared_gate: the same for what gives the weight of the shared MLP, before the sigmoid; empty: it counts whole.
        refused: why the matrix cannot be edited, or an empty string.
        gguf: what llama.cpp calls the architecture (`general.architecture`); empty where it has none.
    """

    name: str
    layers: str = "model.layers"
    attn_out: str = "self_attn"
    mlp_out: str = "mlp"
    matrix: str = "mlp.down_proj"
    matrix_in: str = "mlp.up_proj"
    matrix_gate: str = "mlp.gate_proj"
    stored_in_out: bool = False
    tuple_output: bool = False
    norm_after: bool = False
    experts: str = ""
    shared: str = ""
    shared_gate: str = ""
    refused: str = ""
    gguf: str = ""

    def path(self, which: str) -> str:
        """Return the path inside a layer of one of the MLP's matrices.

        Args:
            which: one of `MATRICES`.

        Raises:
            UsageError: no such name.
            UnsupportedModel: this architecture has no such matrix.
        """
        paths = {"out": self.matrix, "in": self.matrix_in, "gate": self.matrix_gate}
        if which not in paths:
            raise UsageError(f"The matrix {which!r} was asked for; an MLP's matrices are {', '.join(MATRICES)}.")
        if not paths[which]:
            raise UnsupportedModel(
                f"The MLP of {self.name} has no matrix {which!r} of its own. "
                f"It has {', '.join(name for name in MATRICES if paths[name])}."
            )
        return paths[which]


_FUSED: dict[str, Any] = {"matrix_in": "mlp.gate_up_proj", "matrix_gate": ""}


def _norm_after(name: str, attn_norm: str, mlp_norm: str, **places: Any) -> Family:
    return Family(name=name, attn_out=attn_norm, mlp_out=mlp_norm, norm_after=True, **places)


def _plain(name: str, matrix: str, matrix_in: str, **rest: Any) -> Family:
    """Return a row without a gate."""
    return Family(name=name, matrix=matrix, matrix_in=matrix_in, matrix_gate="", **rest)


_DENSE = ("mlp.dense_4h_to_h", "mlp.dense_h_to_4h")
_POST = ("post_attention_layernorm", "post_feedforward_layernorm")

_ROWS = (
    # gated MLP, sequential, matrix straight into the residual
    Family(name="mistral", gguf="llama"),
    *(Family(name=n, gguf=n) for n in ("llama", "qwen2", "qwen3", "gemma", "olmo", "stablelm", "smollm3")),
    Family(name="phi3", gguf="phi3", **_FUSED),
    # a norm between the matrix and the residual
    _norm_after("gemma3_text", *_POST, gguf="gemma3"),
    *(_norm_after(n, *_POST, gguf=n) for n in ("gemma2", "olmo2")),
    _norm_after("glm4", "post_self_attn_layernorm", "post_mlp_layernorm", gguf="glm4", **_FUSED),
    # attention and MLP read the same input
    Family(name="cohere", gguf="command-r"),
    Family(name="cohere2", gguf="cohere2"),
    _plain("phi", "mlp.fc2", "mlp.fc1", gguf="phi2"),
    _plain("gptj", "mlp.fc_out", "mlp.fc_in", layers="transformer.h", attn_out="attn", tuple_output=True),
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
    _plain("starcoder2", "mlp.c_proj", "mlp.c_fc", gguf="starcoder2"),
    _plain("gpt2", "mlp.c_proj", "mlp.c_fc", layers="transformer.h", attn_out="attn", stored_in_out=True, gguf="gpt2"),
    _plain("gpt_neo", "mlp.c_proj", "mlp.c_fc", layers="transformer.h", attn_out="attn", tuple_output=True),
    _plain("opt", "fc2", "fc1", layers="model.decoder.layers", mlp_out="fc2"),
    # BLOOM's attention and MLP modules return the sum with the residual: their last matrices are the contributions
    _plain(
        "bloom",
        *_DENSE,
        layers="transformer.h",
        attn_out="self_attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        tuple_output=True,
        gguf="bloom",
    ),
    # stacked experts
    *(Family(name=n, experts=STACKED) for n in ("mixtral", "qwen3_moe", "gpt_oss")),
    Family(name="deepseek_v3", experts=STACKED, shared="mlp.shared_experts"),
)

FAMILIES: dict[str, Family] = {row.name: row for row in _ROWS}


def family_of(model_type: str) -> Family:
    """Return the row of an architecture.

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
