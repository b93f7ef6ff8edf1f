"""Write a model in the transformers format: safetensors shards, configuration, tokenizer.

Tensors are written under the names of the model's `state_dict`, tied ones once, each shard in one pass that also
takes its SHA-256; nothing is copied in memory. A model that was loaded from shards is written in the same shards.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factedit.errors import UsageError
from factedit.files.checkpoint_checks import INDEX, READ, WEIGHTS, hub_blobs
from factedit.files.checkpoint_weights import StoredTensor, read_index
from factedit.paths import inside

PROCESSORS = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.json",
)  # fmt: skip
KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64",
}  # fmt: skip


def tensors_of(lm: Any) -> dict[str, Tensor]:
    """Return all tensors that have to be stored, by their names in the `state_dict`; a tied one under its first name.

    Those of a model that is read from disk are on `meta`.

    Raises:
        UsageError: this process has parts of them alone.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in lm.state_dict().items():
        if hasattr(tensor, "full_tensor"):
            raise UsageError(
                f"The model lies in parts over processes ({name}), each of which would write. Save the edit, and put "
                "it on with 'factedit apply' to the model's folder, which is not loaded for it."
            )
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if place not in seen or not tensor.numel() or tensor.is_meta:
            tensors[name] = tensor
        seen.add(place)
    return tensors


def shards_of(lm: Any) -> dict[str, str]:
    """Return the shard of every tensor: as in the folder that the model was loaded from, or all in one file."""
    names = tensors_of(lm)
    source = str(getattr(lm, "name_or_path", "") or "")
    folder = Path(source)
    stored = read_index(folder, str(folder), blobs=hub_blobs(folder)) if source else {}
    if not stored:
        return dict.fromkeys(names, WEIGHTS)
    first, beside = min(stored.values()), {name.rpartition(".")[0]: file for name, file in stored.items()}
    return {name: stored.get(name) or beside.get(name.rpartition(".")[0], first) for name in names}


ReadTensor = Callable[[str], Tensor]  # gives a tensor when its turn to be written comes


def write_shards(
    tensors: Mapping[str, Tensor], shards: Mapping[str, str], folder: Path, read: ReadTensor | None = None
) -> dict[str, str]:
    """Write tensors into their shards.

    Args:
        tensors: by name.
        shards: the file of every tensor.
        folder: where to.
        read: gives those that are on `meta`.

    Returns:
        The SHA-256 of every file written.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(shards[name], {})[name] = tensor
    return {file: write_safetensors(folder / file, group, read) for file, group in sorted(groups.items())}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], read: ReadTensor | None = None) -> str:
    """Write a safetensors file and return its SHA-256; the same tensors give the same bytes.

    Args:
        path: where to; must not exist.
        tensors: by name.
        read: gives those that are on `meta`, one after the other, so that no two of them are in memory.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        tensor, begin = tensors[name], at
        at += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, at]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    contents = (_bytes(read(name) if read and tensors[name].is_meta else tensors[name]) for name in names)
    with path.open("xb") as file, ThreadPoolExecutor(1) as aside:  # hashing and writing take as long: both at once
        for part in chain((len(text).to_bytes(8, "little"), text), contents):
            hashing = aside.submit(digest.update, part)
            file.write(part)
            hashing.result()
            del part, hashing  # else it would be in memory beside the next one
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview | bytes:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def write_index(folder: Path, shards: Mapping[str, str], size: int, **notes: str) -> None:
    """Write the index that tells which shard holds which tensor.

    Args:
        folder: where to.
        shards: the file of every tensor.
        size: of all tensors, in bytes.
        notes: what else to say in its `metadata`.
    """
    index = {"metadata": {"total_size": size, **notes}, "weight_map": dict(sorted(shards.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def write_rest(lm: Any, tokenizer: Any, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write everything but the weights: configuration (naming their type), generation settings, tokenizer."""
    config = copy.deepcopy(lm.config)
    config.dtype, config.architectures = dtype or lm.dtype, [type(lm).__name__]
    config.save_pretrained(folder)
    if getattr(lm, "generation_config", None) is not None:
        lm.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _copy_processors(Path(str(getattr(lm, "name_or_path", "") or "")), folder)


def _copy_processors(source: Path, folder: Path) -> None:
    """Copy what says how images and sounds are read, which a multimodal model's folder has beside the tokenizer.

    Raises:
        UnsafeFile: one is a link that leaves the folder: a model that was loaded elsewhere was not checked for any.
    """
    for name in PROCESSORS if source.is_dir() else ():
        if os.path.lexists(source / name) and not (folder / name).exists():
            shutil.copyfile(inside(source, name, also=hub_blobs(source)), folder / name)


def copy_rest(source: Path, folder: Path) -> None:
    """Copy everything but the weights as it is: configuration, generation settings, tokenizer.

    Args:
        source: a model's folder.
        folder: where to.

    Raises:
        UnsafeFile: a file is a link that leaves the folder, also one that was put there after the model was loaded.
    """
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in READ - {".safetensors"} and path.name != INDEX:
            shutil.copyfile(inside(source, path.name, also=hub_blobs(source)), folder / path.name)
    templates = source / "additional_chat_templates"
    for path in sorted(templates.glob("*.*")) if templates.is_dir() else ():
        (folder / templates.name).mkdir(exist_ok=True)
        name = path.relative_to(source)
        shutil.copyfile(inside(source, name, also=hub_blobs(source)), folder / name)


def outlines(stored: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    """Return tensors on `meta` of the types and shapes that files hold."""
    types = {kind: dtype for dtype, kind in KINDS.items()}
    return {n: torch.empty(tensor.shape, dtype=types[tensor.kind], device="meta") for n, tensor in stored.items()}


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Return how many bytes tensors take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
