"""Under which edits records are scored: each fact alone, many at once, or one batch after the other.

A regime gives rounds: which records are scored, under which edits, what making these took, and what failed. Scoring
knows nothing of it (`chunk.py`). What rows of a method depend on beside the record stands in the run's key: nothing for
`Each`, whose rows know no other record; for the others the facts that were put on the model.
"""

from __future__ import annotations

import hashlib
import json
from collections import abc
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from factedit.data.cases import requests_of
from factedit.edit.method import Method
from factedit.errors import UsageError
from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.cases import by_record, make_cases
from factedit.evaluate.making import Cost, OfFact, make
from factedit.evaluate.measuring import AS_IT_IS, Under
from factedit.evaluate.together import Together
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel

Records = abc.Sequence[FactRecord]


class Stage(NamedTuple):
    """A row that a regime gives for every method.

    Attributes:
        suffix: of the row's name.
        key: what its numbers depend on beside method and record, for the run's key.
        places: of the records that it scores.
    """

    suffix: str
    key: abc.Mapping[str, Any]
    places: abc.Sequence[int]


@dataclass(frozen=True)
class Round:
    """Records to be scored.

    Attributes:
        row: name of the row that they are of.
        records: the records.
        under: what the model is read under.
        made: per record the edit that holds its fact and the fact's number in it, or why there is none; None for the
            unedited model.
        cost: what making the edits took.
    """

    row: str
    records: Records
    under: Under = AS_IT_IS
    made: abc.Sequence[OfFact] | None = None
    cost: Cost = field(default_factory=Cost)


class RegimeJob(NamedTuple):
    """What rounds are made of.

    Attributes:
        model: the unedited model.
        methods: the methods there are, made for it.
        part: one of the regime's `parts`.
        rows: the names of the rows that are wanted; the unedited model's is one of them.
        chunk: facts edited together where each is edited alone.
    """

    model: EditableModel
    methods: abc.Sequence[Method]
    part: Records
    rows: abc.Collection[str]
    chunk: int

    @property
    def unedited(self) -> list[Round]:
        """The unedited model's round, if it is wanted."""
        return [Round(UNEDITED, self.part)] if UNEDITED in self.rows else []


class Regime(Protocol):
    """A way to put facts on a model before it is scored.

    Attributes:
        shared: records share their edits, so that what becomes of the model as a whole is measured, too.
    """

    @property
    def shared(self) -> bool: ...  # noqa: D102

    def stages(self, ids: abc.Sequence[str]) -> tuple[Stage, ...]:
        """Return the rows per method, for records of these ids.

        Raises:
            UsageError: so many records do not fit the regime.
        """
        ...

    def parts(self, records: Records, chunk: int) -> list[Records]:
        """Return the records in parts that can be computed apart from each other."""
        ...

    def rounds(self, job: RegimeJob) -> abc.Iterator[list[Round]]:
        """Yield rounds of a part, those that are scored together at a time; the model is not changed in between."""
        ...


@dataclass(frozen=True)
class Each:
    """Every fact on its own, starting from the unedited model."""

    shared: ClassVar[bool] = False

    def stages(self, ids: abc.Sequence[str]) -> tuple[Stage, ...]:
        """Return one row, that of the method."""
        return (Stage("", {}, range(len(ids))),)

    def parts(self, records: Records, chunk: int) -> list[Records]:
        """Return chunks of the whole list, so that what was interrupted and goes on has the very same batches."""
        return [records[begin : begin + chunk] for begin in range(0, len(records), chunk)]

    def rounds(self, job: RegimeJob) -> abc.Iterator[list[Round]]:
        """Return one: the unedited model and all methods side by side."""
        wanted = [method for method in job.methods if method.name in job.rows]
        made = make_cases(job.model, job.part, wanted)
        rounds = job.unedited
        for name, edited in made.items():
            edits = [None if isinstance(place, str) else place[0] for place in edited.places]
            rounds.append(Round(name, job.part, Under(edits), edited.places, edited.cost))
        yield rounds


@dataclass(frozen=True)
class Joint:
    """So many facts on the model at once; the unedited model again for the next so many.

    A method of scope `joint` makes one edit of them; the edits of a method of scope `each` are all put on.

    Attributes:
        count: facts at once.
    """

    count: int
    shared: ClassVar[bool] = True

    def stages(self, ids: abc.Sequence[str]) -> tuple[Stage, ...]:
        """Return one row.

        Raises:
            UsageError: the records do not fall into groups of this size.
        """
        if self.count < 1 or len(ids) % self.count:
            raise UsageError(
                f"{len(ids)} records do not fall into groups of {self.count}; give a number of records that does."
            )
        key = {"joint": self.count, "facts": _digest(ids)}
        return (Stage(self._suffix, {"regime": key}, range(len(ids))),)

    @property
    def _suffix(self) -> str:
        return f", {self.count} at once"

    def parts(self, records: Records, chunk: int) -> list[Records]:
        """Return the groups."""
        return [records[begin : begin + self.count] for begin in range(0, len(records), self.count)]

    def rounds(self, job: RegimeJob) -> abc.Iterator[list[Round]]:
        """Return the unedited model, then one method after the other."""
        if job.unedited:
            yield job.unedited
        for method in job.methods:
            row = method.name + self._suffix
            if row in job.rows:
                facts = [request for record in job.part for request in requests_of(record)]
                made = make(job.model, method, facts, chunk=job.chunk)
                shared = Together(job.model).plus(made.edits)
                yield [Round(row, job.part, Under(shared=shared), by_record(job.part, made.places), made.cost)]


@dataclass(frozen=True)
class Sequence:
    """Batches of facts one after the other, none taken back; at checkpoints all facts so far are scored.

    Attributes:
        batch: facts put on together.
        checkpoints: after how many facts to score; none: after the last.
        sample: so many facts are scored at a checkpoint at most, evenly drawn by age.
    """

    batch: int = 1
    checkpoints: tuple[int, ...] = ()
    sample: int = 500
    shared: ClassVar[bool] = True

    def stages(self, ids: abc.Sequence[str]) -> tuple[Stage, ...]:
        """Return a row per checkpoint.

        Raises:
            UsageError: a checkpoint inside a batch or past the last record.
        """
        points = self.checkpoints or (len(ids),)
        for point in points:
            if self.batch < 1 or not 0 < point <= len(ids) or (point % self.batch and point != len(ids)):
                raise UsageError(
                    f"A sequence of {len(ids)} facts in batches of {self.batch} has no checkpoint after {point}; "
                    "give multiples of the batch, up to the number of records."
                )
        keys = {
            point: {"sequence": self.batch, "count": point, "facts": _digest(ids[:point])}
            for point in sorted(set(points))
        }
        return tuple(Stage(self._suffix(n), {"regime": key}, self._scored(n)) for n, key in keys.items())

    def _scored(self, point: int) -> list[int]:
        """Return the facts that are scored after so many, evenly drawn by age."""
        count = min(point, self.sample)
        return [n * point // count for n in range(count)]

    def _suffix(self, point: int) -> str:
        return f", {point} in batches of {self.batch}"

    def parts(self, records: Records, chunk: int) -> list[Records]:
        """Return one: every batch needs those before it."""
        return [records]

    def rounds(self, job: RegimeJob) -> abc.Iterator[list[Round]]:
        """Return the unedited model, then the checkpoints of one method after the other."""
        if job.unedited:
            yield job.unedited
        for method in job.methods:
            wanted = [n for n in (self.checkpoints or (len(job.part),)) if method.name + self._suffix(n) in job.rows]
            yield from self._sequence(job, method, wanted)

    def _sequence(self, job: RegimeJob, method: Method, wanted: abc.Sequence[int]) -> abc.Iterator[list[Round]]:
        model, part = job.model, job.part
        shared, state, places, cost = Together(model), None, list[OfFact](), Cost()
        while len(places) < max(wanted, default=0):
            batch = part[len(places) : len(places) + self.batch]
            facts = [request for record in batch for request in requests_of(record)]
            with shared.on(model):
                made = make(model, method, facts, chunk=job.chunk, state=state)
            shared, state, cost = shared.plus(made.edits), made.state, cost + made.cost
            places = [*places, *by_record(batch, made.places)]
            if len(places) in wanted:
                row, scored = method.name + self._suffix(len(places)), self._scored(len(places))
                their_places = tuple(places[n] for n in scored)
                yield [Round(row, [part[n] for n in scored], Under(shared=shared), their_places, cost)]


def _digest(ids: abc.Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:16]
