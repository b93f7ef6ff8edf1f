"""Batches of facts put on a model one after the other, each saved as it is made; goes on where it was interrupted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from factedit.edit.artefact import Edit
from factedit.edit.manifest import MANIFEST, canonical
from factedit.edit.method import Method, TakesBack
from factedit.edit.standing import FactOn, refuse_repeated
from factedit.edit.state import State, state_after_change, state_of
from factedit.errors import EditError
from factedit.evaluate.making import make
from factedit.evaluate.outcome import outcomes
from factedit.evaluate.together import Together
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.as_found import AsFound
from factedit.plugins import strangers_of
from factedit.work.edit import SavedEdit

logger = logging.getLogger("factedit")
NOT_EDITED = "not_edited"  # the diagnostic of an edit that tells which facts of its batch it does not hold
SECONDS = "seconds"


@dataclass
class RunningSequence:
    """A sequence of edits on a model, so far.

    Attributes:
        base: the unedited model.
        method: made for it.
        edits: that are on it, in order; those made here last.
        on: the model with them.
        made: the edits made here.
        failed: facts that could not be edited, and why.
        fingerprint: of the unedited model.
        state: what the next edit must be given; kept, for to fold it anew at every step costs T² in T steps.
    """

    base: EditableModel
    method: Method
    edits: list[Edit]
    on: Together
    made: list[SavedEdit] = field(default_factory=list)
    failed: dict[EditRequest, str] = field(default_factory=dict)
    fingerprint: str = ""
    state: State | None = None

    @classmethod
    def begin(cls, base: EditableModel, method: Method, earlier: Sequence[Edit]) -> RunningSequence:
        """Begin with the edits that are on a model already.

        Raises:
            DataError: states that do not follow each other.
            EditError: an edit is named twice.
        """
        refuse_repeated(earlier)
        fingerprint = base.fingerprint()
        state = state_of(fingerprint, (edit.state_change for edit in earlier))
        before = Together(base).plus(earlier[:-1])
        _tell_of_gaps(base, before, earlier, fingerprint)
        return cls(base, method, list(earlier), before.plus(earlier[-1:]), fingerprint=fingerprint, state=state)

    @property
    def seconds(self) -> float:
        """What making the edits took, whenever it was."""
        return float(sum(edit.diagnostics.get(SECONDS, 0.0) for edit, _ in self.made))

    def put_on(self, edit: Edit, folder: Path | None) -> None:
        """Put on a further edit."""
        self.edits.append(edit)
        self.state = state_after_change(self.fingerprint, self.state, edit.state_change)
        self.on = self.on.plus([edit])
        self.made.append(SavedEdit(edit, folder))
        self.failed |= _not_edited(edit)

    def batch(self, requests: Sequence[EditRequest], folder: Path | None) -> None:
        """Edit facts together and save the edit, or take the one that an interrupted call saved.

        Raises:
            EditError: the folder holds another edit.
            ResourceError: memory or disk ran out.
        """
        with self.on.on(self.base):
            saved = None if folder is None else self._saved(requests, folder)
            if saved is not None:
                self.put_on(saved, folder)
                return
            state, before = self.state, outcomes(self.base, requests)
            as_found = AsFound.of(self.base, strangers_of(self.method))
            made = make(self.base, self.method, requests, chunk=1, state=state)
            as_found.check(self.base)
        why = {request: place for request, place in zip(requests, made.places, strict=True) if isinstance(place, str)}
        if not made.edits:
            self.failed |= why
            return
        [edit] = made.edits
        edit = edit.with_state(state, made.state)
        with self.on.plus([edit]).on(self.base):
            after = outcomes(self.base, edit.requests)
        told = [{"request": vars(request), "why": text} for request, text in why.items()]
        edit = replace(edit, diagnostics={**edit.diagnostics, SECONDS: made.cost.seconds, NOT_EDITED: told})
        of = dict(zip(requests, before, strict=True))
        edit = edit.with_outcomes(
            [(of[request], outcome) for request, outcome in zip(edit.requests, after, strict=True)]
        )
        if folder is not None:
            edit.save(folder)
        self.put_on(edit, folder)

    def take_back(self, gone: Sequence[FactOn], folder: Path | None) -> None:
        """Take facts back by an edit of its own.

        Raises:
            EditError: the method cannot; the facts were made by another one.
        """
        if not isinstance(self.method, TakesBack):
            raise EditError(
                f"No single fact can be taken out of what {self.method.name} wrote: take off its whole edit."
            )
        state = self.state
        if state is None:
            raise EditError("The edits keep no state, so no single fact can be taken out of them; take off whole ones.")
        with self.on.on(self.base):
            edit = self.method.take_back(self.edits, gone, state)
        if folder is not None:
            edit.save(folder)
        self.put_on(edit, folder)

    def _saved(self, requests: Sequence[EditRequest], folder: Path) -> Edit | None:
        """The edit of these facts that an interrupted call saved."""
        if not (folder / MANIFEST).is_file():
            return None
        edit = Edit.load(folder)
        same = (edit.method, canonical(edit.settings)) == (self.method.name, canonical(self.method.describe()))
        facts = {*edit.requests, *_not_edited(edit)} == set(requests)
        if not (same and facts and edit.made_for == self.base.fingerprint()):
            raise EditError(
                f"{folder} holds an edit of other facts, of other settings or of another model. Name another folder, "
                "or give the call that made it to go on there."
            )
        return edit


def _tell_of_gaps(base: EditableModel, before: Together, edits: Sequence[Edit], fingerprint: str) -> None:
    """Warn where the last edit was made for other weights than those before it give: one look tells of all of them."""
    last = edits[-1] if edits else None
    if last is None or last.made_for == fingerprint:
        return
    with before.on(base):
        there = base.fingerprint()
    if there != last.made_for:
        logger.warning(
            "The edit %s was made for weights %s…, and the edits before it give %s…: one of the sequence is missing, "
            "was taken off, or they are out of order. What it held is not in the history.",
            last.identity[:12], last.made_for[:12], there[:12],
        )  # fmt: skip


def _not_edited(edit: Edit) -> dict[EditRequest, str]:
    told = edit.diagnostics.get(NOT_EDITED, [])
    return {EditRequest(**row["request"]): row["why"] for row in told}
