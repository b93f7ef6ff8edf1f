"""What the small files of a model's folder must hold, and must not, before anything in it is loaded.

Refused: code (kernels named in the configuration; `auto_map` where `transformers` has no code of its own for the
model), links that leave the folder, pipes, weights quantised by a method that is not read, adapters, files beyond all
size, and whatever is missing or cut off. The weights are checked in `checkpoint_weights.py`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factedit.errors import ModelError, UnsafeFile, UnsupportedModel, first_line, shown
from factedit.files.classes import known_kinds
from factedit.paths import inside, read_inside

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model.v3")
READ = {".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken", ".v3"}
MOST_JSON, MOST_LEVELS = 1 << 26, 64  # bytes and nesting of a configuration or an index
MOST_SMALL = 1 << 29  # bytes of any other file but the weights


def check_config(folder: Path, *, what: str, blobs: Path | None = None) -> dict[str, Any]:
    """Return the configuration of a folder; refused where it is missing, broken, or asks for something unsound.

    Args:
        folder: with the model's `config.json` and tokenizer.
        what: how to name the model in messages.
        blobs: a folder that links may lead into (the hub's cache), besides the model's own.

    Raises:
        ModelError: no configuration or tokenizer, or broken JSON.
        UnsafeFile: code, or a link that leaves the folder.
        UnsupportedModel: an adapter, weights quantised by a method that is not read, or an unknown kind of model.
    """
    _check_links(folder, what, blobs)
    if (folder / "adapter_config.json").exists():
        raise UnsupportedModel(
            f"{what} is an adapter (adapter_config.json), not a model. Merge it into its base model and give that."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{what} has no config.json; {found_in(folder)}. {advice(folder)}")
    config = read_json(folder / "config.json", what, blobs=blobs)
    kind = config.get("model_type")
    if kind is not None and not isinstance(kind, str):
        raise ModelError(f"config.json of {what} gives {shown(kind)} as model_type, which is no name. Get it again.")
    _check_values(config, what, runs_code=kind not in known_kinds())
    _check_kind(config, what)
    _check_quantised(config, what)
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelError(
            f"{what} has no tokenizer: none of {', '.join(VOCABULARIES[:4])} is there. "
            "Copy the tokenizer's files from the original model."
        )
    if (folder / "tokenizer_config.json").is_file():
        said = read_json(folder / "tokenizer_config.json", what, blobs=blobs)
        _check_values(said, what, runs_code=not (folder / "tokenizer.json").is_file())
    return config


def read_json(path: Path, what: str, *, blobs: Path | None = None) -> dict[str, Any]:
    """Return the object in a JSON file of a folder: of bounded size and depth, and of text that can be written again.

    Raises:
        ModelError: it cannot be read, is not JSON, or is no object.
        UnsafeFile: a link that leaves the folder, a pipe, a file beyond all size.
    """
    also = blobs or hub_blobs(path.parent)
    content = read_inside(path.parent, path.name, most=MOST_JSON, also=also, missing=ModelError)
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path.name} of {what} is not readable JSON ({first_line(error)}). Download or copy it again."
        ) from error
    if not isinstance(parsed, dict):
        raise ModelError(f"{path.name} of {what} holds a {type(parsed).__name__}, not an object. Download it again.")
    _check_depth(parsed, path.name, what)
    return parsed


def _check_depth(value: dict[str, Any], name: str, what: str) -> None:
    """Refuse what is nested so deep, or holds such text, that reading it on would end in a traceback."""
    level: list[Any] = [value]
    for _ in range(MOST_LEVELS):
        inner: list[Any] = []
        for part in level:
            inner.extend([*part, *part.values()] if isinstance(part, dict) else part)
        for text in (part for part in inner if isinstance(part, str)):
            if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ModelError(f"{name} of {what} holds text that is not Unicode ({text[:20]!a}). Download it again.")
        level = [part for part in inner if isinstance(part, dict | list)]
        if not level:
            return
    raise ModelError(f"{name} of {what} is nested more than {MOST_LEVELS} levels deep. Download it again.")


def _check_links(folder: Path, what: str, blobs: Path | None) -> None:
    """Refuse links that leave the folder, pipes and folders in the place of any file that may be read."""
    for path in sorted((*folder.glob("*"), *folder.glob("additional_chat_templates/*"))):
        if path.name == "additional_chat_templates":
            if path.is_symlink():
                raise UnsafeFile(f"{path.name} of {what} is a link to {path.resolve()}. Put the folder itself there.")
        elif path.suffix in READ:
            try:
                inside(folder, path.relative_to(folder), also=blobs, missing=ModelError)
            except UnsafeFile as error:
                if not path.is_symlink():
                    raise
                raise UnsafeFile(
                    f"{path.name} of {what} is a link to {path.resolve()}, outside its folder. "
                    "Put the file itself there, or give the model's hub id if this is the hub's cache."
                ) from error
            if path.suffix != ".safetensors" and path.stat().st_size > MOST_SMALL:
                raise UnsafeFile(
                    f"{path.name} of {what} has {path.stat().st_size:,} bytes, and {MOST_SMALL:,} are allowed beside "
                    "the weights. Get a sound copy."
                )


def _check_values(config: dict[str, Any], what: str, *, runs_code: bool) -> None:
    """Refuse what asks for code, for kernels, or for files elsewhere."""
    for key, value in _entries(config):
        if key == "auto_map" and value and runs_code:
            raise UnsafeFile(
                f"{what} wants to run its own code (auto_map in its configuration), and factedit runs none. "
                "Use a version of the model that transformers supports itself."
            )
        if key.endswith("_implementation") and any("/" in str(part) for _, part in _entries({"": value})):
            raise UnsafeFile(
                f"{what} names a kernel to be downloaded and run ({key}: {shown(value)}). Remove that entry."
            )
        if key == "transformers_weights" and value and value != WEIGHTS:
            if is_plain_weights(value):
                raise UnsupportedModel(f"{what} names its weights {value}. Rename them to {WEIGHTS}.")
            raise UnsafeFile(f"{what} names its weights {shown(value)}, which is not a file in its folder.")
        for name in value if key == "fast_tokenizer_files" and isinstance(value, list) else ():
            if not isinstance(name, str) or Path(name).name != name:
                raise UnsafeFile(f"{what} names the tokenizer file {shown(name)}, which is not in its folder.")


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
    yield key, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _entries(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _check_quantised(config: dict[str, Any], what: str) -> None:
    """Refuse weights that are quantised by a method that is not read, or in a part that is not the text model."""
    from factedit.files.quantised.table import SAID, kind_of, settings_of

    said = settings_of(config)
    if said is not None:
        kind_of(said, what)
    for key, value in _entries(config):
        if key in SAID and value and value not in (said, (said or {}).get("quant_method")):
            raise UnsupportedModel(
                f"The config.json of {what} speaks of quantised weights in several places ({key}), which do not agree. "
                "Use the original weights, in float32, bfloat16 or float16."
            )


def _check_kind(config: dict[str, Any], what: str) -> None:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise UnsupportedModel(f"The config.json of {what} gives no model_type. Get the model's original config.json.")
    if kind not in CONFIG_MAPPING:
        near = difflib.get_close_matches(kind, list(CONFIG_MAPPING), n=3)
        offer = f"Did you mean {' or '.join(near)}?" if near else "Update transformers if the model is new."
        raise UnsupportedModel(f"{what} is of the kind {shown(kind)}, which transformers does not know. {offer}")
    if kind not in known_kinds():
        raise UnsupportedModel(f"{what} is of the kind {kind!r}, which is not a causal language model. Give one.")


def hub_blobs(folder: Path) -> Path | None:
    """Return where the links of a folder of the hub's own cache lead; None for any other folder."""
    from huggingface_hub.constants import HF_HUB_CACHE

    in_hub_cache = folder.parent.name == "snapshots" and folder.resolve().is_relative_to(Path(HF_HUB_CACHE).resolve())
    return folder.parent.parent / "blobs" if in_hub_cache else None


def is_plain_weights(name: Any) -> bool:
    """Return whether a value is the plain name of a file of weights, or of their index, in a folder."""
    return (
        isinstance(name, str)
        and name.endswith((".safetensors", ".safetensors.index.json"))
        and not any(part in name for part in ("/", "\\", ":", "\0"))
        and not name.startswith(".")
    )


def found_in(folder: Path) -> str:
    """Return what a folder holds, in words, for messages."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return f"found: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else "the folder is empty"


def advice(folder: Path) -> str:
    """Return what to give instead of a folder that holds no model, for messages."""
    ggufs = sorted(folder.glob("*.gguf"))
    if ggufs:
        return f"Give the .gguf file itself: {ggufs[0]}"
    return "Give a folder as transformers' save_pretrained writes it."
