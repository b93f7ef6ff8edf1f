"""What an edit is likely to touch, before it is made: other facts whose keys its direction reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from factedit.data.worldfacts import worldfacts
from factedit.edit.artefact import Edit
from factedit.edit.method import Method
from factedit.edit.methods.rome import Rome
from factedit.edit.standing import facts_on
from factedit.errors import UsageError
from factedit.evaluate.entangled import shares_at
from factedit.facts import EditRequest, asked_of, one_spelling
from factedit.models.adapter import EditableModel
from factedit.models.tokens import in_contexts
from factedit.stats.subjects import subject_keys

CANDIDATES, NAMED = 400, 10


class Touched(NamedTuple):
    """Another fact, and the share of the edit's residual that lands on it.

    Attributes:
        subject, prompt: of it.
        share: (k C⁻¹ k*) / (k* C⁻¹ k*), k being its key: 1 for the edited fact itself, 0 where nothing lands.
    """

    subject: str
    prompt: str
    share: float

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return self._asdict()


@torch.no_grad()
def likely_touched(model: EditableModel, method: Method, request: EditRequest, *, count: int = NAMED) -> list[Touched]:
    """Return facts of the embedded set on whose keys most of an insertion lands (ROME, arXiv 2202.05262, eq. 2).

    Args:
        model: unedited; not changed.
        method: `rome` or `rome-original`, made for it.
        request: the fact.
        count: how many to name, one per subject.

    Raises:
        UsageError: a method that does not insert at one key.
        RequestError: a subject without tokens.
    """
    if not isinstance(method, Rome):
        raise UsageError(f"What {method.name} would touch is not known before it is computed; ask it of rome.")
    pairs = [(template, request.subject) for template in in_contexts(model, request.prompt, method.contexts)]
    key = subject_keys(model, method.layer, pairs).float().cpu().mean(0, keepdim=True)  # ROME eq. 3
    direction = method.preserved.solve(key, subjects=[request.subject]).cpu()
    others = other_facts(request)
    keys = subject_keys(model, method.layer, [(o.prompt, o.subject) for o in others]).cpu()
    shares = shares_at(keys, key, direction)[:, 0].tolist()
    best = sorted(zip(others, shares, strict=True), key=lambda pair: -abs(pair[1]))[:count]
    return [Touched(other.subject, other.text, share) for other, share in best]


def on_already(edits: Sequence[Edit], request: EditRequest) -> list[EditRequest]:
    """Return facts of edits that are about the same subject and relation: with a further edit the two are summed.

    Args:
        edits: that are on, in order.
        request: the fact.
    """
    return [fact.request for fact in facts_on(edits) if asked_of(fact.request) == asked_of(request)]


def other_facts(request: EditRequest) -> list[EditRequest]:
    """Return facts of the embedded set about other subjects than the request's, one each, evenly drawn."""
    by_subject = {one_spelling(record.request.subject): record.request for record in worldfacts(0)}
    by_subject.pop(one_spelling(request.subject), None)
    every = list(by_subject.values())
    step = max(1, len(every) // CANDIDATES)
    return every[::step]
