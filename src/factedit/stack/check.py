"""What was done to a folder of edits, and whether its weights are what they should be, to the bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from factedit.errors import DataError, EditError
from factedit.files.save import tensors_of
from factedit.models.adapter import EditableModel
from factedit.stack.folder import StackFolder
from factedit.stack.ledger import Entry
from factedit.stack.opened import open_base


@dataclass(frozen=True)
class Verified:
    """What was found to hold.

    Attributes:
        entries: of the ledger.
        edits: that are on the model.
        matrices: recomputed from their originals and the edits, and equal to the bit.
        tensors: in all.
        with_base: every tensor was compared with the base model's, too.
    """

    entries: int
    edits: int
    matrices: int
    tensors: int
    with_base: bool


def log(folder: str | Path) -> list[Entry]:
    """Return what was done to a folder, oldest first; the chain of hashes is checked.

    Args:
        folder: that `apply` wrote.

    Raises:
        DataError: the ledger is damaged, cut off or reordered.
    """
    return StackFolder(folder).entries


def verify(folder: str | Path, base: EditableModel | None = None) -> Verified:
    """Check that the weights are base + edits, to the bit.

    Checked are the chain of the ledger; the SHA-256 of every file of weights and of every original; every edit
    against its identity; every edited matrix, recomputed from its original and the edits.

    Args:
        folder: that `apply` wrote.
        base: the model it began as, to compare every other tensor and the originals with.

    Raises:
        DataError: naming the first thing that does not hold.
        EditError: `base` is another model.
    """
    stack = StackFolder(folder)
    stack.check_files()
    edits = [stack.edit(standing.identity) for standing in stack.head.standing]
    for matrix in stack.head.matrices:
        right = stack.original(matrix).written(edits)
        if not all(_same(tensor, stack.tensor(name)) for name, tensor in right.items()):
            raise DataError(
                f"{matrix.tensor} of {stack.path} is not its original with the {len(edits)} edits on it: the ledger is "
                "not its own. Make the folder anew."
            )
    if base is not None:
        _check_base(stack, base)
    head = stack.head
    return Verified(len(stack.entries), len(edits), len(head.matrices), len(stack.shards), base is not None)


def _check_base(stack: StackFolder, base: EditableModel) -> None:
    fingerprint = base.fingerprint()
    if fingerprint != stack.head.model_fingerprint:
        raise EditError(
            f"{stack.path} began as the weights {stack.head.model_fingerprint[:12]}… ({stack.head.model_name}); "
            f"{base.name} has {fingerprint[:12]}…. Give that model, loaded as {stack.head.dtype}."
        )
    touched = {matrix.tensor: matrix for matrix in stack.head.matrices}
    if stack.head.config:  # quantised: the base holds values, the folder what they are read from
        read = tensors_of(open_base(stack).lm)
    for name, tensor in tensors_of(base.lm).items():
        if stack.head.config:
            stored = read[name]
        else:
            stored = stack.original(touched[name]).stored if name in touched else stack.tensor(name)
        if not _same(stored, tensor.cpu()):
            raise DataError(f"{name} of {stack.path} is not that of {base.name}. Make the folder anew.")


def _same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bits (also of NaN and of negative zero)."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))
