"""Where the cache keeps second moments: by weights, by configuration and tokenizer, by text and number of tokens.

Earlier versions told models by their weights alone, so that another tokenizer over the same weights took C of other
tokens. What they kept is still found, and nothing new is put there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from factedit.cache import cache_dir
from factedit.errors import DataError, shown
from factedit.models.adapter import EditableModel


def moment_path(
    model: EditableModel, corpus: str, tokens: int, layer: int, *, what: str = "layer", setup: bool = True
) -> Path:
    """Return where the cache keeps the second moment of a layer.

    Args:
        model: whose weights, configuration and tokenizer decide about its keys.
        corpus, tokens: the text, and how much of it.
        layer: the layer.
        what: `experts` where it has experts.
        setup: False: where earlier versions kept it, which told models by their weights alone.
    """
    text = hashlib.sha256(corpus.encode()).hexdigest()[:16]
    folder = "-".join((text, str(tokens), *([model.setup_fingerprint()[:16]] if setup else [])))
    return cache_dir() / "second_moments" / model.fingerprint()[:16] / folder / f"{what}_{layer}.safetensors"


def stored_moments(model: EditableModel, layer: int) -> list[Path]:
    """Return the cache's finished second moments of a layer of this model, the one of most tokens first."""
    folder, setup = cache_dir() / "second_moments" / model.fingerprint()[:16], model.setup_fingerprint()[:16]
    paths = (path for path in folder.glob(f"*-*/layer_{layer}.safetensors"))
    mine = (path for path in paths if path.parent.name.count("-") == 1 or path.parent.name.endswith(f"-{setup}"))
    return sorted(mine, key=_tokens_read, reverse=True)


def _tokens_read(path: Path) -> int:
    """How many tokens a stored moment is of, which a short text leaves below the number asked for."""
    try:
        return noted_number(path, _notes_of(path), "tokens") or 0
    except DataError:
        return 0


def corpus_of(path: Path) -> str:
    """Return the text that a stored moment is of, in words; nothing where the file does not say."""
    return _notes_of(path).get("corpus", "")


def _notes_of(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def noted_number(path: str | Path, notes: Mapping[str, str], name: str) -> int | None:
    """Return a whole number of a stored moment's notes; None where it does not say one.

    Raises:
        DataError: it is none.
    """
    text = notes.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise DataError(
            f"{path} says of its {name}: {shown(text)}, which is no number. Compute it with 'factedit stats'."
        )
    return int(text)
