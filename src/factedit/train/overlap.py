"""No network is trained on what it may be asked in an evaluation: checked, and refused with a list.

Two records overlap where a wording of one (its prompt or a paraphrase) is a wording of the other; records of one data
set also where their ids are equal. Prompts about neighbours are not compared: they ask for other facts than the edited.
"""

from __future__ import annotations

from collections.abc import Sequence

from factedit.errors import DataError
from factedit.facts import FactRecord

SHOWN = 20


def overlapping(
    records: Sequence[FactRecord], evaluated: Sequence[FactRecord], *, same_ids: bool
) -> tuple[FactRecord, ...]:
    """Return the records that overlap with evaluated ones.

    Args:
        records: to train on.
        evaluated: what an evaluation may ask.
        same_ids: the two are one data set, so that equal ids mean one record.
    """
    asked = {text for record in evaluated for text in record.wordings}
    ids = {record.case_id for record in evaluated} if same_ids else set()
    return tuple(record for record in records if record.case_id in ids or asked & record.wordings)


def refuse_overlap(
    records: Sequence[FactRecord], evaluated: Sequence[FactRecord], *, name: str, same_ids: bool
) -> None:
    """Refuse a training set that overlaps with evaluated records.

    Raises:
        DataError: listing the ids of the training set's records.
    """
    both = [record.case_id for record in overlapping(records, evaluated, same_ids=same_ids)]
    if both:
        more = f" and {len(both) - SHOWN} more" if len(both) > SHOWN else ""
        raise DataError(
            f"{len(both)} of the {len(records)} records to train on can be evaluated ({name}): "
            f"{', '.join(both[:SHOWN])}{more}. Take them out of the training set."
        )
