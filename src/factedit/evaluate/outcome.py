"""What an edit did to its own prompts: the probabilities of its targets and what is written, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factedit.edit.artefact import Edit, rows_edited
from factedit.engine.routing import experts_as_json, layers_with_experts, subject_routes
from factedit.evaluate.metrics.free import FREE_TOKENS
from factedit.evaluate.probability import Question, Score, score
from factedit.evaluate.texts import continue_texts
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

AT_ONCE = 32  # requests asked together


def with_outcomes(model: EditableModel, edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits, each on its own, with the outcome of each of their requests.

    An outcome holds P of `target_new` and, where it is known, of `target_true`, whether every token of the new object
    is the likeliest (`answers_target_new`), and the greedy `continuation`; of a model with experts those that the
    subject's last token is sent to, by layer (`experts`).

    Args:
        model: the unedited model; not changed.
        edits: of any number of requests.
    """
    asked = [(edit, request) for edit in edits for request in edit.requests]
    targets = [[t for t in (r.target_new, r.target_true) if t is not None] for _, r in asked]
    questions = [
        [Question(r.text, target) for target in objects] for (_, r), objects in zip(asked, targets, strict=True)
    ]
    edited = [edit for edit, _ in asked]
    scores = score(model, questions, [None, edited])
    prompts = [request.text for _, request in asked]
    texts = [continue_texts(model, prompts, variant, tokens=FREE_TOKENS) for variant in ([None] * len(asked), edited)]
    requests = [request for _, request in asked]
    sent = [_experts(model, requests, variant) for variant in ([None] * len(asked), edited)]
    rows = [[_row(scores[i][n], texts[i][n]) | sent[i][n] for n in range(len(asked))] for i in (0, 1)]
    outcomes = iter(zip(*rows, strict=True))
    return [edit.with_outcomes([next(outcomes) for _ in edit.requests]) for edit in edits]


def _experts(
    model: EditableModel, requests: Sequence[EditRequest], edits: Sequence[Edit | None]
) -> list[dict[str, Any]]:
    """Return `{experts: …}` per request, nothing of a model without any; texts before a prompt are left out."""
    if not layers_with_experts(model):
        return [{} for _ in requests]
    rows: list[dict[str, Any]] = []
    for begin in range(0, len(requests), AT_ONCE):
        part = slice(begin, begin + AT_ONCE)
        with rows_edited(model, edits[part]):
            by_request = subject_routes(model, [(request.prompt, request.subject) for request in requests[part]])
        rows += [{"experts": experts_as_json(routes)} for routes in by_request]
    return rows


def outcomes(model: EditableModel, requests: Sequence[EditRequest]) -> list[dict[str, Any]]:
    """Return the outcome of every request on a model as it is; see `with_outcomes`.

    Args:
        model: not changed.
        requests: the facts.
    """
    rows = []
    for begin in range(0, len(requests), AT_ONCE):
        part = requests[begin : begin + AT_ONCE]
        questions = [[Question(r.text, t) for t in (r.target_new, r.target_true) if t is not None] for r in part]
        [scores] = score(model, questions, [None])
        texts = continue_texts(model, [r.text for r in part], [None] * len(part), tokens=FREE_TOKENS)
        rows += [_row(scored, text) for scored, text in zip(scores, texts, strict=True)]
    return rows


def _row(scores: Sequence[Score], continuation: str) -> dict[str, Any]:
    row: dict[str, Any] = {"target_new": scores[0].probability}
    if len(scores) > 1:
        row["target_true"] = scores[1].probability
    return row | {"answers_target_new": all(scores[0].first), "continuation": continuation}
