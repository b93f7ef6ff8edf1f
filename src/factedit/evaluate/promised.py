"""Metrics held to what they promise: what a stranger's lacks or gives amiss is named, and the others go on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, SupportsFloat

from factedit.errors import FacteditError, ResourceError
from factedit.evaluate.asks import Ask
from factedit.evaluate.column import MEMORY, SECONDS, Column
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.metrics.teacher_forced import TeacherForced
from factedit.facts import FactRecord
from factedit.memory import is_out_of_memory

TOLD = ("name", "what", "source", "columns")
OF_ROWS = frozenset(("scores", "tests", "left_out", "failed", "diagnostics", MEMORY, SECONDS))  # a row's own fields
SLIGHT = 1e-6  # by which rounding may leave a range


class BrokenPromise(FacteditError):
    """A metric that gives something else than it promises."""


def why_no_metric(name: str, loaded: Any) -> str:
    """Return why what an entry point names is no metric; nothing where it is one.

    Args:
        name: the entry point's.
        loaded: what it points to.
    """
    if not (isinstance(loaded, type) and issubclass(loaded, Metric)):
        return "it is no class that is made from factedit.evaluate.metric.Metric"
    lacking = [part for part in TOLD if not getattr(loaded, part, None)] + sorted(loaded.__abstractmethods__)
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    if not isinstance(loaded.columns, tuple) or not all(isinstance(column, Column) for column in loaded.columns):
        return "its columns are no tuple of Column"
    return "" if loaded.name == name else f"it calls itself {loaded.name!r}"


def is_of_the_metric(error: BaseException) -> bool:
    """Return whether an error is the fault of what was called, and not of the machine."""
    return not (isinstance(error, ResourceError) or is_out_of_memory(error))


def fault(error: BaseException) -> str:
    """Return what went wrong: the message of an error that was raised on purpose, of others their kind too."""
    return str(error) if isinstance(error, FacteditError) else f"{type(error).__name__}: {error}"


def check_told(metric: Any) -> None:
    """Refuse a metric that cannot say what decides its scores and what one must know to read them.

    Raises:
        BrokenPromise: saying what it says in its place.
        Exception: whatever it raises when it is asked.
    """
    if not isinstance(metric, Metric):
        raise BrokenPromise(f"for_records gives {type(metric).__name__}, and no metric")
    key = metric.as_key()
    try:
        json.dumps(key, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise BrokenPromise(f"describe gives something else than JSON values: {error}") from error
    notes = metric.notes()
    if not all(isinstance(text, str) for pair in notes.items() for text in pair):
        raise BrokenPromise("notes gives something else than texts by name")


def checked_outcome(metric: Metric, outcome: Any) -> Outcome:
    """Return the outcome of a record if it is what the metric promises; its scores as numbers of Python's own.

    Infinity is NaN, and no test of a score that is NaN was executed, whatever is counted.

    Raises:
        BrokenPromise: no outcome; a score without a column, or a column without its score; a score that is no number,
            or outside its column's range; counts that are none; texts that are no JSON values, or under the name of a
            field that rows have anyway.
    """
    if not isinstance(outcome, Outcome):
        raise BrokenPromise(f"scored gives {type(outcome).__name__}, and no Outcome")
    columns = {column.name: column for column in metric.columns}
    amiss = sorted(columns.keys() ^ outcome.scores.keys())
    if amiss and not isinstance(metric, TeacherForced):  # a benchmark may leave out what it does not ask of a record
        raise BrokenPromise(f"scored must give one score for each of its columns ({', '.join(columns)}); {amiss[0]!r} "
                            f"is {'not given' if amiss[0] in columns else 'none of them'}")  # fmt: skip
    scores = {name: _number(name, value, columns.get(name)) for name, value in outcome.scores.items()}
    for name, counts in outcome.tests.items():
        if name not in scores or not _are_counts(counts):
            raise BrokenPromise(f"tests must give two counts per score, executed and not; {name!r} has {counts!r}")
    taken = sorted(OF_ROWS & outcome.texts.keys())
    if taken:
        raise BrokenPromise(f"texts must not hold {taken[0]!r}, which is a field of every row")
    try:
        json.dumps(dict(outcome.texts))
    except (TypeError, ValueError) as error:
        raise BrokenPromise(f"texts holds something else than JSON values: {error}") from error
    none = {name: (0, sum(counts)) for name, counts in outcome.tests.items() if math.isnan(scores[name])}
    return outcome._replace(scores=scores, tests={**outcome.tests, **none})


def _number(name: str, value: Any, column: Column | None) -> float:
    """Return a score as a number."""
    if type(value) not in (int, float):
        if isinstance(value, str) or not isinstance(value, SupportsFloat):
            raise BrokenPromise(f"the score {name!r} is {value!r}, and no number")
        value = float(value)
    number: float = value
    if column is not None and (number < column.low - SLIGHT or number > column.high + SLIGHT):
        raise BrokenPromise(f"the score {name!r} is {number:g}, outside of {column.low:g} to {column.high:g}")
    return number if math.isfinite(number) else math.nan


def _are_counts(counts: Any) -> bool:
    return isinstance(counts, Sequence) and [type(count) for count in counts] == [int, int] and min(counts) >= 0


class Faulty(Metric):
    """Stands for a metric that failed before anything was asked: it is named with every record, and the others go on.

    Args:
        metric: which.
        why: it failed.
    """

    def __init__(self, metric: Metric, why: str) -> None:
        self.name, self.what, self.source, self.columns = metric.name, metric.what, metric.source, metric.columns
        self.why, self._key = why, dict(metric.as_key())

    def asks(self, record: FactRecord) -> Sequence[Ask]:
        """Raise.

        Raises:
            BrokenPromise: why it failed.
        """
        raise BrokenPromise(self.why)

    def scored(self, answered: Answered) -> Outcome:
        """Raise, as `asks`."""
        raise BrokenPromise(self.why)

    def as_key(self) -> dict[str, Any]:
        """Return its part of a run's key."""
        return self._key
