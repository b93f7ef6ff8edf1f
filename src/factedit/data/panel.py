"""A panel of true facts, that an edit must leave alone.

    {prompt, subject, target}, the prompt with one {} for the subject or complete; `attribute` may stand for `target`.

Records whose subject does not stand in their prompt are left out and counted; a fact that stands there twice counts
once, and that is said.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from factedit.data.records import OUTSIDE, RecordSet, Row, read_set
from factedit.facts import KnownFact, fill

logger = logging.getLogger("factedit")


def read_panel(path: Path, name: str = "panel") -> RecordSet[KnownFact]:
    """Return the facts of a panel's file; a fact's id is its number in the file, from 0.

    Raises:
        DataError: naming file, line and field.
    """
    data = read_set(path, name, _fact)
    every = {(fact.prompt, fact.answer): fact for fact in reversed(data.records)}  # of two the first
    if twice := len(data.records) - len(every):
        logger.warning("Facts of %s that stand there already, and count once: %d.", path, twice)
    return replace(data, records=tuple(reversed(every.values())))


def _fact(number: int, row: Row) -> KnownFact | str:
    prompt, subject = row.text("prompt"), row.text("subject")
    answer = row.text("target" if "target" in row.fields else "attribute")
    if prompt.count("{}") > 1:
        return "its prompt holds several {}"
    text = fill(prompt, subject)
    if subject not in text:
        return OUTSIDE
    return KnownFact(fact_id=str(number), prompt=text, subject=subject, answer=answer)
