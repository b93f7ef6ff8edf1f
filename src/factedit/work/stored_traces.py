"""Traces of many known facts, kept as they are made: an interrupted sweep goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from factedit.errors import DataError, first_line
from factedit.evaluate.circumstances import circumstances
from factedit.evaluate.store import ResultStore
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.trace.effects import TraceResult
from factedit.trace.sweep import traced
from factedit.work.progress import keeping

PROTOCOL = 1
TOGETHER = 8  # facts of a part, whoever traces it
StoredRows = Iterable[tuple[str, Any]]  # facts' ids, each with what is stored of it
TracesElsewhere = Callable[[Sequence[Sequence[KnownFact]], Mapping[str, Any]], Iterator[StoredRows]]
AGAIN = "; the same command goes on there"
UNTOLD = "the model does not answer it right, or its numbers are not finite"  # stored before reasons were


class StoredTraces(NamedTuple):
    """What a store holds of some facts.

    Attributes:
        traces: by the facts' ids, in order.
        left_out: by the ids of the others why.
    """

    traces: dict[str, TraceResult]
    left_out: dict[str, str]


def stored_traces(
    model: EditableModel,
    facts: Sequence[KnownFact],
    store: ResultStore,
    *,
    dataset: str,
    noise: float,
    kinds: Sequence[str],
    window: int,
    samples: int,
    seed: int,
    progress: Callable[[float], None] | None = None,
    elsewhere: TracesElsewhere | None = None,
) -> StoredTraces:
    """Trace the facts that the model answers right; those the store holds are not computed again.

    Args:
        model: the model; unchanged.
        facts: what to trace.
        store: where traces are kept.
        dataset: name and content hash of the facts' data set, part of the run's key.
        noise, kinds, window, samples, seed: see `trace_fact`.
        progress: called with the number of facts that were finished.
        elsewhere: traces parts of the facts in other processes; None traces them here.

    Raises:
        UsageError: see `trace_fact`.
        DataError: the store is damaged.
        ResourceError: the disk is full; what was stored is safe.
    """
    settings = {"kinds": list(kinds), "window": window, "samples": samples, "seed": seed}
    key = {"trace_protocol": PROTOCOL, **circumstances(model), "dataset": dataset, "noise": noise, **settings}
    run = store.begin("trace", key)
    done = store.done(run)
    missing = [part for part in _parts(facts, done) if part]
    if progress:
        progress(len(facts) - sum(map(len, missing)))
    ids = {fact.fact_id for fact in facts}
    with keeping(lambda: f"{len(store.done(run) & ids)} of {len(ids)} facts are done and kept in {store.path}{AGAIN}"):
        asked: dict[str, Any] = {"noise": noise, **settings}
        for batch in elsewhere(missing, asked) if elsewhere else (traced_rows(model, part, asked) for part in missing):
            for fact, row in batch:
                store.add([(run, fact, row)])
                if progress:
                    progress(1)
    rows = store.results(run)
    kept = {fact.fact_id: rows[fact.fact_id] for fact in facts}
    try:
        return StoredTraces(
            {name: TraceResult.from_stored(row["trace"]) for name, row in kept.items() if row["trace"] is not None},
            {name: str(row.get("why", UNTOLD)) for name, row in kept.items() if row["trace"] is None},
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{store.path} holds a trace that is not whole ({first_line(error)}): it is damaged. Name another folder."
        ) from error


def traced_rows(model: EditableModel, facts: Sequence[KnownFact], settings: Mapping[str, Any]) -> StoredRows:
    """Yield facts' ids, each with its trace or why there is none, as they are stored."""
    for outcome in traced(model, facts, **settings):
        trace = {"trace": outcome.trace.as_stored()} if outcome.trace else {"trace": None, "why": outcome.why}
        yield outcome.fact.fact_id, trace


def _parts(facts: Sequence[KnownFact], done: Set[str]) -> Iterator[list[KnownFact]]:
    """Yield what is missing of every part of the whole list."""
    for begin in range(0, len(facts), TOGETHER):
        yield [fact for fact in facts[begin : begin + TOGETHER] if fact.fact_id not in done]
