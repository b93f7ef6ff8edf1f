"""What a row says of an architecture: where a decoder keeps what the field talks about.

The field's terms are those of ROME (arXiv 2202.05262, section 2): in layer l the hidden state grows by
two contributions, h[l] = h[l-1] + attn_out + mlp_out, and the MLP is a memory whose *keys* are the inputs
and whose *values* are the outputs of its last matrix. A row names the modules that give these; nothing
else in factedit knows an architecture. The rows are in `family_table.py`; `check.py` proves one on the loaded model.

Layers of one model may differ (attention here, a state there; an MLP here, experts there). A row therefore gives
alternatives, `self_attn|linear_attn`: of each layer the first that it has. Contributions may be a sum of several
modules' outputs, each times a number that the layer keeps: `mamba*ssm_out_multiplier+self_attn*attn_out_multiplier`.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field

from factedit.errors import UnsupportedModel, UsageError

Contribution = Literal["attn", "mlp"]
CONTRIBUTIONS: tuple[Contribution, ...] = get_args(Contribution)
MatrixKind = Literal["out", "in", "gate"]
MATRICES: tuple[MatrixKind, ...] = get_args(MatrixKind)
SHARED = "shared"
# a kind; of an expert with its number (`out.5`), of the one that gets every token `out.shared`
MatrixName = Annotated[str, Field(pattern=r"^(out|in|gate)(\.(0|[1-9]\d*|shared))?$")]
Place = tuple[int, MatrixName]  # layer and matrix, with its expert


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
        attn_out: path inside a layer of the module whose output the residual receives from attention; alternatives
            and sums as above.
        mlp_out: the same for the MLP: the norm after the matrix where there is one.
        matrix: path inside a layer of the last matrix of the MLP, the one whose inputs are the keys: `out`;
            alternatives as above.
        matrix_in: the same for the matrix that reads the hidden state: `in` (with the gate's rows above, where the
            family stores both as one).
        matrix_gate: the same for the matrix whose activation multiplies the one of `in`: `gate`; empty where there
            is none of its own.
        stored_in_out: matrices, or those of experts, are stored `[d_in, d_out]` (GPT-2's Conv1D), not `[d_out, d_in]`.
        tuple_output: a layer returns a tuple whose first entry is the hidden state.
        experts: path inside a layer of the module that stores stacked experts, in the way of transformers' experts
            interface; a layer that has none there has one MLP. Empty: no layer has any that can be edited.
        shared: the same for the MLP that gets every token beside the routed ones.
        shared_gate: the same for what gives the weight of the shared MLP, before the sigmoid; empty: it counts whole.
        state: path inside a layer of a part that only a module has which goes on from a state and not from keys and
            values (the convolution of Mamba and of linear attention); alternatives as above, empty where no layer has.
        gain: what a layer multiplies its sum by, as it keeps it; empty for 1.
        embedding_gain: what the body multiplies embeddings of tokens by, and not those that it is given; empty for 1.
        refused: why no matrix can be edited, or an empty string.
        refused_settings: settings of the configuration that must be off, and why.
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
    experts: str = ""
    shared: str = ""
    shared_gate: str = ""
    state: str = ""
    gain: str = ""
    embedding_gain: str = ""
    refused: str = ""
    refused_settings: tuple[tuple[str, str], ...] = ()
    gguf: str = ""

    def paths(self, which: str) -> tuple[str, ...]:
        """Return the paths inside a layer of one of the MLP's matrices: alternatives, of which a layer has one.

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
        return alternatives(paths[which])

    def check_edited(self, model: str) -> None:
        """Refuse to edit a model of an architecture that can only be traced.

        Args:
            model: its name.
        """
        if self.refused:
            raise UnsupportedModel(
                f"{model} ({self.name}) cannot be edited: {self.refused}. It can be traced; for an edit choose a model "
                "with one MLP per layer."
            )

    def tensor(self, layer: int, which: str, there: Container[str]) -> str:
        """Return the name in the `state_dict` of one of the MLP's matrices.

        Args:
            layer: which layer.
            which: one of `MATRICES`.
            there: the modules that have tensors.

        Raises:
            UsageError, UnsupportedModel: as `paths`.
            UnsupportedModel: this layer has none.
        """
        for path in self.paths(which):
            module = f"{self.layers}.{layer}.{path}"
            if module in there:
                return f"{module}.weight"
        raise no_matrix(self, layer, which)

    def expert_tensor(self, layer: int, which: str, there: Container[str]) -> str:
        """Return the name in the `state_dict` of what stores an expert's matrix, and the other experts' with it.

        Args:
            layer: which layer.
            which: a matrix of an expert, `out.5`, or of the shared one, `out.shared`.
            there: the names of all tensors.

        Raises:
            UnsupportedModel: this layer has none.
        """
        kind, expert = split_name(which)
        names = (
            [f"{self.experts}.down_proj"] if kind == "out" else [f"{self.experts}.{n}up_proj" for n in ("gate_", "")]
        )
        if expert == SHARED:
            names = [f"{self.shared}.{self.paths(kind)[0].rpartition('.')[2]}.weight"]
        matching = (name for relative in names if (name := f"{self.layers}.{layer}.{relative}") in there)
        if (name := next(matching, "")) == "":
            raise UnsupportedModel(
                f"Layer {layer} has no expert's matrix {which!r}: the edit was made for another model."
            )
        return name


def no_matrix(family: Family, layer: int, which: str) -> UnsupportedModel:
    """Return what is said of a layer without such a matrix."""
    return UnsupportedModel(
        f"Layer {layer} of {family.name} has no matrix {which!r} of its own: it has experts, stored in a way that is "
        "not edited. It can be traced; edit another layer."
    )


def alternatives(paths: str) -> tuple[str, ...]:
    """Return the paths of a row's `a|b`; none of an empty one."""
    return tuple(path for path in paths.split("|") if path)


def terms(contribution: str) -> tuple[tuple[str, str], ...]:
    """Return the modules of a row's `a*s+b`, each with the name of what it is multiplied by (empty for 1)."""
    return tuple((path, factor) for path, _, factor in (term.partition("*") for term in contribution.split("+")))
