"""Show that edits leave no trace: a hash of all weights before, with them, and after taking them back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from factedit.edit.artefact import Edit
from factedit.evaluate.together import Together
from factedit.models.adapter import EditableModel
from factedit.work.progress import Progress, silent


class Hashes(NamedTuple):
    """SHA-256 of all weights.

    Attributes:
        before: of the unedited model.
        edited: with the edits on; None where there are none.
        after: with them taken back.
    """

    before: str
    edited: str | None
    after: str

    @property
    def restored(self) -> bool:
        """Whether the weights are the same bits as before."""
        return self.before == self.after

    def as_json(self) -> dict[str, Any]:
        """Return the same, and whether the bits are restored."""
        return self._asdict() | {"restored": self.restored}


def undo(model: EditableModel, edits: Sequence[Edit], *, progress: Progress = silent) -> Hashes:
    """Put edits on, take them back, and hash all weights three times.

    Args:
        model: unedited; the same bits afterwards, which is what is shown.
        edits: in order.
        progress: told the hashes done, of three.

    Raises:
        EditError: an edit of other shapes.
    """
    what = "hashing all weights (before, edited, taken back)"
    progress(what, 0, 3)
    before, edited = model.fingerprint(), None
    progress(what, 1, 3)
    if edits:
        with Together(model).plus(edits).on(model):
            edited = model.fingerprint()
    progress(what, 2, 3)
    return Hashes(before, edited, model.fingerprint())
