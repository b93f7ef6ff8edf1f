"""One chunk of records: edited by every method, scored before and after, and left to write freely.

The records of a chunk are edited together and scored in one batch of differently edited models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from factedit.edit.artefact import Edit
from factedit.edit.method import Method
from factedit.evaluate.case import Numbers, numbers, questions
from factedit.evaluate.consistency import Consistency
from factedit.evaluate.free import continue_texts, free_match, generation_entropy
from factedit.evaluate.probability import score
from factedit.evaluate.variants import Variant, compute_variants
from factedit.facts import FactRecord
from factedit.memory import PeakMemory, in_halves
from factedit.models.adapter import EditableModel
from factedit.models.positions import tokenize_all

UNEDITED = "unedited"
FREE_TOKENS = 12
GENERATION_TOKENS = 100  # of the texts for GE and RS, prompt included


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is measured and how.

    Attributes:
        free_tokens: length of the greedy continuation of the rewrite prompt; 0 leaves free-running match out.
        generation_tokens: length in tokens, prompt included, of the texts for GE; 0 leaves GE out.
        seed: of the sampled texts.
        chunk: cases edited and scored together.
        consistency: what RS compares the texts for GE with; None leaves RS out.
    """

    free_tokens: int = FREE_TOKENS
    generation_tokens: int = 0
    seed: int = 0
    chunk: int = 32
    consistency: Consistency | None = None

    def as_key(self) -> dict[str, Any]:
        """What decides numbers, as JSON values."""
        references = None if self.consistency is None else self.consistency.references
        return vars(self) | {"consistency": references and f"{references.source} {references.fingerprint}"}


def chunk_results(
    model: EditableModel,
    chunk: Sequence[FactRecord],
    methods: Sequence[Method],
    missing: Sequence[str],
    protocol: Protocol,
) -> dict[str, list[dict[str, Any]]]:
    """Per variant (`unedited` or a method's name) that is missing, one result per record.

    Args:
        model: the unedited model; not changed.
        chunk: the records.
        methods: the methods there are.
        missing: the variants to compute.
        protocol: what is measured.

    Raises:
        RequestError: a record that cannot be scored.
        ResourceError: a single record does not fit in memory.
    """
    variants = {UNEDITED: Variant(None)} if UNEDITED in missing else {}
    asked = [method for method in methods if method.name in missing]
    variants |= compute_variants(model, [record.request for record in chunk], asked)
    with PeakMemory(model.device) as peak:
        scores = _numbers(model, chunk, variants)
        written = {name: _written(model, chunk, own.edits, protocol) for name, own in variants.items()}
    return {
        name: [
            {"scores": scores[name][n] | written[name][n].scores, "peak_memory_mb": max(own.peak_mb, peak.mb)}
            | written[name][n].texts
            | _of_edit(own, n)
            for n in range(len(chunk))
        ]
        for name, own in variants.items()
    }


def _of_edit(variant: Variant, n: int) -> dict[str, Any]:
    """What is told of a record's edit: its time and diagnostics, or why there is none."""
    if variant.edits is None:
        return {}
    edit = variant.edits[n]
    if edit is None:
        return {"failed": variant.failures[n]}
    made = len(variant.edits) - len(variant.failures)
    return {"seconds_per_edit": variant.seconds / made, "diagnostics": edit.diagnostics}


def _numbers(
    model: EditableModel, chunk: Sequence[FactRecord], variants: dict[str, Variant]
) -> dict[str, list[Numbers]]:
    """Per variant and record the scores of its prompts; a chunk that does not fit in memory is halved."""

    def scored(part: Sequence[int]) -> list[list[Numbers]]:
        edits = [None if own.edits is None else [own.edits[n] for n in part] for own in variants.values()]
        found = score(model, [questions(chunk[n]) for n in part], edits)
        return [[numbers(chunk[n], scores[i]) for scores in found] for i, n in enumerate(part)]

    by_record = in_halves(range(len(chunk)), scored, what="records")
    return {name: [row[v] for row in by_record] for v, name in enumerate(variants)}


@dataclass(frozen=True)
class _Written:
    """What the model wrote by itself for a record: scores, and the texts they are of."""

    scores: dict[str, float] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)


def _written(
    model: EditableModel, chunk: Sequence[FactRecord], edits: Sequence[Edit | None] | None, protocol: Protocol
) -> list[_Written]:
    """Free-running match on the rewrite prompt, and GE and RS where asked."""
    per_case: list[Edit | None] = list(edits) if edits is not None else [None] * len(chunk)
    found = [_Written() for _ in chunk]
    if protocol.free_tokens:
        prompts = [record.request.text for record in chunk]
        texts = continue_texts(model, prompts, per_case, tokens=protocol.free_tokens)
        for own, text, record in zip(found, texts, chunk, strict=True):
            own.scores["free"] = 100.0 * free_match(text, record.request.target_new)
            own.texts["continuation"] = text
    if protocol.generation_tokens:
        for own, texts, record in zip(found, _generations(model, chunk, per_case, protocol), chunk, strict=True):
            own.scores["GE"] = generation_entropy(texts)
            if protocol.consistency is not None:
                own.scores["RS"] = protocol.consistency.score(record, texts)
            own.texts["generations"] = texts
    return found


def _generations(
    model: EditableModel, chunk: Sequence[FactRecord], edits: Sequence[Edit | None], protocol: Protocol
) -> list[list[str]]:
    """Per record one sampled text per generation prompt, the prompt included; all records in one batch."""
    places = [(n, i) for n, record in enumerate(chunk) for i in range(len(record.generation))]
    prompts = [chunk[n].generation[i] for n, i in places]
    begun = tokenize_all(model, prompts)
    lengths = [max(0, protocol.generation_tokens - len(text.ids)) for text in begun]
    seeds = [protocol.seed + i for _, i in places]
    added = continue_texts(model, prompts, [edits[n] for n, _ in places], tokens=lengths, top_k=5, seeds=seeds)
    found: list[list[str]] = [[] for _ in chunk]
    for (n, _), prompt, text in zip(places, begun, added, strict=True):
        found[n].append(prompt.text + text)
    return found
