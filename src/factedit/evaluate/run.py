"""Evaluate methods over many records: before and after, in chunks, resumable.

The cases of a chunk are edited together and scored in one batch of differently edited models. Chunks are cut
from the whole list of records, so that an interrupted and resumed evaluation computes the very same batches as
an uninterrupted one; a chunk is stored whole or not at all.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from factedit import __version__
from factedit.edit.method import Method
from factedit.engine.half import HALF, at_least_float32
from factedit.errors import EditError, UsageError
from factedit.evaluate.chunk import UNEDITED, Protocol, chunk_results
from factedit.evaluate.compare import Comparison, compare
from factedit.evaluate.leak import refuse_trained_on
from factedit.evaluate.metrics import Estimate, summarise
from factedit.evaluate.store import ResultStore
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel

PROTOCOL = 2
LEAST_TRIED = 8  # records before a method that edits none of them is stopped


@dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes:
        summary: per method its scores with intervals; the unedited model first.
        results: per method and case the stored row.
        settings: per method everything that decides its numbers.
    """

    summary: dict[str, dict[str, Estimate]]
    results: dict[str, dict[str, dict[str, Any]]]
    settings: dict[str, dict[str, Any]]

    def comparison(self) -> Comparison:
        """The methods against the unedited model and the best of them, record by record."""
        return compare({m: [row["scores"] for row in rows.values()] for m, rows in self.results.items()})

    def not_edited(self) -> dict[str, dict[str, str]]:
        """Per method that failed somewhere the cases that it could not edit, and why; they count as unedited."""
        told = {method: not_edited(rows) for method, rows in self.results.items()}
        return {method: cases for method, cases in told.items() if cases}

    def as_json(self) -> dict[str, Any]:
        """`{method: {n, score: value, …, seconds_per_edit, peak_memory_mb, ci: {score: half-width}}}`.

        Of a method that could not edit some cases, `not_edited: {case: why}` too.
        """
        failed = self.not_edited()
        return {method: as_numbers(row, failed.get(method)) for method, row in self.summary.items()}


def not_edited(results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of stored results by case those that a method could not edit, and why."""
    return {case: row["failed"] for case, row in results.items() if "failed" in row}


def as_numbers(summary: Mapping[str, Estimate], failed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A summary for machines: n, the values, and under `ci` the half-widths of those that have an interval.

    Where some cases could not be edited, they stand with the reason under `not_edited`.
    """
    intervals = {name: e.half_width for name, e in summary.items() if not math.isnan(e.half_width)}
    count = max(e.n for e in summary.values())
    told = {"not_edited": dict(failed)} if failed else {}
    return {"n": count, **{name: e.value for name, e in summary.items()}, "ci": intervals, **told}


def summary_of(results: Sequence[Mapping[str, Any]], *, seed: int = 0) -> dict[str, Estimate]:
    """The scores of stored results with their intervals, mean seconds per edit and peak memory.

    Raises:
        UsageError: no results.
    """
    found = summarise([row["scores"] for row in results], seed=seed)
    times = [row["seconds_per_edit"] for row in results if "seconds_per_edit" in row]
    if times:  # records of a chunk share their time, so their spread says nothing
        found["seconds_per_edit"] = Estimate(statistics.fmean(times), math.nan, len(times))
    found["peak_memory_mb"] = Estimate(max(row["peak_memory_mb"] for row in results), math.nan, len(results))
    return found


def evaluate_methods(
    model: EditableModel,
    records: Sequence[FactRecord],
    methods: Sequence[Method],
    store: ResultStore,
    *,
    dataset: str,
    selection: str = "",
    protocol: Protocol | None = None,
    earlier: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Edit every record with every method and score it before and after (ROME section 3.4, SPEC section 5).

    Each case starts from the unedited model; the model is not changed. A case that a method cannot edit counts as
    unedited and is told with the reason (`Evaluation.not_edited`).

    Args:
        model: the model.
        records: the cases.
        methods: what to compare.
        store: where results are kept; cases that it holds are not computed again.
        dataset: name and content hash of the data set, part of a run's key.
        selection: which of its records these are, in words, for reports.
        protocol: what is measured.
        earlier: let the methods that the store holds of all these records stand beside those asked for.
        progress: called with the number of cases of a finished chunk.

    Raises:
        UsageError: no records.
        DataError: a method's network was trained on some of the records.
        EditError: a method has edited none of the records so far, eight or more.
        ResourceError: memory or disk ran out; what was stored is safe.
    """
    if not records:
        raise UsageError("There are no records to evaluate.")
    refuse_trained_on(methods, records)
    protocol = protocol or Protocol()
    ids = [record.case_id for record in records]
    runs = _open_runs(model, methods, store, dataset, protocol)
    store.select(selection or f"{len(ids)} records", ids, list(runs.values()))
    for begin in range(0, len(records), protocol.chunk):
        chunk = records[begin : begin + protocol.chunk]
        missing = [name for name, run in runs.items() if {r.case_id for r in chunk} - store.done(run)]
        if missing:
            found = chunk_results(model, chunk, methods, missing, protocol)
            store.add(
                (runs[name], record.case_id, result)
                for name, rows in found.items()
                for record, result in zip(chunk, rows, strict=True)
            )
            for name, rows in found.items():
                if all("failed" in row for row in rows):
                    _stop_if_nothing_is_edited(name, store.results(runs[name]))
        if progress:
            progress(len(chunk))
    if earlier:
        runs = _stored_runs(model, ids, store, dataset, protocol) | runs
    return _evaluation(store, runs, ids, protocol)


def _stop_if_nothing_is_edited(method: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Stop where a method has not edited a single record of several: that is no property of the records."""
    cases = not_edited(results)
    if len(cases) == len(results) >= LEAST_TRIED:
        case, why = next(iter(cases.items()))
        raise EditError(f"{method} could not edit one of the {len(cases)} records so far. Case {case}: {why}")


def _stored_runs(
    model: EditableModel, ids: Sequence[str], store: ResultStore, dataset: str, protocol: Protocol
) -> dict[str, str]:
    """The runs of one table that hold all the cases, by method; of a method with other settings the newest."""
    common = json.loads(json.dumps(_common(model, dataset, protocol)))
    return {
        method: run
        for run, (method, settings) in store.runs().items()
        if common.items() <= settings.items() and set(ids) <= store.done(run)
    }


def _evaluation(store: ResultStore, runs: Mapping[str, str], ids: Sequence[str], protocol: Protocol) -> Evaluation:
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for name, run in runs.items():
        found = store.results(run)
        results[name] = {case: found[case] for case in ids}
    summary = {name: summary_of(list(rows.values()), seed=protocol.seed) for name, rows in results.items()}
    known = store.runs()
    return Evaluation(summary, results, {name: known[run][1] for name, run in runs.items()})


def _open_runs(
    model: EditableModel, methods: Sequence[Method], store: ResultStore, dataset: str, protocol: Protocol
) -> dict[str, str]:
    """A run per method, keyed by everything that decides its numbers; the unedited model is one of them."""
    common = _common(model, dataset, protocol)
    named = {UNEDITED: {"method": UNEDITED}} | {m.name: {"method": m.name, "settings": m.describe()} for m in methods}
    return {name: store.begin(name, common | own) for name, own in named.items()}


def _common(model: EditableModel, dataset: str, protocol: Protocol) -> dict[str, Any]:
    """What runs must share for their rows to stand in one table."""
    return {"protocol": PROTOCOL, **circumstances(model), "dataset": dataset, **protocol.as_key()}


def circumstances(model: EditableModel) -> dict[str, Any]:
    """What decides a number beside the question: the versions, the model with its setup, and where it runs."""
    return {
        "version": __version__,
        "torch": version("torch"),
        "transformers": version("transformers"),
        "weights": model.fingerprint(),
        "setup": model.setup_fingerprint(),
        "dtype": str(model.dtype),
        **({"sums": str(at_least_float32(model.dtype))} if model.dtype in HALF else {}),
        "device": model.device.type,
        "attention": str(getattr(model.lm.config, "_attn_implementation", "")),
    }
