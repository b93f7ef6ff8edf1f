"""Edit facts: compute, measure, keep, and tell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from factedit.edit.artefact import Edit
from factedit.edit.manifest import MANIFEST
from factedit.edit.method import Method, check_made
from factedit.edit.place import check_place
from factedit.edit.show import FACTS_SHOWN, untaken
from factedit.errors import EditError
from factedit.evaluate.outcome import with_outcomes
from factedit.facts import EditRequest, notes_on_request
from factedit.models.adapter import EditableModel
from factedit.models.as_found import AsFound
from factedit.outputs import check_writable
from factedit.plugins import strangers_of

logger = logging.getLogger("factedit")
AT_ONCE = 32  # facts edited and measured together


class SavedEdit(NamedTuple):
    """An edit and where it was saved.

    Attributes:
        edit: with its outcomes.
        folder: None where it was not saved.
    """

    edit: Edit
    folder: Path | None


def edit_facts(
    model: EditableModel,
    method: Method,
    requests: Sequence[EditRequest],
    *,
    folder: Path | None = None,
    force: bool = False,
    progress: Callable[[int], None] = lambda _facts: None,
) -> list[SavedEdit]:
    """Compute edits of facts, measure each on the unedited model, and save them.

    A method of scope `each` makes an edit of every fact, saved in `folder` or, of several, in `folder/0000` and so on;
    one of scope `joint` makes one edit of all, saved in `folder`. What is done with spaces and characters that the
    writer of a fact may not expect is said in a warning.

    Args:
        model: that the method was made for; not changed.
        method: makes the edits.
        requests: the facts.
        folder: where to; None saves nothing.
        force: also in place of older edits.
        progress: called with the number of facts that were just finished.

    Raises:
        EditError: an edit that cannot be computed; before anything is computed, a folder that holds another edit or
            something else.
        RequestError: a fact that cannot be edited as written.
        ResourceError: memory or disk ran out.
    """
    for request in requests:
        for note in notes_on_request(request):
            logger.warning("%s", note)
    saved: list[SavedEdit] = []
    alone = method.scope == "joint" or len(requests) == 1
    if folder is not None:
        check_folder(folder, 0 if alone else len(requests), force=force)
    before = AsFound.of(model, strangers_of(method))
    with model.unchanged():
        for part in _parts(requests, whole=method.scope == "joint"):
            made = check_made(method, part, method.edit(part), model)
            before.check(model)
            for edit in with_outcomes(model, made.edits):
                place = folder if folder is None or alone else folder / f"{len(saved):04d}"
                saved.append(SavedEdit(edit, None if place is None else edit.save(place, force=force)))
            progress(len(part))
    return saved


def check_folder(folder: Path, facts: int, *, force: bool = False) -> None:
    """Refuse a folder that edits cannot be saved in.

    Args:
        folder: where to.
        facts: how many edits get folders of their own in it; 0 where the folder is to hold one edit.
        force: also in place of older edits.

    Raises:
        EditError: it holds an edit, or another batch of them, or something that is none.
        ResourceError: it cannot be written.
    """
    check_writable(folder)
    if not facts:
        check_place(folder, force=force)
        return
    if (folder / MANIFEST).is_file():
        raise EditError(f"{folder} holds an edit, and edits do not hold edits. Name another folder.")
    for number in range(facts if folder.is_dir() else 1):
        check_place(folder / f"{number:04d}", force=force)
    further = [path for path in folder.glob("[0-9]" * 4 + "*") if path.name.isdecimal() and int(path.name) >= facts]
    if further:
        raise EditError(
            f"{folder} holds the edits of more facts ({min(further).name} and so on), which would be mixed up with "
            f"these {facts}. Name another folder."
        )


def _parts(requests: Sequence[EditRequest], *, whole: bool) -> Iterator[Sequence[EditRequest]]:
    step = max(1, len(requests)) if whole else AT_ONCE
    for begin in range(0, len(requests), step):
        yield requests[begin : begin + step]


def describe(edited: SavedEdit, *, full: bool = False) -> dict[str, Any]:
    """Return an edit for machines, as `factedit edit --json` gives it.

    Of one request: `{method, model, layer, request, edit_dir, …what was measured, before, after, settings}`. Of
    several: `requests` in place of `request`, and per request an entry of `facts` with what was measured of it.

    Args:
        edited: the edit.
        full: of a rank-one insertion, `direction` and `residual` whole; ΔW = outer(direction, residual) / denominator.
    """
    edit, folder = edited
    layers = edit.layers
    head = {
        "method": edit.method,
        "model": edit.model_name,
        "layer": layers[0] if len(layers) == 1 else layers,
        "edit_dir": None if folder is None else str(folder),
        "settings": edit.settings,
    }
    if len(edit.requests) != 1:
        facts = [vars(note) | {"request": vars(r)} for note, r in zip(edit.notes, edit.requests, strict=True)]
        return head | {"requests": len(edit.requests), "facts": facts, **edit.diagnostics}
    [request], [note] = edit.requests, edit.notes
    row = head | {"request": vars(request), **edit.told_of(0), "before": note.before, "after": note.after}
    return row | (_insertion(edit) if full else {})


def said_of_untaken(edits: Sequence[Edit]) -> list[str]:
    """Return sentences on the facts of edits that did not take, as recorded: the first ones, and how many more."""
    gone = [fact for edit in edits for fact in edit.takes_back]
    said = [text for edit in edits for text in untaken(edit, [n for name, n in gone if name == edit.identity])]
    more = len(said) - FACTS_SHOWN
    return said if more <= 0 else [*said[:FACTS_SHOWN], f"and {more} more facts"]


def _insertion(edit: Edit) -> dict[str, Any]:
    """Direction and residual of an edit that is one rank-one insertion; nothing of others."""
    factors = edit.effects[0].factors() if len(edit.effects) == 1 and hasattr(edit.effects[0], "factors") else None
    told = edit.told_of(0)
    if factors is None or "denominator" not in told:
        return {}
    left, right = factors
    return {"direction": left[:, 0].tolist(), "residual": (right[0] * told["denominator"]).tolist()}
