"""Where the work of an evaluation runs; only the driver (`run.py`) writes to the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from factedit.edit.method import Method
from factedit.evaluate.chunk import ChunkResult, chunk_results
from factedit.evaluate.plan import Plan
from factedit.evaluate.regime import RegimeJob
from factedit.evaluate.whole import Wholes
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.models.as_found import AsFound
from factedit.plugins import strangers_of


class Todo(NamedTuple):
    """A part of the records that can be computed apart from the others.

    Attributes:
        part: the records.
        missing: per name of a row the cases that are not there yet.
    """

    part: Sequence[FactRecord]
    missing: Mapping[str, frozenset[str]]


class Runner(Protocol):
    """Computes what is to do, here or elsewhere."""

    def map(self, todo: Sequence[Todo], keys: Mapping[str, Mapping[str, Any]]) -> Iterator[ChunkResult]:
        """Return results as they come, in any order; each is stored before the next is asked for.

        Args:
            todo: what to compute.
            keys: by name of a row what decides its numbers; whoever would compute others must not.
        """
        ...


@dataclass(frozen=True)
class Local:
    """In this process, one part after the other.

    Attributes:
        model: the unedited model; not changed.
        methods: made for it.
        plan: what is measured, under which regime.
        wholes: measures what records share.
    """

    model: EditableModel
    methods: Sequence[Method]
    plan: Plan
    wholes: Wholes

    def map(self, todo: Sequence[Todo], keys: Mapping[str, Mapping[str, Any]]) -> Iterator[ChunkResult]:
        """Yield results in order.

        Raises:
            EditError: a stranger's method or metric did not give the model back as it was.
            ResourceError: a single record does not fit in memory.
        """
        asking = (self.plan.benchmark, *self.plan.measures.metrics)
        before = AsFound.of(self.model, strangers_of(*self.methods, *asking))
        for result in self._results(todo):
            before.check(self.model)
            yield result

    def _results(self, todo: Sequence[Todo]) -> Iterator[ChunkResult]:
        chunk = self.plan.measures.chunk
        for part, missing in todo:
            rows = {name for name, cases in missing.items() if cases}
            for rounds in self.plan.regime.rounds(RegimeJob(self.model, self.methods, part, rows, chunk)):
                for turn in rounds if self.plan.regime.shared else ():
                    yield ChunkResult({turn.row: {self.wholes.case(turn): self.wholes.measured(turn)}}, 0)
                yield from chunk_results(self.model, rounds, self.plan, missing)
