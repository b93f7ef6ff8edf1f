"""Say what an edit is, and whether a model was edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.account.audit import audit
from factedit.account.outcome import Audit
from factedit.data.registry import load_facts, select
from factedit.edit.show import show
from factedit.work.inputs import ModelSource, opened


def describe_edit(folder: Path) -> dict[str, Any]:
    """Return what an edit does, how it was made, its outcome, its size, and what to beware of; see `factedit.show`.

    Raises:
        DataError: the folder does not hold a whole edit.
    """
    return show(folder)


def audit_model(
    base: ModelSource, suspect: str, *, candidates: str = "worldfacts", records: int | None = None
) -> Audit:
    """Compare a model with what it is said to be.

    Args:
        base: the original, or what gives it.
        suspect: a model as `factedit.load` takes it, or the folder of a PEFT adapter.
        candidates: facts that may have been edited: a data set, or a file.
        records: so many of them, drawn with seed 0; None is all.

    Raises:
        UsageError: the candidates are refused before the model is loaded.
        EditError: the two are not versions of one model.
    """
    data = load_facts(candidates)
    data.say_skipped()
    drawn = select(data.records, limit=records)
    return audit(opened(base), suspect, [record.request for record in drawn])
