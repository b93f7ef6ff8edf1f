"""The weights of a folder, by their headers: what is there, whether it is what the configuration asks for, and where
each tensor went.

Refused before anything is allocated: a configuration of more numbers than the files hold, whatever makes it so (a
number of layers, a width, a number of labels). Refused after loading: a tensor that the model has no place for
(biases under `attention_bias: false`, a fourth layer under a configuration of three), which transformers drops. Only
buffers that models of today compute themselves may be left over, and rotary frequencies only where they are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factedit.errors import ModelError, UnsafeFile, UnsupportedModel, shown
from factedit.files.checkpoint_checks import INDEX, PICKLES, WEIGHTS, advice, found_in, is_plain_weights, read_json
from factedit.paths import inside

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

FLOATS = {"F64", "F32", "F16", "BF16"}
MOST_LABELS = 100_000
SPARE = 1 << 20  # numbers that a configuration may ask for beyond twice what is there
BUFFERS = 1 << 30  # bytes of buffers that a model of any size may compute
_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_LAYERS = {"num_hidden_layers", "n_layer", "n_layers", "num_layers"}
_PARTS = re.compile("expert|layers|heads|groups")
# Buffers that older versions of transformers saved, and that its models compute themselves today.
_MASK = re.compile(r"(.*\.)?(attn|attention|crossattention)\.(masked_)?bias")
_FREQUENCIES = re.compile(r"(.*\.)?rotary_emb\.inv_freq")
_ALWAYS_IGNORED = (r"rotary_emb\.inv_freq", r"(^|\.)position_ids$")  # by `transformers`, for every class
_POSITIONS = re.compile(r"(.*\.)?position_ids")


@dataclass(frozen=True)
class Stored:
    """A tensor as a file's header has it.

    Attributes:
        file: its shard.
        kind: as safetensors names it, e.g. `F32`.
        shape: of the tensor.
    """

    file: str
    kind: str
    shape: tuple[int, ...]


def check_weights(folder: Path, *, what: str, blobs: Path | None = None) -> dict[str, Stored]:
    """The tensors of a folder; refused without sound safetensors weights.

    Args:
        folder: with the model's weights.
        what: how to name the model in messages.
        blobs: a folder that links may lead into (the hub's cache), besides the model's own.

    Raises:
        ModelError: no weights, a missing shard, a damaged file, an index that does not fit its shards.
        UnsafeFile: pickles only, or a shard that is not a plain name inside the folder.
    """
    index = read_index(folder, what, blobs=blobs)
    shards = {name: check_safetensors(folder / name, blobs=blobs) for name in sorted(set(index.values()))}
    _check_index(shards, index, what)
    strays = sorted(path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name) and path.name not in shards)
    if strays:
        raise ModelError(
            f"{what} holds the shard {strays[0]}, which no index names ({INDEX}), so it would not be read. "
            "Remove it, or get the index that goes with it."
        )
    if not (folder / WEIGHTS).exists():
        if not shards:
            raise _without_weights(folder, what)
        return {name: stored for tensors in shards.values() for name, stored in tensors.items()}
    single = check_safetensors(folder / WEIGHTS, blobs=blobs)
    if shards and {n: single[n].shape for n in single} != {n: s.shape for t in shards.values() for n, s in t.items()}:
        raise ModelError(
            f"{what} has both {WEIGHTS} and {INDEX}, and they do not hold the same tensors. Remove what is not the "
            "model's own."
        )
    return single


def _without_weights(folder: Path, what: str) -> ModelError:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return UnsafeFile(
            f"{what} has its weights as pickles only ({', '.join(pickles[:3])}), and loading one can run code. "
            "Get the safetensors version, or save it as one where you trust the file (transformers: save_pretrained)."
        )
    return ModelError(f"{what} has no weights ({WEIGHTS} or {INDEX}); {found_in(folder)}. {advice(folder)}")


def check_safetensors(path: Path, *, blobs: Path | None = None) -> dict[str, Stored]:
    """The tensors of a safetensors file; refused where it is missing, cut off or no such file.

    Raises:
        ModelError: naming the file and what is wrong with it.
        UnsafeFile: a link that leaves the folder, a pipe.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise ModelError(f"The weights {path.name} are missing from {path.parent}. Download the model again.")
    inside(path.parent, path.name, also=blobs, missing=ModelError)
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ModelError(f"{path} is a pointer to the weights, not the weights. Fetch them with 'git lfs pull'.")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {n: Stored(path.name, s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is cut off or damaged ({error}). Download or copy it again.") from error


def read_index(folder: Path, what: str, *, blobs: Path | None = None) -> dict[str, str]:
    """The file of every tensor, as a folder's index has it; empty where there is none.

    Raises:
        ModelError: an index that is not one.
        UnsafeFile: it names a file that is not in the folder, or is a link that leaves it.
    """
    if not (folder / INDEX).exists():
        return {}
    found = read_json(folder / INDEX, what, blobs=blobs).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ModelError(f"{INDEX} of {what} names no shards (weight_map). Download it again.")
    for name in found.values():
        if not is_plain_weights(name) or name.endswith(".json"):
            raise UnsafeFile(
                f"{INDEX} of {what} names the shard {shown(name)}; only plain names of .safetensors files in the "
                "folder are followed. Download the model again from a source you trust."
            )
    return found


def _check_index(shards: Mapping[str, Mapping[str, Stored]], index: Mapping[str, str], what: str) -> None:
    """Refuse an index that does not name just what its shards hold, each tensor once."""
    held: dict[str, str] = {}
    for shard, tensors in shards.items():
        for name in tensors:
            if name in held:
                raise ModelError(f"{what} has the tensor {name!r} in {held[name]} and in {shard}. Download it again.")
            held[name] = shard
    wrong = sorted(name for name in {*held, *index} if held.get(name) != index.get(name))
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"{INDEX} of {what} says that {name!r} is in {index.get(name, 'none of its files')}; it is in "
            f"{held.get(name, 'none of them')}. They do not belong together; download them again."
        )


# -- sizes -----------------------------------------------------------------------------------------


def check_counts(config: Mapping[str, Any], stored: Mapping[str, Stored], *, what: str) -> None:
    """Refuse numbers that would make a configuration, or the modules of a model, beyond all size.

    Args:
        config: as its file has it.
        stored: the tensors of the files.
        what: how to name the model in messages.

    Raises:
        ModelError: naming the number.
    """
    largest = max([len(stored), *(size for tensor in stored.values() for size in tensor.shape)])
    for key, value, in_list in _numbers(config):
        most = len(stored) if key in _LAYERS else MOST_LABELS if key == "num_labels" else largest
        counts = in_list or key in _LAYERS or key == "num_labels" or _PARTS.search(key)
        if counts and abs(value) > max(most, 1):
            raise ModelError(
                f"The config.json of {what} gives {key} = {value:,}, and its files hold {len(stored):,} tensors of at "
                f"most {largest:,} rows or columns. They do not belong together; get them again."
            )


def _numbers(value: Any, key: str = "", in_list: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Every whole number, under which key, and whether it stands in a list."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, str(name), in_list)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key, True)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield key, value, in_list


def check_sizes(config: PreTrainedConfig, stored: Mapping[str, Stored], *, what: str) -> None:
    """Refuse a configuration of far more numbers than the files hold, without allocating any.

    What lacks a tensor or two is found by name once it is loaded.

    Raises:
        ModelError: naming both.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        made: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        model = made(config)
    tied = set(model.all_tied_weights_keys)
    asked = sum(p.numel() for name, p in model.named_parameters() if name not in tied)
    held = sum(prod(tensor.shape) for tensor in stored.values())
    if asked > 2 * held + SPARE:
        raise ModelError(
            f"The config.json of {what} asks for a model of {asked:,} numbers, and its files hold {held:,}. "
            "They do not belong together; get them again."
        )
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    if buffers > max(BUFFERS, 4 * held):
        raise ModelError(
            f"The config.json of {what} asks for buffers of {buffers:,} bytes beside its {held:,} numbers (is a "
            "number of positions too large?). Get the model's original config.json."
        )


# -- places ----------------------------------------------------------------------------------------


def check_places(
    model: PreTrainedModel, unexpected: set[str], stored: Mapping[str, Stored], folder: Path, what: str
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
    own, prefix = model.state_dict(), f"{model.base_model_prefix}."
    places: dict[str, str] = {}
    left = []
    for name, tensor in stored.items():
        place = next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in own), None)
        if place is None:
            if name in unexpected or _is_ignored(model, name) or _is_buffer(name, tensor):
                left.append(name)
            continue
        if places.setdefault(place, name) != name:
            raise ModelError(
                f"{what} has {place!r} twice, as {places[place]!r} and {name!r}, and only one would be used. "
                "Remove the wrong one, or get the model again."
            )
        if own[place].is_floating_point() and tensor.kind not in FLOATS:
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


def _is_buffer(name: str, tensor: Stored) -> bool:
    mask = _MASK.fullmatch(name) and (len(tensor.shape) in (0, 4) or tensor.shape == (1,))
    return bool(mask or _FREQUENCIES.fullmatch(name) or _POSITIONS.fullmatch(name))


def _may_be_left(model: PreTrainedModel, name: str, tensor: Stored, folder: Path) -> bool:
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


def _same_frequencies(model: PreTrainedModel, name: str, tensor: Stored, folder: Path) -> bool:
    """Whether stored rotary frequencies are those that the model computes: else its positions were scaled."""
    import torch
    from safetensors import safe_open

    with safe_open(folder / tensor.file, framework="pt") as file:
        found: Tensor = file.get_tensor(name).float()
    own = [
        b.float() for n, b in model.named_buffers() if n.endswith("inv_freq") and not n.endswith("original_inv_freq")
    ]
    return any(b.shape == found.shape and torch.allclose(b, found, rtol=1e-2, atol=0) for b in own)
