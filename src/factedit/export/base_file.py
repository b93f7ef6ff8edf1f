"""The .gguf file that edits are put into: which it is, and whether it is the model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import places_of
from factedit.errors import EditError, UsageError
from factedit.files.embedded import EMBEDDED, packaged_file
from factedit.files.gguf_reader import GgufFile, open_gguf
from factedit.files.save import tensors_of
from factedit.models.adapter import EditableModel


def base_file(model: EditableModel, named: str | Path | None) -> GgufFile:
    """Return the file that a model was loaded from.

    Args:
        model: the model.
        named: by the user; None: what the model says of itself.

    Raises:
        UsageError: there is none.
    """
    name = str(named or getattr(model.lm, "name_or_path", "") or "")
    if name in EMBEDDED:
        return packaged_file(EMBEDDED[name])
    if not name.endswith(".gguf"):
        raise UsageError(
            "Patching a GGUF file needs the file that the model was loaded from. Give the .gguf file as the model, "
            "or ship the edit as 'llama-lora', which any GGUF file of the same model takes."
        )
    return open_gguf(name)


def check_rest(model: EditableModel, patched: EditableModel, edits: Sequence[Edit]) -> None:
    """Refuse a patched file whose other tensors are not the model's: it was made of another file.

    Args:
        model: that the edits are for.
        patched: the file, loaded.
        edits: that it was patched with.

    Raises:
        EditError: naming a tensor.
    """
    edited = {model.matrix(*place).name for place in places_of(weights_of(edits))}
    there = tensors_of(patched.lm)
    for name, tensor in tensors_of(model.lm).items():
        if name not in edited and not torch.equal(there[name].to(tensor), tensor):
            raise EditError(
                f"{name} of the .gguf file is not that of {model.name}: the file is of another model, or was changed "
                "since it was loaded. Give the file that the model was loaded from."
            )
