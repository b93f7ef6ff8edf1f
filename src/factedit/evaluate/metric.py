"""What a metric is: what it asks of a record, how the replies are scored, and what counts as executed.

One file per metric in `metrics/` and one line in its table; metrics from outside register under the entry point group
`factedit.metrics`. A metric reads nothing by itself: it says what it asks (`asks.py`), and its asks are read under many
differently edited models at once, apart from those of other metrics, so that no score depends on what else is measured.
Metrics that ask the very same share the replies.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from factedit.evaluate.asks import Ask
from factedit.evaluate.column import Column
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel


class Answered(NamedTuple):
    """A record that was asked.

    Attributes:
        record: the record.
        replies: to what the metric asks of it, in order.
        before: the unedited model's replies to the same, where the metric `compares`.
    """

    record: FactRecord
    replies: Sequence[Any]
    before: Sequence[Any] = ()


class Outcome(NamedTuple):
    """What a metric found for one record under one edit.

    Attributes:
        scores: by column; NaN where nothing could be executed.
        texts: what else to keep with the record, JSON values by name.
        tests: by column how many tests were executed and how many were not; where it is left out, one test that was
            executed unless the score is NaN.
    """

    scores: Mapping[str, float]
    texts: Mapping[str, Any] = {}
    tests: Mapping[str, tuple[int, int]] = {}


class Metric(ABC):
    """Something measured of edits.

    Attributes:
        name: what users call it.
        what: one sentence.
        source: where it is from.
        columns: its scores.
        compares: whether its scores need the replies of the unedited model too.
        same_for_all: every record is asked the very same, so that under shared edits it is read once.
        takes: what else of a user's it is made from, by name (`panel`, `judge`); see `for_records`.
        why_none: why `for_records` may give None, where it is not for want of something in the set.
        absent: what the key of a run says where it is not measured.
    """

    name: str
    what: str
    source: str
    columns: tuple[Column, ...]
    compares: bool = False
    same_for_all: bool = False
    takes: ClassVar[tuple[str, ...]] = ()
    why_none: ClassVar[str] = ""
    absent: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def asks(self, record: FactRecord) -> Sequence[Ask]:
        """Return what is asked of a record that lacks nothing."""

    @abstractmethod
    def scored(self, answered: Answered) -> Outcome:
        """Return the scores of a record from the replies to its `asks`."""

    @classmethod
    def for_records(
        cls, records: Sequence[FactRecord], *, references: Path | None = None, **settings: Any
    ) -> Metric | None:
        """Return the metric for a data set, or None where the set holds nothing to measure it with.

        Args:
            records: all of the set.
            references: a user's texts about objects, for metrics that compare with some.
            settings: departures from the defaults, and those of `takes` that the user gave.
        """
        del records, references  # of no matter to most
        return cls(**settings)

    def for_model(self, model: EditableModel) -> Metric:
        """Return the metric for an unedited model, where what is asked depends on what that answers."""
        del model
        return self

    def lacks(self, record: FactRecord) -> str:
        """Return what the record lacks to be measured, in words; nothing where it lacks nothing."""
        return ""

    def describe(self) -> dict[str, Any]:
        """Return everything that decides its scores beside record, model and seed, as JSON values."""
        return {}

    def notes(self) -> dict[str, str]:
        """Return what one must know to read its scores, by name, for below a table."""
        return {}

    def as_key(self) -> dict[str, Any]:
        """Return its part of a run's key."""
        return {f"metric {self.name}": self.describe()}


def mean_of(values: Sequence[float | None]) -> tuple[float, tuple[int, int]]:
    """Return the mean of what was found, NaN where nothing was, and how many tests were executed and how many were not.

    Args:
        values: per test what was found; None or a number that is not finite where it was not executed.
    """
    executed = [value for value in values if value is not None and math.isfinite(value)]
    mean = math.fsum(executed) / len(executed) if executed else math.nan
    return mean, (len(executed), len(values) - len(executed))


def digest_of(value: Any) -> str:
    """Return a hash of JSON values: sha256, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
