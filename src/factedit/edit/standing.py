"""Which facts edits hold together: those of every edit, but for the ones that a later edit took back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from factedit.edit.artefact import Edit
from factedit.errors import EditError
from factedit.facts import EditRequest


class FactOn(NamedTuple):
    """A fact that is on a model.

    Attributes:
        edit: that holds it.
        number: of the request in it.
    """

    edit: Edit
    number: int

    @property
    def request(self) -> EditRequest:
        """What was asked."""
        return self.edit.requests[self.number]

    @property
    def name(self) -> tuple[str, int]:
        """The edit's identity and the number, as `Edit.takes_back` names a fact."""
        return self.edit.identity, self.number


def refuse_repeated(edits: Sequence[Edit]) -> None:
    """Refuse edits of which one is named twice: its change would be put on twice.

    Raises:
        EditError: naming it.
    """
    seen = set[str]()
    for edit in edits:
        if edit.identity in seen:
            raise EditError(f"The edit {edit.identity[:12]} is named twice, and would change the model twice.")
        seen.add(edit.identity)


def facts_on(edits: Sequence[Edit]) -> list[FactOn]:
    """Return the facts that edits hold together, in the order they came."""
    gone = {name for edit in edits for name in edit.takes_back}
    every = [FactOn(edit, number) for edit in edits for number in range(len(edit.requests))]
    return [fact for fact in every if fact.name not in gone]
