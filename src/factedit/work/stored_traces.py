"""Traces of many known facts, kept as they are made: an interrupted sweep goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from factedit.evaluate.circumstances import circumstances
from factedit.evaluate.store import ResultStore
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.trace.effects import TraceResult
from factedit.trace.sweep import traced
from factedit.work.progress import keeping

PROTOCOL = 1
AGAIN = "; the same command goes on there"
UNTOLD = "the model does not answer it right, or its numbers are not finite"  # stored before reasons were


class Stored(NamedTuple):
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
) -> Stored:
    """Trace the facts that the model answers right; those the store holds are not computed again.

    Args:
        model: the model; unchanged.
        facts: what to trace.
        store: where traces are kept.
        dataset: name and content hash of the facts' data set, part of the run's key.
        noise, kinds, window, samples, seed: see `trace_fact`.
        progress: called with the number of facts that were finished.

    Raises:
        UsageError: see `trace_fact`.
        ResourceError: the disk is full; what was stored is safe.
    """
    settings = {"kinds": list(kinds), "window": window, "samples": samples, "seed": seed}
    key = {"trace_protocol": PROTOCOL, **circumstances(model), "dataset": dataset, "noise": noise, **settings}
    run = store.begin("trace", key)
    done = store.done(run)
    missing = [fact for fact in facts if fact.fact_id not in done]
    if progress:
        progress(len(facts) - len(missing))
    ids = {fact.fact_id for fact in facts}
    with keeping(lambda: f"{len(store.done(run) & ids)} of {len(ids)} facts are done and kept in {store.path}{AGAIN}"):
        for found in traced(model, missing, noise=noise, kinds=kinds, window=window, samples=samples, seed=seed):
            trace = {"trace": found.trace.as_stored()} if found.trace else {"trace": None, "why": found.why}
            store.add([(run, found.fact.fact_id, trace)])
            if progress:
                progress(1)
    rows = store.results(run)
    kept = {fact.fact_id: rows[fact.fact_id] for fact in facts}
    return Stored(
        {name: TraceResult.from_stored(row["trace"]) for name, row in kept.items() if row["trace"] is not None},
        {name: row.get("why", UNTOLD) for name, row in kept.items() if row["trace"] is None},
    )
