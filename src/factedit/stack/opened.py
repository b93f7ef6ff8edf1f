"""A folder of edits opened for the next edit: the model it began as, and the edits that are on it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from factedit.edit.artefact import Edit
from factedit.errors import DataError
from factedit.models.adapter import EditableModel
from factedit.models.families import matrix_name
from factedit.models.load import load
from factedit.stack.folder import StackFolder


class Opened(NamedTuple):
    """A folder of edits.

    Attributes:
        base: the model it began as.
        edits: that are on it, in order.
    """

    base: EditableModel
    edits: tuple[Edit, ...]


def open_edits(folder: str | Path, *, device: str | None = None) -> Opened:
    """Return the unedited model of a folder and its edits: second moments belong to the first, the next edit to both.

    Args:
        folder: that `apply` wrote; not changed.
        device: where to compute.

    Raises:
        DataError: the folder is damaged, or does not give the model that it began as.
    """
    stack = StackFolder(folder)
    edits = tuple(stack.edit(standing.identity) for standing in stack.head.standing)
    return Opened(open_base(stack, device=device), edits)


def open_base(stack: StackFolder, *, device: str | None = None) -> EditableModel:
    """Return the unedited model of a folder alone, without reading its edits.

    Args:
        stack: the folder; not changed.
        device: where to compute.

    Raises:
        DataError: the folder is damaged, or does not give the model that it began as.
    """
    base = load(str(stack.path), dtype=stack.head.dtype, device=device)
    for matrix in stack.head.matrices:
        original = stack.original(matrix).stored
        name = matrix_name(matrix.matrix, 0) if matrix.stacked else matrix.matrix
        own = base.matrix(matrix.layer, name)
        (own.parameter.data if matrix.stacked else own.stored).copy_(original)
    if base.fingerprint() != stack.head.model_fingerprint:
        raise DataError(
            f"{stack.path} with its originals is not the model that it began as ({stack.head.model_name}): a file of "
            "its weights was changed. Get it from a copy, or make the folder anew."
        )
    return base
