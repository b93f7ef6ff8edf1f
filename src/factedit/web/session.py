"""What the page works on: one model, the edits on it in order, and the folders that the server was started with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from factedit.edit.artefact import Edit
from factedit.edit.manifest import MANIFEST
from factedit.edit.show import warnings
from factedit.errors import DataError, EditError, UsageError
from factedit.models.adapter import EditableModel
from factedit.stack.folder import is_stack
from factedit.stack.stand import check_made_for
from factedit.work.results import STORE

EDIT, RESULTS, MODEL = "edit", "results", "model"


@dataclass(frozen=True)
class GivenFolder:
    """A folder that the server was started with.

    Attributes:
        path: where it is; never told to the browser.
        kind: `edit`, `results` or `model`.
    """

    path: Path
    kind: str

    @property
    def name(self) -> str:
        """How the page calls it."""
        return self.path.resolve().name


def given_folder(path: Path) -> GivenFolder:
    """Return what a folder holds.

    Raises:
        DataError: nothing that the page can show.
    """
    if (path / MANIFEST).is_file():
        return GivenFolder(path, EDIT)
    if (path / STORE).is_file():
        return GivenFolder(path, RESULTS)
    if is_stack(path) or any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        return GivenFolder(path, MODEL)
    raise DataError(
        f"{path} holds nothing that the page shows: give an edit, a folder of results, a model, or a PEFT adapter."
    )


@dataclass(frozen=True)
class LedgerRow:
    """A line of the ledger.

    Attributes:
        edit: the edit.
        on: it is on the model.
        since: UTC, ISO 8601.
        came: from where: `made here`, or the folder's name.
    """

    edit: Edit
    on: bool
    since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    came: str = "made here"

    def as_json(self) -> dict[str, Any]:
        """Return what the page is told."""
        edit = self.edit
        return {
            "edit": edit.identity, "on": self.on, "since": self.since, "came": self.came, "method": edit.method,
            "layers": edit.layers, "facts": [vars(request) for request in edit.requests],
            "told": [{"before": note.before, "after": note.after} for note in edit.notes],
            "size": {name: edit.diagnostics.get(name) for name in ("update_norm", "weight_norm")},
            "in_weights": all(hasattr(effect, "place") for effect in edit.effects), "warnings": warnings(edit),
        }  # fmt: skip


class Session:
    """The model and what is on it; safe to ask from several threads, the model itself is the worker's alone.

    Args:
        opener: gives the unedited model and the edits on it.
        name: of the model, as it was asked for.
        folders: that the page may read.
        out: where exports go; None forbids them.
    """

    def __init__(
        self,
        opener: Callable[[], tuple[EditableModel, Sequence[Edit]]],
        name: str,
        folders: Sequence[GivenFolder] = (),
        out: Path | None = None,
    ) -> None:
        self._opener, self.name, self.folders, self.out = opener, name, tuple(folders), out
        self._lock = threading.Lock()
        self._model: EditableModel | None = None
        self._rows: tuple[LedgerRow, ...] = ()
        self.fingerprint = ""
        self.failed = ""

    def open(self) -> None:
        """Load the model and the edits; the worker's first job.

        Raises:
            FacteditError: it cannot be loaded, which `failed` says from then on.
        """
        try:
            model, edits = self._opener()
            rows = [LedgerRow(edit, True, came=self.name) for edit in edits]
            rows += [
                LedgerRow(Edit.load(folder.path), False, came=folder.name)
                for folder in self.folders
                if folder.kind == EDIT
            ]
            fingerprint = model.fingerprint()
        except Exception as error:
            self.failed = str(error)
            raise
        with self._lock:
            self._model, self._rows, self.fingerprint = model, tuple(rows), fingerprint

    @property
    def model(self) -> EditableModel:
        """The unedited model.

        Raises:
            UsageError: it is not there yet, or could not be loaded.
        """
        if self._model is None:
            raise UsageError(self.failed or f"{self.name} is still being loaded; try again in a moment.")
        return self._model

    @property
    def rows(self) -> tuple[LedgerRow, ...]:
        """The ledger, in order."""
        with self._lock:
            return self._rows

    def on(self) -> list[Edit]:
        """Return the edits that are on, in order."""
        return [row.edit for row in self.rows if row.on]

    def edit(self, identity: str) -> Edit:
        """Return an edit of the ledger.

        Raises:
            UsageError: there is none of this identity.
        """
        matching = [row.edit for row in self.rows if row.edit.identity == identity]
        if not matching:
            raise UsageError("This edit is not in the ledger; reload the page.")
        return matching[0]

    def put(self, edit: Edit) -> None:
        """Add an edit and switch it on; one that is there already is only switched on."""
        with self._lock:
            if any(row.edit == edit for row in self._rows):
                self._rows = tuple(replace(row, on=True) if row.edit == edit else row for row in self._rows)
            else:
                self._rows = (*self._rows, LedgerRow(edit, True))

    def switched(self, identity: str | None, on: bool) -> tuple[LedgerRow, ...]:
        """Return the ledger with an edit switched, or all of them; nothing is changed.

        Raises:
            UsageError: there is none of this identity.
        """
        if identity is not None:
            self.edit(identity)
        return _switched(self.rows, identity, on)

    def stands_alone(self, rows: Sequence[LedgerRow]) -> bool:
        """Return whether every edit that is on was made for the unedited model, so that nobody needs to look at the
        model.
        """
        return all(row.edit.made_for == self.fingerprint for row in rows if row.on)

    def switch(self, identity: str | None, on: bool) -> None:
        """Switch an edit, or all of them. Where `stands_alone` does not hold it is the worker's to call.

        Raises:
            UsageError: there is none of this identity.
            EditError: an edit that is on was computed with the one that goes off, or for another model.
        """
        after = self.switched(identity, on)
        if not self.stands_alone(after):
            check_made_for(self.model, [row.edit for row in after if row.on])
        with self._lock:  # of the rows as they are now: an edit may have come while this was checked
            self._rows = _switched(self._rows, identity, on)

    def exchange(self) -> list[str]:
        """Return per edit and the next one why the two may not change places; empty where they may, to the bit."""
        rows = self.rows
        return [_order_matters(one, next_, self.fingerprint) for one, next_ in pairwise(row.edit for row in rows)]

    def move(self, identity: str, by: int) -> None:
        """Let an edit change places with its neighbour.

        Args:
            identity: of the edit.
            by: -1 for the one before, 1 for the one after.

        Raises:
            UsageError: there is none of this identity, or no neighbour there.
            EditError: the order of the two matters.
        """
        self.edit(identity)
        with self._lock:
            rows = list(self._rows)
            at = next(n for n, row in enumerate(rows) if row.edit.identity == identity)
            first = min(at, at + by)
            if not 0 <= first < len(rows) - 1:
                raise UsageError(f"The edit is the {'first' if by < 0 else 'last'} of the ledger already.")
            why = _order_matters(rows[first].edit, rows[first + 1].edit, self.fingerprint)
            if why:
                raise EditError(why)
            rows[first], rows[first + 1] = rows[first + 1], rows[first]
            self._rows = tuple(rows)

    def forget(self, identity: str) -> None:
        """Take an edit that is off out of the ledger.

        Raises:
            UsageError: there is none of this identity.
            EditError: it is on.
        """
        edit = self.edit(identity)
        with self._lock:
            if any(row.on for row in self._rows if row.edit == edit):
                raise EditError("The edit is on the model; switch it off first.")
            self._rows = tuple(row for row in self._rows if row.edit != edit)

    def without_paths(self, text: str) -> str:
        """Return a text with the names of the folders in place of where they are."""
        there = [folder.path for folder in self.folders] + ([] if self.out is None else [self.out])
        places = {
            str(place): path.resolve().name for path in there for place in (path, path.absolute(), path.resolve())
        }
        for place in sorted(places, key=len, reverse=True):
            text = text.replace(place, places[place]) if len(place) > 1 else text
        return text

    def folder(self, number: int, kind: str) -> GivenFolder:
        """Return one of the folders that the server was started with.

        Raises:
            UsageError: no such folder of this kind.
        """
        if not 0 <= number < len(self.folders) or self.folders[number].kind != kind:
            raise UsageError(f"There is no folder {number} of the kind {kind!r}; start the server with --folder.")
        return self.folders[number]


def _switched(rows: Sequence[LedgerRow], identity: str | None, on: bool) -> tuple[LedgerRow, ...]:
    """Rows with an edit switched, or all of them."""
    return tuple(replace(row, on=on) if identity in (None, row.edit.identity) else row for row in rows)


def _order_matters(one: Edit, other: Edit, fingerprint: str) -> str:
    """Why two edits may not change places, in a sentence; empty where nothing changes, to the bit."""
    places = [[getattr(effect, "place", None) for effect in edit.effects] for edit in (one, other)]
    if any(place is None for of_edit in places for place in of_edit):
        return "One of the two changes no weights: which text or memory comes first matters."
    if any(edit.made_for != fingerprint or edit.takes_back for edit in (one, other)):
        return "One of the two was made with other edits on the model, which come before it."
    if set(places[0]) & set(places[1]):
        return "Both change the same matrix: their sum is rounded otherwise in another order."
    return ""
