"""A user's own facts: per fact an object with `subject`, `prompt`, `target_new` and perhaps `target_true`.

    {"subject": "The Space Needle", "prompt": "{} is located in", "target_new": "Paris"}

Any other field is refused by name, so that a misspelt one is not passed over in silence. A set with test
prompts of its own is written in CounterFact's format.
"""

from __future__ import annotations

from pathlib import Path

from factedit.data.records import RecordSet, Row, read_set
from factedit.facts import EditRequest, FactRecord

FIELDS = ("subject", "prompt", "target_new", "target_true")


def read_request_records(path: Path, name: str = "requests") -> RecordSet[FactRecord]:
    """Return the requests of a file as records without test prompts; the case id is the number in the file, from 0.

    Args:
        path: a `.jsonl` or `.json` file, plain or `.gz`.
        name: of the set.

    Raises:
        DataError: naming file, line and field.
    """
    return read_set(path, name, _record)


def _record(number: int, row: Row) -> FactRecord:
    row.check_only(FIELDS, "a set with test prompts is written in CounterFact's format")
    request = EditRequest(
        subject=row.text("subject"),
        prompt=row.text("prompt"),
        target_new=row.text("target_new"),
        target_true=row.optional_text("target_true"),
    )
    return FactRecord(case_id=str(number), request=request)
