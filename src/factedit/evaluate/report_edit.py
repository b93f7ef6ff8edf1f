"""What one edit did to its own prompt, and the edit as numbers for machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factedit.edit.artefact import Edit, LowRank
from factedit.evaluate.chunk import FREE_TOKENS
from factedit.evaluate.free import continue_texts
from factedit.evaluate.probability import Question, Score, score
from factedit.models.adapter import EditableModel


def outcomes(model: EditableModel, edits: Sequence[Edit]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Per edit the probabilities of the targets on its prompt and the greedy continuation, before and after.

    Args:
        model: the unedited model; not changed.
        edits: each of one request, and on its own.
    """
    requests = [edit.requests[0] for edit in edits]
    targets = [[t for t in (r.target_new, r.target_true) if t is not None] for r in requests]
    asked = [[Question(r.text, target) for target in own] for r, own in zip(requests, targets, strict=True)]
    scores = score(model, asked, [None, edits])
    prompts = [request.text for request in requests]
    texts = [continue_texts(model, prompts, own, tokens=FREE_TOKENS) for own in ([None] * len(edits), edits)]
    return [(_row(scores[0][n], texts[0][n]), _row(scores[1][n], texts[1][n])) for n in range(len(edits))]


def _row(scores: Sequence[Score], continuation: str) -> dict[str, Any]:
    row: dict[str, Any] = {"target_new": scores[0].probability}
    if len(scores) > 1:
        row["target_true"] = scores[1].probability
    return row | {"answers_target_new": all(scores[0].first), "continuation": continuation}


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
