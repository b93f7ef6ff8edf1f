"""Where an edit may be saved: in a folder that is new, empty or its own, and not inside another edit.

Nothing slow is imported here, so that a place is refused at once.
"""

from __future__ import annotations

import json
from pathlib import Path

from factedit.cache import settled
from factedit.errors import EditError, FacteditError

MANIFEST, TENSORS, STATE = "edit.json", "edit.safetensors", "state.safetensors"


def check_place(folder: Path, identity: str = "", *, force: bool = False) -> None:
    """Refuse a folder that an edit must not be saved in.

    Args:
        folder: where to.
        identity: of the edit; empty where it is not made yet.
        force: also in place of another edit.

    Raises:
        EditError: it is a file, holds another edit or something else, or lies inside an edit.
    """
    settled(folder)
    check_outside(folder)
    whole = folder.resolve()
    if not whole.exists() or (whole.is_dir() and not any(whole.iterdir())):
        return
    if not (whole / MANIFEST).is_file():
        raise EditError(f"{folder} exists and is not an edit; name another folder.")
    if not force and (not identity or _identity_in(whole) != identity):
        raise EditError(
            f"{folder} holds an edit, which is not replaced unasked. Name another folder, or replace it with --force."
        )


def check_outside(folder: Path) -> None:
    """Refuse a folder inside an edit.

    Raises:
        EditError: naming both.
    """
    outer = next((parent for parent in folder.resolve().parents if (parent / MANIFEST).is_file()), None)
    if outer is not None:
        raise EditError(f"{folder} lies inside the edit {outer}, and edits do not hold edits. Name another folder.")


def own_files(folder: Path) -> set[str]:
    """Return the files of a folder that are an edit's own: `state.safetensors` only where the edit there has one."""
    try:
        said = json.loads((folder / MANIFEST).read_bytes())["files"]
        return {MANIFEST, TENSORS} | ({STATE} & set(said))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {MANIFEST, TENSORS}


def _identity_in(folder: Path) -> str | None:
    """Return the identity of the edit in a folder; None for a damaged one."""
    from factedit.edit.manifest import identity_of, read_manifest

    try:
        return identity_of(read_manifest(folder).model_dump(mode="json"))
    except FacteditError:
        return None
