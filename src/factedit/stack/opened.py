"""A folder of edits opened for the next edit: the model it began as, and the edits that are on it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from factedit.edit.artefact import Edit
from factedit.errors import DataError, NotStreamed, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.families import matrix_name
from factedit.models.load import PLACEMENTS, load, load_streamed
from factedit.stack.folder import StackFolder
from factedit.stack.names import original_file


class Opened(NamedTuple):
    """A folder of edits.

    Attributes:
        base: the model it began as.
        edits: that are on it, in order.
    """

    base: EditableModel
    edits: tuple[Edit, ...]


def open_edits(folder: str | Path, *, device: str | None = None, stream: bool | None = False) -> Opened:
    """Return the unedited model of a folder and its edits: second moments belong to the first, the next edit to both.

    Args:
        folder: that `apply` wrote; not changed.
        device, stream: see `load`.

    Raises:
        DataError: the folder is damaged, or does not give the model that it began as.
        NotStreamed: it can only be loaded whole, and that was not wanted.
    """
    stack = StackFolder(folder)
    edits = tuple(stack.edit(standing.identity) for standing in stack.head.standing)
    return Opened(open_base(stack, device=device, stream=stream), edits)


def open_base(stack: StackFolder, *, device: str | None = None, stream: bool | None = False) -> EditableModel:
    """Return the unedited model of a folder alone, without reading its edits.

    Args:
        stack: the folder; not changed.
        device, stream: see `load`.

    Raises:
        DataError: the folder is damaged, or does not give the model that it began as.
        NotStreamed: see `open_edits`.
        UsageError: it is to be placed on several devices.
    """
    if device in PLACEMENTS:
        raise UsageError(f"A folder of edits ({stack.path}) is opened on one device, or streamed. Give one --device.")
    base = _whole(stack, device) if stream is False else _from_disk(stack, device, needed=stream is True)
    if base.fingerprint() != stack.head.model_fingerprint:
        raise DataError(
            f"{stack.path} with its originals is not the model that it began as ({stack.head.model_name}): a file of "
            "its weights was changed. Get it from a copy, or make the folder anew."
        )
    return base


def _whole(stack: StackFolder, device: str | None) -> EditableModel:
    base = load(str(stack.path), dtype=stack.head.dtype, device=device)
    for matrix in stack.head.matrices:
        original = stack.original(matrix).stored
        name = matrix_name(matrix.matrix, 0) if matrix.stacked else matrix.matrix
        loaded = base.matrix(matrix.layer, name)
        (loaded.parameter.data if matrix.stacked else loaded.stored).copy_(original)
    return base


def _from_disk(stack: StackFolder, device: str | None, *, needed: bool) -> EditableModel:
    """The base with its layers on disk, the edited matrices read from where their originals are kept."""
    originals = {matrix.tensor: original_file(matrix) for matrix in stack.head.matrices}
    try:
        return load_streamed(str(stack.path), stack.head.dtype, device or "cpu", instead=originals, tell=needed)
    except NotStreamed:
        if needed:
            raise
        return _whole(stack, device)
