"""What a change of a folder of edits writes anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.place import own_files
from factedit.files.checkpoint_checks import INDEX
from factedit.files.save import write_safetensors
from factedit.stack.ledger import LEDGER, LedgerMatrix
from factedit.stack.names import OWN, edit_folder, edited_file, original_file
from factedit.stack.original import CONFIG, Original

if TYPE_CHECKING:
    from factedit.stack.folder import StackFolder


class Change:
    """What is new in a folder.

    Args:
        edits: that the folder does not yet hold.

    Attributes:
        tensors: to be written, by name, as they are stored.
        files: the file of every such tensor.
        originals: matrices that were never edited before.
        gone: tensors that are no longer stored.
        config: of a quantised folder, where it changes.
    """

    def __init__(self, edits: Sequence[Edit] = ()) -> None:
        self.edits = tuple(edits)
        self.tensors: dict[str, Tensor] = {}
        self.files: dict[str, str] = {}
        self.originals: dict[str, Original] = {}
        self.gone: set[str] = set()
        self.config: bytes | None = None

    def put(self, original: Original, edits: Sequence[Edit]) -> None:
        """Take a matrix to be written: its original, with the edits on it."""
        new = original.written(edits)
        self.tensors |= new
        self.files |= dict.fromkeys(new, edited_file(original.matrix))
        self.gone |= {*original.tensors, original.matrix.tensor} - new.keys()

    def keep(self, original: Original) -> None:
        """Take a matrix that is edited for the first time."""
        self.originals[original.matrix.tensor] = original

    def anew(self, folder: StackFolder) -> set[str]:
        """Return the files of weights that are written anew, or are gone since their last tensor moved out."""
        moved = (*self.tensors, *self.gone)
        return {folder.shards[name] for name in moved if name in folder.shards} | set(self.files.values())

    def replaced(self, folder: StackFolder) -> set[str]:
        """Return the files of a folder that the change takes the place of."""
        places = [edit_folder(edit.identity) for edit in self.edits]
        edits = {f"{place}/{name}" for place in places for name in own_files(folder.path / place)}
        config = {CONFIG} if self.config is not None else set()
        anew = (file for file in self.anew(folder) if file in folder.head.shards)
        return {INDEX, f"{OWN}/{LEDGER}", *edits, *config, *anew}

    def write_kept(self, place: Path) -> tuple[LedgerMatrix, ...]:
        """Write edits and originals; the matrices, each with the SHA-256 of its original's file."""
        (place / OWN / "originals").mkdir(parents=True, exist_ok=True)
        for edit in self.edits:
            edit.save(place / edit_folder(edit.identity))
        return tuple(
            original.matrix.model_copy(
                update={"original": write_safetensors(place / original_file(original.matrix), dict(original.tensors))}
            )
            for original in self.originals.values()
        )
