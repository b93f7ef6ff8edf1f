"""Say what an edit is, and whether a model was edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.account.audit import audit
from factedit.account.outcome import Audit
from factedit.data.registry import load_facts, select
from factedit.edit.artefact import Edit
from factedit.edit.show import show
from factedit.stack.stand import check_made_for
from factedit.work.inputs import ModelSource, load_model, opened
from factedit.work.progress import Progress, silent
from factedit.work.reads import read_and_written


def describe_edit(folder: Path, model: str | None = None) -> dict[str, Any]:
    """Return what an edit does, how it was made, its outcome, its size, and what to beware of; see `factedit.show`.

    Args:
        folder: that `edit` wrote.
        model: that it was made for: then `read_and_written` tells what its factors read and write, of its first fact.

    Raises:
        DataError: the folder does not hold a whole edit.
        EditError: it was made for another model.
        UsageError: the edit changes no weights.
    """
    told = show(folder)
    if model is None:
        return told
    edit, base = Edit.load(folder), load_model(model)
    check_made_for(base, [edit])
    return told | {"read_and_written": [place.as_json() for place in read_and_written(base, edit)]}


def audit_model(
    base: ModelSource,
    suspect: str,
    *,
    candidates: str = "worldfacts",
    records: int | None = None,
    progress: Progress = silent,
) -> Audit:
    """Compare a model with what it is said to be.

    Args:
        base: the original, or what gives it.
        suspect: a model as `factedit.load` takes it, or the folder of a PEFT adapter.
        candidates: facts that may have been edited: a data set, or a file.
        records: so many of them, drawn with seed 0; None is all.
        progress: told the tensors compared.

    Raises:
        UsageError: the candidates are refused before the model is loaded.
        EditError: the two are not versions of one model.
    """
    data = load_facts(candidates)
    data.say_skipped()
    drawn = select(data.records, limit=records)
    told = lambda done, total: progress("comparing tensors", done, total)  # noqa: E731
    return audit(opened(base), suspect, [record.request for record in drawn], progress=told)
