"""One way in: an embedded name, a folder, a .gguf file or a hub id becomes an `EditableModel`, or is refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from factedit.errors import NotStreamed, UsageError
from factedit.memory import SHAPES_IN_MEMORY, is_out_of_memory, keep_few_shapes, out_of_memory
from factedit.models.adapter import EditableModel
from factedit.models.placed import PlacedModel, is_placed
from factedit.models.sharded import ShardedModel, is_sharded
from factedit.paths import user_path

logger = logging.getLogger("factedit")
DTYPES = ("float32", "bfloat16", "float16")
PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")  # of accelerate, in place of a device
STORED = "stored"  # the type of the files, where all weights have the same; else float32


def load(
    source: str | Any,
    tokenizer: Any = None,
    *,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    stream: bool | None = False,
) -> EditableModel:
    """Load a model, or take one that is in memory, and prove that factedit reads it rightly.

    Args:
        source: an embedded name (`factedit models`), a folder, a .gguf file, or a hub id; or a causal language model
            of transformers, which is used as it is.
        tokenizer: of a model in memory.
        dtype: one of `DTYPES`, or `stored` for the type of the files; default: `float32`, the reference. A model in
            memory keeps its own.
        device: where to compute, as torch names it; default: `cpu`. One of `PLACEMENTS`: accelerate places the model
            on all cards, in the processor's memory and on disk. A model in memory stays where it is, or where
            accelerate's hooks bring it (`placed.py`), or in parts over processes (`sharded.py`).
        revision: of a hub id.
        stream: read layers from disk when they are run, for a model larger than memory (`streamed.py`); None: where
            its kind allows it, and no word is said of it.

    Raises:
        UsageError: an unknown dtype or device, or one for a model in memory; a tokenizer for one that is not.
        ModelError: nothing usable there; the message says what was found and what to do.
    """
    import torch

    if not isinstance(source, str):
        if dtype or device or revision or stream is not False:
            raise UsageError(
                "A model in memory keeps its type and its place. Convert or move it before, or name a file."
            )
        name = str(getattr(source, "name_or_path", "") or type(source).__name__)
        kind = PlacedModel if is_placed(source) else ShardedModel if is_sharded(source) else EditableModel
        return kind(source, tokenizer, name=_short(name))
    if tokenizer is not None:
        raise UsageError(f"{source} is loaded with its own tokenizer. Give one only with a model in memory.")
    dtype, device = dtype or DTYPES[0], device or "cpu"
    if dtype not in (*DTYPES, STORED):
        raise UsageError(f"The type {dtype!r} is not one of {', '.join(DTYPES)}.")
    if device in PLACEMENTS:
        return _placed(source, dtype, device, revision, stream=bool(stream))
    if stream is not False:
        try:
            return load_streamed(source, dtype, device, revision=revision, tell=stream is True)
        except NotStreamed:
            if stream:
                raise
    keep_few_shapes(SHAPES_IN_MEMORY)  # else what they take grows with the facts of an edit
    lm, tokenizer = read_files(source, dtype, revision)
    try:
        torch.nn.Module.to(lm, device=torch.device(device), dtype=None if dtype == STORED else getattr(torch, dtype))
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        if is_out_of_memory(error):
            raise out_of_memory(error) from error
        raise UsageError(f"The device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return EditableModel(lm, tokenizer, name=_short(source))


def _placed(source: str, dtype: str, placement: str, revision: str | None, *, stream: bool) -> EditableModel:
    """A model that accelerate places."""
    from factedit.files.checkpoint import load_checkpoint
    from factedit.files.embedded import EMBEDDED

    if find_spec("accelerate") is None:
        raise UsageError(
            f"Placing a model ({placement}) needs accelerate, which is not here. Get it: pip install factedit[devices]"
        )
    if stream:
        raise UsageError("Layers are streamed to one device, or placed by accelerate on all. Give one of the two.")
    if source in EMBEDDED or source.lower().endswith(".gguf"):
        raise UsageError(f"{source} is loaded to one device (--device cpu or cuda). Place a folder or a hub model.")
    lm, tokenizer = load_checkpoint(source, dtype=dtype, revision=revision, placement=placement)
    return load(lm, tokenizer) if is_placed(lm) else EditableModel(lm, tokenizer, name=_short(source))


def load_streamed(
    source: str,
    dtype: str,
    device: str,
    *,
    revision: str | None = None,
    instead: Mapping[str, str] | None = None,
    tell: bool = False,
) -> EditableModel:
    """Return a model whose layers are read from disk when they are run.

    Args:
        source, dtype, device, revision: see `load`.
        instead: see `open_streamed`.
        tell: say what a pass will read, and how long that takes.

    Raises:
        NotStreamed: it can only be loaded whole.
        ModelError: see `load`.
    """
    from factedit.files.checkpoint_stream import open_streamed
    from factedit.models.streamed import StreamedModel

    lm, tokenizer, files = open_streamed(source, dtype=dtype, revision=revision, instead=instead)
    began = time.perf_counter()
    model = StreamedModel(lm, tokenizer, files, name=_short(source), device=device)
    rate = files.bytes_read / max(time.perf_counter() - began, 1e-9)
    if tell:
        logger.info(
            "%s is read from disk: %.2f GB for every pass through its layers, about %.2g s at the %.2g GB/s of the "
            "first ones; a trace takes about three passes, an edit two for each step", source, model.pass_bytes / 1e9,
            model.pass_bytes / rate, rate / 1e9,
        )  # fmt: skip
    return model


def read_files(source: str, dtype: str = DTYPES[0], revision: str | None = None) -> tuple[Any, Any]:
    """Return the model and the tokenizer of files; whatever they are, on the processor."""
    from factedit.files.embedded import EMBEDDED, load_embedded

    if source in EMBEDDED:
        return load_embedded(source)
    if source.lower().endswith(".gguf"):
        from factedit.files.gguf_file import load_gguf

        return load_gguf(user_path(source))
    from factedit.files.checkpoint import load_checkpoint

    return load_checkpoint(source, dtype=dtype, revision=revision)


def check_source(source: str) -> None:
    """Refuse what can be no model by its name and by what lies there; nothing is read, fetched or loaded.

    Raises:
        ModelError, UnknownName, UnsafeFile, UnsupportedModel: as `load` does for such a source.
    """
    from factedit.files.embedded import EMBEDDED, check_installed

    path = user_path(source)
    if source in EMBEDDED:
        check_installed(EMBEDDED[source])
    elif source.lower().endswith(".gguf"):
        from factedit.files.gguf_reader import check_there

        check_there(path)
    elif not path.is_dir():
        from factedit.files.checkpoint import refuse_other

        refuse_other(source, path)


def _short(source: str) -> str:
    path = Path(source)
    return path.absolute().resolve().name if path.name in ("", "..") else path.name if path.exists() else source
