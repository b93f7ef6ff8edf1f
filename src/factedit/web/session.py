"""What the page works on: one model, the edits on it in order, and the folders that the server was started with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from factedit.edit.artefact import Edit
from factedit.edit.manifest import MANIFEST
from factedit.errors import DataError, EditError, UsageError
from factedit.models.adapter import EditableModel
from factedit.stack.check import log
from factedit.stack.folder import is_stack
from factedit.stack.stand import check_made_for
from factedit.web.puzzle import Puzzles
from factedit.web.rows import Happened, LedgerRow, happened_to, named_edit, order_matters, switched
from factedit.work.results import STORE

EDIT, RESULTS, MODEL = "edit", "results", "model"
GONE = "This edit is not in the ledger; reload the page."


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
        self._history: tuple[Happened, ...] = ()
        self.fingerprint = ""
        self.puzzles = Puzzles()
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
            earlier = happened_to(log(self.name), Path(self.name).name) if is_stack(self.name) else ()
        except Exception as error:
            self.failed = str(error)
            raise
        with self._lock:
            self._model, self._rows, self.fingerprint, self._history = model, tuple(rows), fingerprint, earlier

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

    @property
    def history(self) -> tuple[Happened, ...]:
        """What was done to the model, oldest first: in the folder it was opened from, then here."""
        with self._lock:
            return self._history

    def remember(self, what: str) -> None:
        """Add a line to the history, of now."""
        with self._lock:
            self._history = (*self._history, Happened.now(what))

    @contextmanager
    def stopping(self, check: Callable[[], None]) -> Iterator[None]:
        """Ask `check` before every layer that runs inside the block, so that what it raises ends a job within a
        layer's time, on the same way as any error.
        """
        layers = [] if self._model is None else self._model.layers
        hooks = [layer.register_forward_pre_hook(lambda *_: check()) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

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
            raise UsageError(GONE)
        return matching[0]

    def put(self, edit: Edit) -> None:
        """Add an edit and switch it on; one that is there already is only switched on."""
        with self._lock:
            if any(row.edit == edit for row in self._rows):
                self._rows = tuple(replace(row, on=True) if row.edit == edit else row for row in self._rows)
            else:
                self._rows = (*self._rows, LedgerRow(edit, True))
        self.remember(f"put on: {named_edit(edit)}")

    def keep_tests(self, identity: str, prompts: Sequence[str]) -> None:
        """Keep prompts of one's own as the tests of an edit; every window has them, and the next proof asks them."""
        with self._lock:
            self._rows = tuple(
                replace(row, tests=tuple(prompts)) if row.edit.identity == identity else row for row in self._rows
            )

    def switched(self, identity: str | None, on: bool) -> tuple[LedgerRow, ...]:
        """Return the ledger with an edit switched, or all of them; nothing is changed.

        Raises:
            UsageError: there is none of this identity.
        """
        if identity is not None:
            self.edit(identity)
        return switched(self.rows, identity, on)

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
        while True:
            before = self.rows
            after = self.switched(identity, on)
            if not self.stands_alone(after):
                check_made_for(self.model, [row.edit for row in after if row.on])
            with self._lock:
                if self._rows == before:  # else another window was faster, and what was checked is not what would be
                    self._rows = after
                    break
        which = "all edits" if identity is None else named_edit(self.edit(identity))
        if after != before:
            self.remember(f"switched {'on' if on else 'off'}: {which}")

    def exchange(self) -> list[str]:
        """Return per edit and the next one why the two may not change places; empty where they may, to the bit."""
        rows = self.rows
        return [order_matters(one, next_, self.fingerprint) for one, next_ in pairwise(row.edit for row in rows)]

    def move(self, identity: str, by: int, past: str | None = None) -> None:
        """Let an edit change places with its neighbour.

        Args:
            identity: of the edit.
            by: -1 for the one before, 1 for the one after.
            past: the neighbour as it was seen when this was asked; None for whoever stands there.

        Raises:
            UsageError: there is none of this identity, or no neighbour there, or another than was seen.
            EditError: the order of the two matters.
        """
        with self._lock:
            rows = list(self._rows)
            at = next((n for n, row in enumerate(rows) if row.edit.identity == identity), None)
            if at is None:
                raise UsageError(GONE)
            first = min(at, at + by)
            if not 0 <= first < len(rows) - 1:
                raise UsageError(f"The edit is the {'first' if by < 0 else 'last'} of the ledger already.")
            if past not in (None, rows[at + by].edit.identity):
                raise UsageError("The order was changed in another window; look at it again, then move the edit.")
            why = order_matters(rows[first].edit, rows[first + 1].edit, self.fingerprint)
            if why:
                raise EditError(why)
            rows[first], rows[first + 1] = rows[first + 1], rows[first]
            self._rows = tuple(rows)
        self.remember(f"moved {'up' if by < 0 else 'down'}: {named_edit(rows[at + by].edit)}")

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
        self.remember(f"forgotten: {named_edit(edit)}")

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
