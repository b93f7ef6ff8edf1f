"""One way in: an embedded name, a folder, a .gguf file or a hub id becomes an `EditableModel`, or is refused."""

from __future__ import annotations

from pathlib import Path

from factedit.errors import UnsupportedModel, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.check import prove

DTYPES = ("float32", "bfloat16", "float16")


def load(source: str, *, dtype: str = "float32", device: str = "cpu", revision: str | None = None) -> EditableModel:
    """Load a model and prove that factedit reads it rightly.

    Args:
        source: an embedded name (`factedit models`), a folder, a .gguf file, or a hub id.
        dtype: `float32` is the reference; see `DTYPES`.
        device: where to compute, as torch names it.
        revision: of a hub id.

    Raises:
        UsageError: an unknown dtype or device.
        ModelError: nothing usable there; the message says what was found and what to do.
    """
    import torch

    from factedit.files.embedded import EMBEDDED, load_embedded

    if dtype not in DTYPES:
        raise UsageError(f"The type {dtype!r} is not one of {', '.join(DTYPES)}.")
    if source in EMBEDDED:
        lm, tokenizer = load_embedded(source)
    elif source.endswith(".gguf"):
        from factedit.files.gguf_file import load_gguf

        lm, tokenizer = load_gguf(Path(source))
    else:
        from factedit.files.checkpoint import load_checkpoint

        lm, tokenizer = load_checkpoint(source, dtype=dtype, revision=revision)
    try:
        torch.nn.Module.to(lm, device=torch.device(device), dtype=getattr(torch, dtype))
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        raise UsageError(f"The device {device!r} cannot be used here: {str(error).splitlines()[0]}") from error
    model = EditableModel(lm, tokenizer, name=_short(source))
    try:
        prove(model)
    except RuntimeError as error:
        raise UnsupportedModel(f"{source} cannot be run: {str(error).splitlines()[0]}") from error
    return model


def _short(source: str) -> str:
    path = Path(source)
    return path.name if path.exists() else source
