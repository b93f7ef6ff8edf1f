"""What prompts become under edits, each under its own."""

from __future__ import annotations

from collections.abc import Sequence

from factedit.edit.artefact import Edit
from factedit.models.adapter import EditableModel


def prompts_edited(model: EditableModel, texts: Sequence[str], edits: Sequence[Edit | None]) -> list[str]:
    """Return what is asked in place of texts, each under its own edit.

    Args:
        model: the unedited model.
        texts: prompts.
        edits: one per text; None leaves it.
    """
    asked = list(texts)
    for edit in {id(edit): edit for edit in edits if edit is not None}.values():
        indices = [n for n, other in enumerate(edits) if other is edit]
        for n, text in zip(indices, edit.on_prompts(model, [texts[n] for n in indices]), strict=True):
            asked[n] = text
    return asked
