"""The known facts of causal tracing (Meng et al. 2022, arXiv 2202.05262, section 2.2, appendix B.1).

The format is their authors':

    {known_id, subject, attribute, prompt, ...}

`prompt` is complete and may be longer than the relation's `template`, which is not read, like `prediction`.

A user's own are shorter; `prompt` and `subject` suffice:

    {"prompt": "Miles Davis plays the", "subject": "Miles Davis", "answer": "trumpet", "other_subject": "Yo-Yo Ma"}

Without `answer` what the model says is traced; with `other_subject` that subject takes the place of noise.
"""

from __future__ import annotations

from pathlib import Path

from factedit.data.records import RecordSet, Row, read_set
from factedit.errors import DataError
from factedit.facts import KnownFact

FIELDS = ("prompt", "subject", "answer", "other_subject", "known_id")


def read_known_facts(path: Path, name: str = "known-facts") -> RecordSet[KnownFact]:
    """Return the facts of a file in the format of `known_1000.json`.

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


def read_own_facts(path: Path, name: str = "facts") -> RecordSet[KnownFact]:
    """Return the facts of a user's own file; one without `known_id` is told by its number in the file, from 0.

    Raises:
        DataError: naming file, line and field; or only some facts have an `other_subject`.
    """
    facts = read_set(path, name, _own_fact)
    if len({bool(fact.other_subject) for fact in facts.records}) > 1:
        raise DataError(
            f"{path}: some facts have an 'other_subject' and some have none, and their effects cannot be averaged "
            "together. Give it to all, or write two files."
        )
    return facts


def _own_fact(number: int, row: Row) -> KnownFact:
    row.check_only(FIELDS, "a fact to trace has no others")
    return KnownFact(
        fact_id=row.name("known_id") if "known_id" in row.fields else str(number),
        prompt=row.text("prompt"),
        subject=row.text("subject"),
        answer=row.optional_text("answer") or "",
        other_subject=row.optional_text("other_subject") or "",
    )
