"""The weights of a folder, by their headers: what is there, and whether it is what the configuration asks for.

Refused before anything is allocated: a configuration of more numbers than the files hold, whatever makes it so (a
number of layers, a width, a number of labels).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factedit.errors import ModelError, UnsafeFile, first_line, in_one_line, shown
from factedit.files.checkpoint_checks import INDEX, PICKLES, WEIGHTS, advice, found_in, is_plain_weights, read_json
from factedit.files.classes import class_of
from factedit.paths import inside, is_name

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MOST_LABELS = 100_000
SPARE = 1 << 20  # numbers that a configuration may ask for beyond twice what is there
BUFFERS = 1 << 30  # bytes of buffers that a model of any size may compute
_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_LAYERS = {"num_hidden_layers", "n_layer", "n_layers", "num_layers"}
_PARTS = re.compile("expert|layers|heads|groups")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file's header has it.

    Attributes:
        file: its shard.
        kind: as safetensors names it, e.g. `F32`.
        shape: of the tensor.
    """

    file: str
    kind: str
    shape: tuple[int, ...]


def check_weights(folder: Path, *, what: str, blobs: Path | None = None) -> dict[str, StoredTensor]:
    """Return the tensors of a folder; refused without sound safetensors weights.

    Args:
        folder: with the model's weights.
        what: how to name the model in messages.
        blobs: a folder that links may lead into (the hub's cache), besides the model's own.

    Raises:
        ModelError: no weights, a missing shard, a damaged file, an index that does not fit its shards.
        UnsafeFile: pickles only, or a shard that is not a plain name inside the folder.
    """
    index = read_index(folder, what, blobs=blobs)
    odd = [name for name in index.values() if not is_name(name)]
    if odd:
        raise UnsafeFile(
            f"{INDEX} of {what} names the file {shown(odd[0])}, which no file can be called. Get it again."
        )
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


def stored_dtype(stored: Mapping[str, StoredTensor]) -> str:
    """Return the type of the weights in files, as torch names it: `float32` where they have several, which loses
    nothing.
    """
    kinds = {tensor.kind for tensor in stored.values() if tensor.kind in ("F64", "F32", "F16", "BF16")}
    return {"BF16": "bfloat16", "F16": "float16"}.get("".join(kinds), "float32")


def _without_weights(folder: Path, what: str) -> ModelError:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return UnsafeFile(
            f"{what} has its weights as pickles only ({', '.join(pickles[:3])}), and loading one can run code. "
            "Get the safetensors version, or save it as one where you trust the file (transformers: save_pretrained)."
        )
    return ModelError(f"{what} has no weights ({WEIGHTS} or {INDEX}); {found_in(folder)}. {advice(folder)}")


def check_safetensors(path: Path, *, blobs: Path | None = None) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file; refused where it is missing, cut off or no such file.

    Raises:
        ModelError: naming the file and what is wrong with it.
        UnsafeFile: a link that leaves the folder, a pipe.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise ModelError(
            f"The weights {in_one_line(path.name)} are missing from {path.parent}. Download the model again."
        )
    inside(path.parent, path.name, also=blobs, missing=ModelError)
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ModelError(f"{path} is a pointer to the weights, not the weights. Fetch them with 'git lfs pull'.")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {n: StoredTensor(path.name, s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is cut off or damaged ({first_line(error)}). Download or copy it again.") from error


def read_index(folder: Path, what: str, *, blobs: Path | None = None) -> dict[str, str]:
    """Return the file of every tensor, as a folder's index has it; empty where there is none.

    Raises:
        ModelError: an index that is not one.
        UnsafeFile: it names a file that is not in the folder, or is a link that leaves it.
    """
    if not (folder / INDEX).exists():
        return {}
    shards = read_json(folder / INDEX, what, blobs=blobs).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{INDEX} of {what} names no shards (weight_map). Download it again.")
    for name in shards.values():
        if not is_plain_weights(name) or name.endswith(".json"):
            raise UnsafeFile(
                f"{INDEX} of {what} names the shard {shown(name)}; only plain names of .safetensors files in the "
                "folder are followed. Download the model again from a source you trust."
            )
    return shards


def _check_index(shards: Mapping[str, Mapping[str, StoredTensor]], index: Mapping[str, str], what: str) -> None:
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


def check_counts(config: Mapping[str, Any], stored: Mapping[str, StoredTensor], *, what: str) -> None:
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


def numbers_in(stored: Mapping[str, StoredTensor]) -> int:
    """Return how many numbers the tensors of files hold."""
    return sum(prod(tensor.shape) for tensor in stored.values())


def check_sizes(config: PreTrainedConfig, stored: Mapping[str, StoredTensor], *, what: str) -> None:
    """Refuse a configuration of far more numbers than the files hold, without allocating any.

    What lacks a tensor or two is found by name once it is loaded.

    Raises:
        ModelError: naming both.
    """
    model = on_meta(config)
    tied = set(model.all_tied_weights_keys)
    asked = sum(p.numel() for name, p in model.named_parameters() if name not in tied)
    held = numbers_in(stored)
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


def on_meta(config: PreTrainedConfig) -> Any:
    """Return the causal language model of a configuration, with no memory behind its weights."""
    import torch
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        return class_of(config)(config)
