"""Rounds of a regime to stored rows: every record scored under the edits it is given, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from factedit.evaluate.column import MEMORY, SECONDS
from factedit.evaluate.measuring import Measured, measure
from factedit.evaluate.plan import Plan
from factedit.evaluate.regime import Round
from factedit.memory import PeakMemory
from factedit.models.adapter import EditableModel

CaseRow = dict[str, Any]


class ChunkResult(NamedTuple):
    """What one chunk of records gave.

    Attributes:
        rows: per name of a row and case the result, as it is stored.
        finished: records of the chunk.
    """

    rows: Mapping[str, Mapping[str, CaseRow]]
    finished: int


def chunk_results(
    model: EditableModel, rounds: Sequence[Round], plan: Plan, missing: Mapping[str, frozenset[str]]
) -> Iterator[ChunkResult]:
    """Yield the results of rounds of the same records; a chunk whose rows are all there is passed over.

    Args:
        model: the unedited model; not changed.
        rounds: scored together.
        plan: what is measured.
        missing: per name of a row the cases to compute.

    Raises:
        ResourceError: a single record does not fit in memory.
    """
    records = rounds[0].records
    for begin in range(0, len(records), plan.measures.chunk):
        places = range(begin, min(begin + plan.measures.chunk, len(records)))
        chunk = [records[n] for n in places]
        ids = {record.case_id for record in chunk}
        turns = [turn for turn in rounds if ids & missing.get(turn.row, frozenset())]
        rows = {}
        if turns:
            with PeakMemory(model.device) as peak:
                unders = [turn.under.part(places) for turn in turns]
                by_turn = measure(model, chunk, plan.metrics, unders, seed=plan.measures.seed)
            for turn, measured in zip(turns, by_turn, strict=True):
                results = zip(places, chunk, measured, strict=True)
                rows[turn.row] = {record.case_id: _row(turn, n, of, peak.mb) for n, record, of in results}
        yield ChunkResult(rows, len(chunk))


def _row(turn: Round, n: int, measured: Measured, peak_mb: float) -> CaseRow:
    """Return a record's result: scores, memory, texts, counts, and its edit's time and diagnostics or why there is
    none.
    """
    row = {"scores": measured.scores, MEMORY: max(turn.cost.peak_mb, peak_mb), **measured.texts}
    row["tests"] = {name: list(counts) for name, counts in measured.tests.items()}
    if measured.left_out:
        row["left_out"] = measured.left_out
    made = None if turn.made is None else turn.made[n]
    if isinstance(made, str):
        row["failed"] = made
    elif made is not None:
        edit, number = made
        row[SECONDS] = turn.cost.seconds / turn.cost.facts
        row["diagnostics"] = edit.told_of(number)
    return row
