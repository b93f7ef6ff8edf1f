"""Evaluate methods over many records: before and after, in chunks, resumable.

The cases of a chunk are edited together and scored in one batch of differently edited models. Chunks are cut
from the whole list of records, so that an interrupted and resumed evaluation computes the very same batches as
an uninterrupted one; a chunk is stored whole or not at all.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from factedit import __version__
from factedit.edit.artefact import Edit
from factedit.edit.method import Method
from factedit.errors import EditError, ResourceError, UsageError
from factedit.evaluate.case import numbers, questions
from factedit.evaluate.free import continue_texts, free_match, generation_entropy
from factedit.evaluate.metrics import Estimate, summarise
from factedit.evaluate.probability import score
from factedit.evaluate.store import ResultStore
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel

UNEDITED = "unedited"
PROTOCOL = 1


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is measured and how.

    Attributes:
        free_tokens: length of the greedy continuation of the rewrite prompt; 0 leaves free-running match out.
        generation_tokens: length in tokens, prompt included, of the texts for GE; 0 leaves GE out.
        seed: of the sampled texts.
        chunk: cases edited and scored together.
    """

    free_tokens: int = 12
    generation_tokens: int = 0
    seed: int = 0
    chunk: int = 8


@dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes:
        summary: per method its scores with intervals; the unedited model first.
        results: per method and case the stored row.
    """

    summary: dict[str, dict[str, Estimate]]
    results: dict[str, dict[str, dict[str, Any]]]

    def as_json(self) -> dict[str, Any]:
        """`{method: {n, score: value, …, seconds_per_edit, peak_memory_mb, ci: {score: half-width}}}`."""
        found: dict[str, Any] = {}
        for method, scores in self.summary.items():
            rows = self.results[method].values()
            found[method] = {"n": len(rows), "peak_memory_mb": max(row["peak_memory_mb"] for row in rows)}
            found[method] |= {name: e.value for name, e in scores.items()}
            found[method]["ci"] = {name: e.half_width for name, e in scores.items()}
        return found


def evaluate_methods(
    model: EditableModel,
    records: Sequence[FactRecord],
    methods: Sequence[Method],
    store: ResultStore,
    *,
    dataset: str,
    protocol: Protocol | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Edit every record with every method and score it before and after (ROME section 3.4, SPEC section 5).

    Each case starts from the unedited model; the model is not changed.

    Args:
        model: the model.
        records: the cases.
        methods: what to compare.
        store: where results are kept; cases that it holds are not computed again.
        dataset: name and content hash of the data set, part of a run's key.
        protocol: what is measured.
        progress: called with the number of cases of a finished chunk.

    Raises:
        UsageError: no records.
        ResourceError: memory or disk ran out; what was stored is safe.
    """
    if not records:
        raise UsageError("There are no records to evaluate.")
    protocol = protocol or Protocol()
    runs = _open_runs(model, methods, store, dataset, protocol)
    for begin in range(0, len(records), protocol.chunk):
        chunk = records[begin : begin + protocol.chunk]
        missing = [name for name, run in runs.items() if {r.case_id for r in chunk} - store.done(run)]
        if missing:
            store.add(_rows(model, chunk, methods, missing, runs, protocol))
        if progress:
            progress(len(chunk))
    ids = [record.case_id for record in records]
    results = {name: _in_order(store.results(run), ids) for name, run in runs.items()}
    seed = protocol.seed
    summary = {name: summarise([row["scores"] for row in rows.values()], seed=seed) for name, rows in results.items()}
    return Evaluation(summary, results)


def _in_order(results: dict[str, dict[str, Any]], ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    return {case: results[case] for case in ids}


def _open_runs(
    model: EditableModel, methods: Sequence[Method], store: ResultStore, dataset: str, protocol: Protocol
) -> dict[str, str]:
    """A run per method, keyed by everything that decides its numbers; the unedited model is one of them."""
    common = {
        "version": __version__,
        "protocol": PROTOCOL,
        "weights": model.fingerprint(),
        "dtype": str(model.dtype),
        "attention": str(getattr(model.lm.config, "_attn_implementation", "")),
        "dataset": dataset,
        **vars(protocol),
    }
    named = {UNEDITED: {"method": UNEDITED}} | {m.name: {"method": m.name, "settings": m.describe()} for m in methods}
    return {name: store.begin(name, common | own) for name, own in named.items()}


def _rows(
    model: EditableModel,
    chunk: Sequence[FactRecord],
    methods: Sequence[Method],
    missing: Sequence[str],
    runs: dict[str, str],
    protocol: Protocol,
) -> list[tuple[str, str, dict[str, Any]]]:
    edits: dict[str, Sequence[Edit] | None] = {UNEDITED: None} if UNEDITED in missing else {}
    seconds = {UNEDITED: 0.0}
    try:
        for method in methods:
            if method.name in missing:
                began = time.perf_counter()
                edits[method.name] = _compute(method, model, chunk)
                seconds[method.name] = (time.perf_counter() - began) / len(chunk)
        scores = score(model, [questions(record) for record in chunk], list(edits.values()))
        free = {name: _free(model, chunk, own, protocol) for name, own in edits.items()}
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(len(chunk)) from error
    except RuntimeError as error:
        if "alloc" in str(error) and "memory" in str(error):
            raise _out_of_memory(len(chunk)) from error
        raise
    rows = []
    for name, of_case in zip(edits, scores, strict=True):
        for n, record in enumerate(chunk):
            own = edits[name]
            result: dict[str, Any] = {
                "scores": numbers(record, of_case[n]) | free[name][n].scores,
                "continuation": free[name][n].continuation,
                "seconds_per_edit": seconds[name],
                "peak_memory_mb": peak_memory_mb(),
            }
            if own is not None:
                result["scores"] |= {"seconds_per_edit": seconds[name]}
                result["diagnostics"] = own[n].diagnostics
            rows.append((runs[name], record.case_id, result))
    return rows


def _compute(method: Method, model: EditableModel, chunk: Sequence[FactRecord]) -> Sequence[Edit]:
    try:
        return method.compute(model, [record.request for record in chunk])
    except EditError as error:
        cases = ", ".join(record.case_id for record in chunk)
        raise EditError(f"{method.name} failed on one of the cases {cases}: {error}") from error


def _out_of_memory(cases: int) -> ResourceError:
    return ResourceError(
        f"Memory ran out on a chunk of {cases} cases. Give a smaller --batch (1 is the least), fewer contexts, or a "
        "machine with more memory. Finished cases are stored and will not be computed again."
    )


@dataclass(frozen=True)
class _Free:
    scores: dict[str, float]
    continuation: str


def _free(
    model: EditableModel, chunk: Sequence[FactRecord], edits: Sequence[Edit] | None, protocol: Protocol
) -> list[_Free]:
    """Free-running match on the rewrite prompt, and GE where asked."""
    per_case: list[Edit | None] = list(edits) if edits is not None else [None] * len(chunk)
    found = [_Free({}, "") for _ in chunk]
    if protocol.free_tokens:
        prompts = [record.request.text for record in chunk]
        texts = continue_texts(model, prompts, per_case, tokens=protocol.free_tokens)
        found = [
            _Free({"free": 100.0 * free_match(text, record.request.target_new)}, text)
            for text, record in zip(texts, chunk, strict=True)
        ]
    if protocol.generation_tokens:
        for n, record in enumerate(chunk):
            found[n].scores["GE"] = _generation_entropy(model, record, per_case[n], protocol)
    return found


def _generation_entropy(model: EditableModel, record: FactRecord, edit: Edit | None, protocol: Protocol) -> float:
    prompts = record.generation
    longest = max((len(model.tokenizer(p)["input_ids"]) for p in prompts), default=0)
    tokens = max(1, protocol.generation_tokens - longest)
    texts = continue_texts(model, prompts, [edit] * len(prompts), tokens=tokens, top_k=5, seed=protocol.seed)
    return generation_entropy([p + t for p, t in zip(prompts, texts, strict=True)])


def peak_memory_mb() -> float:
    """The largest resident size of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6
