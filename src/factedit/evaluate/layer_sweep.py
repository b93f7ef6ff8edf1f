"""ROME edited elsewhere: at every layer, and at other tokens than the subject's last (ROME, arXiv 2202.05262, fig. 5).

Key, offset δ and essence move to the token together: to the subject's first token (the essence is read there), or to
the prompt's last (the essence "{} is a" is then read at its end, as in the published program).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from factedit.edit.endings import Stop
from factedit.edit.method import Made, Scope
from factedit.edit.methods.rome import Rome
from factedit.edit.state import State
from factedit.edit.value import find_values
from factedit.edit.value_rows import ESSENCE, PromptRow, request_rows
from factedit.errors import UnknownName
from factedit.facts import EditRequest, fill, with_space
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.models.tokens import in_contexts

TOKENS = ("subject_first", "subject_last", "last")


@dataclass(frozen=True)
class RomeAt:
    """ROME at a layer and a token.

    Attributes:
        rome: the method, set up for the layer.
        token: one of `TOKENS`.
    """

    rome: Rome
    token: str
    paper: str = "arXiv 2202.05262"
    scope: Scope = "each"

    def __post_init__(self) -> None:
        if self.token not in TOKENS:
            raise UnknownName("token", self.token, TOKENS)

    @property
    def name(self) -> str:
        """Of the row in the results."""
        return f"{self.rome.name} at layer {self.rome.layer}, {self.token}"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one independent edit per request. Raises as ROME does."""
        model, contexts = self.rome.model, self.rome.contexts
        settings = self.rome.settings
        rows = [rows_at(model, n, request, contexts, self.token, settings.stop) for n, request in enumerate(requests)]
        values = find_values(model, self.rome.layer, requests, contexts, settings, rows=rows)
        return Made(tuple(replace(e, settings=self.describe()) for e in self.rome.finish(requests, values).edits))

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the request, as JSON values."""
        return {**self.rome.describe(), "token": self.token}


def rows_at(
    model: EditableModel, fact: int, request: EditRequest, contexts: Sequence[str], token: str, stop: Stop = "none"
) -> list[PromptRow]:
    """Return the rows of a fact with δ at another token.

    Args:
        model: whose tokenizer counts.
        fact: index of the fact.
        request: the fact.
        contexts: templates, the bare one first.
        token: one of `TOKENS`.
        stop: how the target ends.
    """
    rows = request_rows(model, fact, request, contexts, stop)
    if token == "subject_last":
        return rows
    essence = locate(model, ESSENCE, request.subject)
    where = essence.subject_range[0] if token == "subject_first" else len(essence.ids) - 1
    moved = [replace(rows[-1], ids=essence.ids[: where + 1], subject_last=where, reads=(where,))]
    for row, context in zip(rows[:-1], contexts, strict=True):
        place = row.reads[0] if token == "last" else _first(model, request, context)
        moved.insert(-1, replace(row, subject_last=place))
    return moved


def _first(model: EditableModel, request: EditRequest, context: str) -> int:
    [template] = in_contexts(model, request.prompt, [context])
    suffix = with_space(fill(template, request.subject), request.target_new)
    return locate(model, template, request.subject, suffix=suffix).subject_range[0]
