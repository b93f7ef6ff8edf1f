"""Traces of many known facts, kept as they are made: an interrupted sweep goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from factedit.evaluate.circumstances import circumstances
from factedit.evaluate.store import ResultStore
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.trace.effects import TraceResult
from factedit.trace.sweep import trace_facts

PROTOCOL = 1


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
    progress: Callable[[int], None] | None = None,
) -> list[TraceResult]:
    """Traces of the facts the model answers right, in order; those the store holds are not computed again.

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
    for fact, trace in trace_facts(model, missing, noise=noise, kinds=kinds, window=window, samples=samples, seed=seed):
        store.add([(run, fact.fact_id, {"trace": trace.as_stored() if trace else None})])
        if progress:
            progress(1)
    rows = store.results(run)
    found = (rows[fact.fact_id]["trace"] for fact in facts)
    return [TraceResult.from_stored(trace) for trace in found if trace is not None]
