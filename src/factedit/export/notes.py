"""What is noted of an export: in the edit's own folder, and to whoever asked for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from factedit.cache import locked
from factedit.edit.artefact import Edit
from factedit.errors import FacteditError
from factedit.files.checkpoint_checks import hub_blobs, read_json
from factedit.files.checkpoint_weights import check_weights, stored_dtype
from factedit.files.quantised.table import kind_of, settings_of
from factedit.models.adapter import EditableModel

RECORD = "factedit-export.json"


def on_type(model: EditableModel, form: str, *, narrowed: bool) -> list[str]:
    """Return what is to be said where a merged model takes more room than the base's files, whose type is narrower."""
    folder = Path(str(getattr(model.lm, "name_or_path", "") or ""))
    if form != "merged" or narrowed or model.dtype != torch.float32 or not (folder / "config.json").is_file():
        return []
    said = settings_of(read_json(folder / "config.json", model.name))
    if said is not None:
        kind = kind_of(said, model.name).name
        return [
            f"the base is quantised ({kind}), and this export holds all its weights unquantised, as float32; as 'peft' "
            "it stays quantised, and 'factedit apply' leaves all but the edited matrix as it is"
        ]
    stored = stored_dtype(check_weights(folder, what=model.name, blobs=hub_blobs(folder)))
    short = {"bfloat16": "BF16", "float16": "F16"}.get(stored)
    return (
        [f"the base is stored as {stored}, and this export as float32; --store-as {short} keeps its type"]
        if short
        else []
    )


def note_export(folder: Path, edit: Edit, proof: dict[str, Any]) -> str:
    """Note what was proven of an export in the edit's own folder.

    Args:
        folder: of the edit.
        edit: that was shipped.
        proof: see `Shipped.as_json`.

    Returns:
        Nothing, or why it could not be noted, in one sentence.
    """
    try:
        with locked(folder):  # another export may be noted at the same time
            there = Edit.load(folder)
            if there.identity != edit.identity:
                return f"The proof is not noted in {folder}, which holds another edit by now; it stands in {RECORD}."
            there.with_export(proof).save(folder)
    except (FacteditError, OSError) as error:
        return f"The proof could not be noted in {folder} ({error}); it stands in {RECORD} of the export."
    return ""
