"""A line of the page's ledger, when two of them may change places, and what was done, by whom and when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from factedit.edit.artefact import Edit
from factedit.edit.show import warnings
from factedit.stack.ledger import Entry

HERE = "this page"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Happened(NamedTuple):
    """A line of the history.

    Attributes:
        what: was done.
        who: did it: this page, or the folder whose ledger tells it.
        when: UTC, ISO 8601.
    """

    what: str
    who: str = HERE
    when: str = ""

    @classmethod
    def now(cls, what: str) -> Happened:
        """Return a line of this page, of now."""
        return cls(what, HERE, _now())


def happened_to(entries: Sequence[Entry], folder: str) -> tuple[Happened, ...]:
    """Return the history that the ledger of a folder tells, oldest first."""
    names = {edit.identity: edit.text for entry in entries for edit in entry.standing}
    return tuple(
        Happened(
            f"{entry.kind}: {', '.join(names.get(sha, sha[:12]) for sha in entry.edits) or entry.model_name}",
            f"folder {folder}, factedit {entry.versions.get('factedit', '?')}",
            entry.time,
        )
        for entry in entries
    )


def named_edit(edit: Edit) -> str:
    """Return an edit in a few words: its first fact, and how many more."""
    if not edit.requests:
        return edit.identity[:12]
    first, more = edit.requests[0], len(edit.requests) - 1
    return f"{first.text} → {first.target_new}" + (f" and {more} more" if more else "")


@dataclass(frozen=True)
class LedgerRow:
    """A line of the ledger.

    Attributes:
        edit: the edit.
        on: it is on the model.
        since: UTC, ISO 8601.
        came: from where: `made here`, or the folder's name.
        tests: prompts of one's own that a proof of it asks, too.
    """

    edit: Edit
    on: bool
    since: str = field(default_factory=_now)
    came: str = "made here"
    tests: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what the page is told."""
        edit = self.edit
        return {
            "edit": edit.identity, "on": self.on, "tests": list(self.tests), "since": self.since, "came": self.came,
            "method": edit.method,
            "layers": edit.layers, "facts": [vars(request) for request in edit.requests],
            "told": [{"before": note.before, "after": note.after} for note in edit.notes],
            "size": {name: edit.diagnostics.get(name) for name in ("update_norm", "weight_norm")},
            "in_weights": all(hasattr(effect, "place") for effect in edit.effects), "warnings": warnings(edit),
        }  # fmt: skip


def switched(rows: Sequence[LedgerRow], identity: str | None, on: bool) -> tuple[LedgerRow, ...]:
    """Return the rows with an edit switched, or all of them."""
    return tuple(replace(row, on=on) if identity in (None, row.edit.identity) else row for row in rows)


def order_matters(one: Edit, other: Edit, fingerprint: str) -> str:
    """Say why two edits may not change places, in a sentence; empty where nothing changes, to the bit."""
    places = [[getattr(effect, "place", None) for effect in edit.effects] for edit in (one, other)]
    if any(place is None for of_edit in places for place in of_edit):
        return "One of the two changes no weights: which text or memory comes first matters."
    if any(edit.made_for != fingerprint or edit.takes_back for edit in (one, other)):
        return "One of the two was made with other edits on the model, which come before it."
    if set(places[0]) & set(places[1]):
        return "Both change the same matrix: their sum is rounded otherwise in another order."
    return ""
