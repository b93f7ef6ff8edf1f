"""The transformers configuration that a .gguf file's metadata describes: `gemma3` (text) and `llama`.

A key that is not known here is refused by name: skipping it (a rope scaling, an expert) would give a model that
looks right and computes something else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factedit.errors import DataError, UnsupportedModel, shown
from factedit.files.gguf_reader import GgufFile

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GEMMA3_LOCAL_THETA = 10_000.0  # of the sliding layers, where the file does not say
GEMMA3_PATTERN = 6  # every sixth layer sees all tokens, where the file does not say
_GEMMA3_27B_LAYERS = 62  # the one size whose queries are scaled by d_model / heads, which no key says

_KEYS = {
    "context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon",
    "attention.key_length", "attention.value_length",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.finetuned", "expert_count", "expert_used_count",
}  # fmt: skip
_GEMMA3_KEYS = {
    "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa",
    "final_logit_softcapping", "attn_logit_softcapping", "mm.tokens_per_image",
}  # fmt: skip
KEYS = {"llama": _KEYS, "gemma3": _KEYS | _GEMMA3_KEYS}


@dataclass(frozen=True)
class GgufShape:
    """The sizes of a GGUF file's model.

    Attributes:
        file: its name, for messages.
        architecture: `gemma3` or `llama`.
        said: the metadata under the architecture's name.
        layers: how many.
        sizes: v vocabulary, d d_model, m d_mlp, q all queries, k all keys, h one head.
    """

    file: str
    architecture: str
    said: dict[str, Any]
    layers: int
    sizes: dict[str, int]

    def number(self, key: str, default: float | None = None, *, whole: bool = True) -> Any:
        """Return the number under a key; see `_number`."""
        return _number(self.file, self.architecture, self.said, key, default, whole=whole)


def shape_of(file: GgufFile) -> GgufShape:
    """Return the sizes of the model, refused where they cannot be its own.

    Raises:
        UnsupportedModel: an architecture or a key that is not known.
        DataError: a key that is missing or holds something else than a positive number.
    """
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in KEYS:
        raise UnsupportedModel(
            f"{file.name} holds a model of architecture {shown(architecture)}; of .gguf files, "
            f"{' and '.join(sorted(KEYS))} are read. Use the model's folder in the transformers format instead."
        )
    said = {key.removeprefix(f"{architecture}."): value for key, value in file.metadata.items()}
    said = {key: value for key, value in said.items() if f"{architecture}.{key}" in file.metadata}
    _refuse_unknown(file.name, architecture, said)

    def number(key: str, default: int | None = None) -> int:
        value: int = _number(file.name, architecture, said, key, default)
        return value

    width, heads = number("embedding_length"), number("attention.head_count")
    key_heads = number("attention.head_count_kv", heads)
    head = number("attention.key_length", width // heads or 1)
    for key in ("attention.value_length", "rope.dimension_count"):
        if number(key, head) != head:
            raise UnsupportedModel(f"{file.name} gives {architecture}.{key} = {said[key]} for heads of size {head}.")
    if heads % key_heads or head % 2:
        raise DataError(f"{file.name} gives {heads} heads of size {head} and {key_heads} key heads, which cannot be.")
    table = file.tensors.get("token_embd.weight")
    if table is None:
        raise DataError(f"{file.name} holds no tensor 'token_embd.weight'. Download or convert it again.")
    sizes = {"v": table.shape[0], "d": width, "m": number("feed_forward_length"), "h": head}
    sizes |= {"q": heads * head, "k": key_heads * head}
    return GgufShape(file.name, architecture, said, number("block_count"), sizes)


def config_of(file: GgufFile) -> PreTrainedConfig:
    """Return the transformers configuration that a GGUF file describes.

    Raises:
        UnsupportedModel: an architecture or a key that is not known.
        DataError: a key that is missing or holds something else than a positive number.
    """
    shape = shape_of(file)
    sizes = shape.sizes
    common: dict[str, Any] = {
        "vocab_size": sizes["v"], "hidden_size": sizes["d"], "intermediate_size": sizes["m"],
        "num_hidden_layers": shape.layers, "head_dim": sizes["h"],
        "num_attention_heads": sizes["q"] // sizes["h"], "num_key_value_heads": sizes["k"] // sizes["h"],
        "max_position_embeddings": shape.number("context_length"),
        "rms_norm_eps": shape.number("attention.layer_norm_rms_epsilon", whole=False),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }  # fmt: skip
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
            raise DataError(f"{file.name} gives tokenizer.ggml.{key}_token_id = {shown(number)}, not a token's number.")
        if number is not None or role != "unk":
            common[f"{role}_token_id"] = number
    return _gemma3(shape, common) if shape.architecture == "gemma3" else _llama(shape, common)


def _llama(shape: GgufShape, common: dict[str, Any]) -> PreTrainedConfig:
    from transformers import LlamaConfig

    rope = {"rope_theta": shape.number("rope.freq_base", 10_000.0, whole=False), **_scaling(shape)}
    return LlamaConfig(rope_parameters=rope, **common)


def _gemma3(shape: GgufShape, common: dict[str, Any]) -> PreTrainedConfig:
    from transformers import Gemma3TextConfig

    pattern = shape.number("attention.sliding_window_pattern", GEMMA3_PATTERN)
    kinds = ["full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(shape.layers)]
    whole = {"rope_theta": shape.number("rope.freq_base", 1_000_000.0, whole=False), **_scaling(shape)}
    local = {"rope_theta": shape.number("rope.freq_base_swa", GEMMA3_LOCAL_THETA, whole=False), "rope_type": "default"}
    heads = common["num_attention_heads"]
    scalar = common["hidden_size"] // heads if shape.layers == _GEMMA3_27B_LAYERS else common["head_dim"]
    caps = {
        name: shape.number(name, whole=False)
        for name in ("final_logit_softcapping", "attn_logit_softcapping")
        if name in shape.said
    }
    return Gemma3TextConfig(
        layer_types=kinds,
        sliding_window=shape.number("attention.sliding_window"),
        query_pre_attn_scalar=scalar,
        rope_parameters={"full_attention": whole, "sliding_attention": local},
        **caps,
        **common,
    )


def _scaling(shape: GgufShape) -> dict[str, Any]:
    kind = shape.said.get("rope.scaling.type", "none")
    if not isinstance(kind, str):
        raise DataError(f"{shape.file} gives {shape.architecture}.rope.scaling.type = {shown(kind)}, not a name.")
    if kind == "none":
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": shape.number("rope.scaling.factor", whole=False)}
    raise UnsupportedModel(
        f"{shape.file} scales its positions by the rule {shown(kind)}; 'linear' is read. "
        "Use the model's folder in the transformers format instead."
    )


def _refuse_unknown(file: str, architecture: str, said: dict[str, Any]) -> None:
    unknown = sorted(set(said) - KEYS[architecture])
    if unknown:
        raise UnsupportedModel(
            f"{file} sets {', '.join(f'{architecture}.{key[:60]}' for key in unknown[:5])}, which is not known here "
            "and could change what the model computes. Use the model's folder in the transformers format instead."
        )
    experts = said.get("expert_count", 0)
    if not isinstance(experts, int) or experts:
        raise UnsupportedModel(
            f"{file} holds a mixture of {shown(experts)} experts, which is not read from .gguf files. "
            "Use the model's folder in the transformers format instead."
        )


def _number(
    file: str, architecture: str, said: dict[str, Any], key: str, default: float | None = None, *, whole: bool = True
) -> Any:
    """The positive number under a key, or its default.

    Raises:
        DataError: there is none, or it is no positive number.
    """
    value = said.get(key, default)
    if value is None:
        raise DataError(f"{file} does not give {architecture}.{key}. Download or convert it again.")
    number = isinstance(value, int) if whole else isinstance(value, int | float)
    if not number or isinstance(value, bool) or not 0 < value < 1 << 31:
        raise DataError(f"{file} gives {architecture}.{key} = {shown(value)}, not a positive number.")
    return value
