"""Where a folder of edits keeps what: names of its files (see `folder.py`)."""

from __future__ import annotations

from pathlib import Path

from factedit.stack.ledger import LedgerMatrix
from factedit.stack.original import CONFIG

OWN = "factedit"
HEAD = "factedit_ledger"


def edited_file(matrix: LedgerMatrix) -> str:
    """Return the file of the weights that holds an edited matrix."""
    return f"edited-layer{matrix.layer}-{matrix.matrix}.safetensors"


def original_file(matrix: LedgerMatrix) -> str:
    """Return the file that holds the matrix as it was, from the folder."""
    return f"{OWN}/originals/layer{matrix.layer}-{matrix.matrix}.safetensors"


def kept_config(path: Path) -> Path:
    """Return the file that holds a quantised folder's configuration as it was."""
    return path / OWN / "originals" / CONFIG


def edit_folder(identity: str) -> str:
    """Return the folder of an edit, from the folder."""
    return f"{OWN}/edits/{identity[:16]}"
