"""What a benchmark is: which records, what is asked, how it is scored, and what was published.

One file per benchmark in `benchmarks/` and one line in its table. Benchmarks from outside register under the entry
point group `factedit.benchmarks`, each an object of a class like those. Tables, verdicts and `reproduce` know the
scores of a benchmark from here alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from factedit.errors import RequestError
from factedit.evaluate.column import Column
from factedit.evaluate.estimates import Headline
from factedit.evaluate.probability import Question, Score
from factedit.facts import FactRecord

Numbers = dict[str, float]
UNEDITED = "unedited"  # the row of the model as it is


class Legs(NamedTuple):
    """The three scores that a method stands on, by name.

    Attributes:
        edit: of the edited prompt itself (efficacy).
        wordings: of its other wordings (generalisation).
        stays: of what must stay as it was (specificity).
    """

    edit: str
    wordings: str
    stays: str


MANY = ("ft", "rome", "memit-no-history", "memit", "memit-rect", "alphaedit", "rome-joint")
LEGS = Legs("efficacy", "generalisation", "specificity")  # in words


class Published(NamedTuple):
    """A published row.

    Attributes:
        model: the model that was edited.
        method: by our name.
        values: per column of the benchmark's published table.
    """

    model: str
    method: str
    values: tuple[float, ...]

    @property
    def source(self) -> str:
        """Where the row is from, in words."""
        return f"{self.model}, published"


class PublishedMany(NamedTuple):
    """A published row of many facts on one model.

    Attributes:
        model: the model that was edited.
        method: by our name, or the paper's where we have none.
        protocol: `at once`, or `sequence` in batches of 100.
        facts: how many.
        values: of the benchmark's `legs`, in %.
    """

    model: str
    method: str
    protocol: str
    facts: int
    values: tuple[float, float, float]

    @property
    def source(self) -> str:
        """Where the row is from, in words."""
        how = "at once" if self.protocol == "at once" else "in batches of 100"
        return f"{self.model}, {self.facts} {how}, published"


class PublishedRow(NamedTuple):
    """A published row as a table shows it.

    Attributes:
        method: by our name.
        source: where it is from, in words.
        values: by column.
    """

    method: str
    source: str
    values: Mapping[str, float]


class Benchmark(ABC):
    """A way to judge edits of the records of a data set.

    Attributes:
        name: what users call it.
        title: of its published table.
        what: one sentence.
        source: where it is from.
        dataset: the set that its table is about, a name in the registry of data sets.
        scores: what `numbers` gives, in order.
        columns: of its published table, in order; headline and scores of metrics among them.
        headline: the one figure that methods are ranked by, if there is one.
        legs: which of the scores are of the edit, of other wordings, and of what must stay.
        methods: the methods of the published table, in order.
        published: its rows.
        methods_of_many: the methods of a table of many facts, in order.
        many: rows of many facts on one model.
    """

    name: str
    title: str
    what: str
    source: str
    dataset: str
    scores: tuple[Column, ...]
    columns: tuple[str, ...]
    legs: Legs
    headline: Headline | None = None
    methods: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    methods_of_many: tuple[str, ...] = MANY
    many: tuple[PublishedMany, ...] = ()

    @abstractmethod
    def lacks(self, record: FactRecord) -> str:
        """Return what the record lacks to be asked, in words; nothing where it lacks nothing."""

    @abstractmethod
    def questions(self, record: FactRecord) -> list[Question]:
        """Return what the record asks: prompts, each with a possible answer."""

    @abstractmethod
    def numbers(self, record: FactRecord, scores: Sequence[Score]) -> Numbers:
        """Return the record's scores by name, from what the model thinks of its `questions`, in order; NaN where not
        asked.
        """

    def tests(self, record: FactRecord, scores: Sequence[Score]) -> Mapping[str, tuple[int, int]]:
        """Return per score how many tests were executed and how many were not, since the model's numbers are not finite
        there.

        Nothing: one test a score, executed unless the score is NaN.
        """
        return {}

    def as_key(self) -> dict[str, Any]:
        """Return what tells runs of this benchmark from runs of others on the same records, as JSON values."""
        return {"benchmark": self.name}

    def check(self, records: Sequence[FactRecord]) -> None:
        """Refuse records that cannot be asked.

        Raises:
            RequestError: naming the first one.
        """
        for record in records:
            lacking = self.lacks(record)
            if lacking:
                raise RequestError(f"Record {record.case_id} has no {lacking}, which {self.name} asks for.")

    def published_rows(self, protocol: str = "") -> list[PublishedRow]:
        """Return what was published, by column: of single edits, or of a protocol of many facts."""
        if not protocol:
            return [
                PublishedRow(row.method, row.source, dict(zip(self.columns, row.values, strict=True)))
                for row in self.published
            ]
        return [
            PublishedRow(row.method, row.source, dict(zip(self.legs, row.values, strict=True)))
            for row in self.many
            if row.protocol == protocol
        ]
