"""No method is evaluated on what its network was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from factedit.errors import DataError
from factedit.evaluate.leak import SHOWN, refuse_trained_on
from factedit.facts import EditRequest, FactRecord

RECORDS = [
    FactRecord(case_id=str(n), request=EditRequest(subject="a", prompt="{} is", target_new="b", target_true="c"))
    for n in range(30)
]


class Learned:
    name = "learned"

    def __init__(self, count: int) -> None:
        self.count = count

    def trained_on(self, records: Sequence[FactRecord]) -> list[str]:
        return [record.case_id for record in records[: self.count]]


class Plain:
    name = "plain"


def test_others_may_be_evaluated() -> None:
    refuse_trained_on([Plain(), Learned(0)], RECORDS)
    refuse_trained_on([Learned(30)], [])


def test_the_records_are_named() -> None:
    with pytest.raises(DataError, match=r"learned was trained on 2 of the 30 records: 0, 1\. Evaluate on others"):
        refuse_trained_on([Plain(), Learned(2)], RECORDS)
    with pytest.raises(DataError, match=f"{SHOWN - 1} …") as error:
        refuse_trained_on([Learned(30)], RECORDS)
    assert f", {SHOWN} …" not in str(error.value)
