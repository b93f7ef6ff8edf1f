"""The known facts of causal tracing (Meng et al. 2022, arXiv 2202.05262, section 2).

The format is their authors':

    {known_id, subject, attribute, prompt, ...}

`prompt` is complete and may be longer than the relation's `template`, which is not read, like `prediction`.
"""

from __future__ import annotations

from pathlib import Path

from factedit.data.records import RecordSet, Row, read_set
from factedit.facts import KnownFact


def read_known_facts(path: Path, name: str = "known-facts") -> RecordSet[KnownFact]:
    """The facts of a file in the format of `known_1000.json`.

    Raises:
        DataError: naming file, line and field.
    """
    return read_set(path, name, _fact)


def _fact(_number: int, row: Row) -> KnownFact:
    return KnownFact(
        fact_id=row.name("known_id"),
        prompt=row.text("prompt"),
        subject=row.text("subject"),
        answer=row.text("attribute"),
    )
