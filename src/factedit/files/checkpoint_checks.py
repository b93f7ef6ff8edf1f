"""What a model's folder must hold, and must not, before anything in it is loaded.

Refused: code (`auto_map`, kernels named in the configuration), pickles, shards and links that leave the folder,
weights quantised in place, adapters, and whatever is missing or cut off.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factedit.errors import ModelError, UnsafeFile, UnsupportedModel

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model.v3")
READ = {".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken", ".v3"}
_POINTER = b"version https://git-lfs"
_QUANTISED = ("quantization_config", "compression_config")


def check_config(folder: Path, *, what: str, blobs: Path | None = None) -> None:
    """Refuse a folder whose configuration is missing, broken, or asks for something unsound.

    Args:
        folder: with the model's `config.json` and tokenizer.
        what: how to name the model in messages.
        blobs: a folder that links may lead into (the hub's cache), besides the model's own.

    Raises:
        ModelError: no configuration or tokenizer, or broken JSON.
        UnsafeFile: code, or a link that leaves the folder.
        UnsupportedModel: an adapter, quantised weights, or an unknown kind of model.
    """
    _check_links(folder, what, blobs)
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModel(
            f"{what} is an adapter (adapter_config.json), not a model. Merge it into its base model and give that."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{what} has no config.json; {_found(folder)}. {_advice(folder)}")
    config = read_json(folder / "config.json", what)
    _check_values(config, what)
    _check_kind(config, what)
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelError(
            f"{what} has no tokenizer: none of {', '.join(VOCABULARIES[:4])} is there. "
            "Copy the tokenizer's files from the original model."
        )
    if (folder / "tokenizer_config.json").is_file():
        _check_values(read_json(folder / "tokenizer_config.json", what), what)


def check_weights(folder: Path, *, what: str) -> None:
    """Refuse a folder without sound safetensors weights.

    Args:
        folder: with the model's weights.
        what: how to name the model in messages.

    Raises:
        ModelError: no weights, a missing shard, a damaged file.
        UnsafeFile: pickles only, or a shard that is not a plain name inside the folder.
    """
    shards = _shards(folder, what)
    if (folder / WEIGHTS).is_file():
        shards.add(WEIGHTS)
    if not shards:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise UnsafeFile(
                f"{what} has its weights as pickles only ({', '.join(pickles[:3])}), and loading one can run code. "
                "Get the safetensors version, or save it as one where you trust the file "
                "(transformers: save_pretrained)."
            )
        raise ModelError(f"{what} has no weights ({WEIGHTS} or {INDEX}); {_found(folder)}. {_advice(folder)}")
    for name in sorted(shards):
        check_safetensors(folder / name)


def check_safetensors(path: Path) -> None:
    """Refuse a safetensors file that is missing, cut off or no such file.

    Raises:
        ModelError: naming the file and what is wrong with it.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"The weights {path.name} are missing from {path.parent}. Download the model again.")
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ModelError(f"{path} is a pointer to the weights, not the weights. Fetch them with 'git lfs pull'.")
    try:
        with safe_open(path, framework="pt"):
            pass
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is cut off or damaged ({error}). Download or copy it again.") from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it cannot be read, is not JSON, or is no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} of {what} is not readable JSON ({error}). Download or copy it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} of {what} holds a {type(found).__name__}, not an object. Download it again.")
    return found


def _check_links(folder: Path, what: str, blobs: Path | None) -> None:
    allowed = [folder.resolve()] + ([blobs.resolve()] if blobs else [])
    for path in (*folder.glob("*"), *folder.glob("additional_chat_templates/*")):
        read = path.suffix in READ or path.name == "additional_chat_templates"
        if read and path.is_symlink() and not any(path.resolve().is_relative_to(place) for place in allowed):
            raise UnsafeFile(
                f"{path.name} of {what} is a link to {path.resolve()}, outside its folder. "
                "Put the file itself there, or give the model's hub id if this is the hub's cache."
            )


def _check_values(config: dict[str, Any], what: str) -> None:
    """Refuse what asks for code, for kernels, for files elsewhere, or says that weights are quantised."""
    for key, value in _entries(config):
        if key == "auto_map" and value:
            raise UnsafeFile(
                f"{what} wants to run its own code (auto_map in its configuration), and factedit runs none. "
                "Use a version of the model that transformers supports itself."
            )
        if key in _QUANTISED and value:
            method = value.get("quant_method") or value.get("format") if isinstance(value, dict) else None
            raise UnsupportedModel(
                f"The weights of {what} are quantised in place ({method or 'by an unnamed method'}), and cannot be "
                "edited soundly. Use the original weights, in float32, bfloat16 or float16."
            )
        if key.endswith("_implementation") and any("/" in str(part) for _, part in _entries({"": value})):
            raise UnsafeFile(f"{what} names a kernel to be downloaded and run ({key}: {value}). Remove that entry.")
        if key == "transformers_weights" and value and not _plain(value):
            raise UnsafeFile(f"{what} names its weights {value!r}, which is not a file in its folder.")
        for name in value if key == "fast_tokenizer_files" and isinstance(value, list) else ():
            if not isinstance(name, str) or Path(name).name != name:
                raise UnsafeFile(f"{what} names the tokenizer file {name!r}, which is not in its folder.")


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    yield key, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _entries(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _check_kind(config: dict[str, Any], what: str) -> None:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise UnsupportedModel(f"The config.json of {what} gives no model_type. Get the model's original config.json.")
    if kind not in CONFIG_MAPPING:
        near = difflib.get_close_matches(kind, list(CONFIG_MAPPING), n=3)
        offer = f"Did you mean {' or '.join(near)}?" if near else "Update transformers if the model is new."
        raise UnsupportedModel(f"{what} is of the kind {kind!r}, which transformers does not know. {offer}")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModel(f"{what} is of the kind {kind!r}, which is not a causal language model. Give one.")


def _shards(folder: Path, what: str) -> set[str]:
    if not (folder / INDEX).is_file():
        return set()
    index = read_json(folder / INDEX, what)
    shards = index.get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelError(f"{INDEX} of {what} names no shards (weight_map). Download it again.")
    for name in shards.values():
        if not _plain(name):
            raise UnsafeFile(
                f"{INDEX} of {what} names the shard {name!r}; only plain names of .safetensors files in the folder are "
                "followed. Download the model again from a source you trust."
            )
    return set(shards.values())


def _plain(name: Any) -> bool:
    return (
        isinstance(name, str)
        and name.endswith((".safetensors", ".safetensors.index.json"))
        and not any(part in name for part in ("/", "\\", ":", "\0"))
        and not name.startswith(".")
    )


def _found(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return f"found: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else "the folder is empty"


def _advice(folder: Path) -> str:
    ggufs = sorted(folder.glob("*.gguf"))
    if ggufs:
        return f"Give the .gguf file itself: {ggufs[0]}"
    return "Give a folder as transformers' save_pretrained writes it."
