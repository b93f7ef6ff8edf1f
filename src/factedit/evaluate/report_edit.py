"""What one edit did to its own prompt, and the edit as numbers for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.edit.artefact import Edit, LowRank
from factedit.evaluate.free import continue_texts
from factedit.evaluate.probability import Question, score
from factedit.models.adapter import EditableModel

FREE_TOKENS = 12


def outcome(model: EditableModel, edit: Edit) -> tuple[dict[str, Any], dict[str, Any]]:
    """Probabilities of the targets on the edit's prompt, and the greedy continuation, before and after.

    Args:
        model: the unedited model; not changed.
        edit: an edit of one request.
    """
    [request] = edit.requests
    targets = [t for t in (request.target_new, request.target_true) if t is not None]
    asked = [Question(request.text, target) for target in targets]
    scores = score(model, [asked], [None, [edit]])
    found = []
    for [own], applied in zip(scores, (None, edit), strict=True):
        row: dict[str, Any] = {"target_new": own[0].probability}
        if request.target_true is not None:
            row["target_true"] = own[1].probability
        row["answers_target_new"] = all(own[0].first)
        row["continuation"] = continue_texts(model, [request.text], [applied], tokens=FREE_TOKENS)[0]
        found.append(row)
    return found[0], found[1]


def describe_edit(edit: Edit, *, folder: Path | None = None, full: bool = False) -> dict[str, Any]:
    """The edit for machines, as the command line prints it.

    Args:
        edit: an edit of one request with its outcome.
        folder: where it was saved.
        full: of a rank-one insertion, `direction` and `residual` whole; ΔW = outer(direction, residual) / denominator.
    """
    [request], change = edit.requests, edit.changes[0]
    layers = sorted({change.layer for change in edit.changes})
    notes = dict(edit.diagnostics)
    found = {
        "method": edit.method,
        "model": edit.model_name,
        "layer": layers[0] if len(layers) == 1 else layers,
        "request": vars(request),
        "edit_dir": None if folder is None else str(folder),
        **notes,
        "settings": edit.settings,
    }
    if full and isinstance(change, LowRank) and "denominator" in notes:
        found["direction"] = change.left[:, 0].tolist()
        found["residual"] = (change.right[0] * notes["denominator"]).tolist()
    return found
