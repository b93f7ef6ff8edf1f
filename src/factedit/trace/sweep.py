"""Trace one prompt, or a set of known facts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from factedit.engine import budget
from factedit.engine.resume import next_tokens
from factedit.errors import NotFinite, UsageError, shown
from factedit.facts import KnownFact, template_of
from factedit.memory import in_halves
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuations, locate, strings, tokenize_all
from factedit.models.tokens import after_space, is_space
from factedit.trace.corrupt import embedding_sigma
from factedit.trace.effects import TraceResult
from factedit.trace.restore import CorruptedFact, Restoration, contribution, hidden_state, severed

log = logging.getLogger("factedit")
KINDS = ("hidden", "mlp", "attn")
SEVERED = ("hidden-mlp-severed", "hidden-attn-severed")


def default_window(n_layer: int) -> int:
    """Return the paper's 10 layers of 48, scaled; at least 1."""
    return max(1, round(10 * n_layer / 48))


def _restoration(kind: str, n_layer: int, window: int) -> Callable[[int], Restoration]:
    table: dict[str, Callable[[int], Restoration]] = {
        "hidden": hidden_state,
        "mlp": lambda layer: contribution("mlp", layer, window, n_layer),
        "attn": lambda layer: contribution("attn", layer, window, n_layer),
        "hidden-mlp-severed": lambda layer: severed("mlp", layer, n_layer),
        "hidden-attn-severed": lambda layer: severed("attn", layer, n_layer),
    }
    return table[kind]


def starts_of(kinds: Sequence[str], n_layer: int, window: int) -> list[int]:
    """Return the first layer that runs differently, per restoration at one token; see `trace_fact`."""
    return [_restoration(kind, n_layer, window)(layer).start for kind in kinds for layer in range(n_layer)]


def trace_fact(
    model: EditableModel,
    prompt: str,
    subject: str,
    *,
    kinds: Sequence[str] = KINDS,
    window: int | None = None,
    noise: float,
    samples: int = 10,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> TraceResult:
    """Causal trace of a prompt (ROME section 2.1).

    Args:
        model: the model; unchanged.
        prompt: a complete text; the answer is the token the model ranks next. Where that is only the space before a
            word, it is put to the prompt's tokens, and the answer is the token the model ranks next after it.
        subject: a part of it; its first occurrence as whole words counts.
        kinds: of `KINDS` and `SEVERED`.
        window: layers restored together for `mlp` and `attn`; None scales the paper's 10 of 48.
        noise: standard deviation ν of the noise (see `embedding_sigma`).
        samples: noise samples.
        seed: of the noise; 1 is the published program's.
        progress: called with tokens done and all tokens.

    Raises:
        RequestError: the subject is not in the prompt, or the prompt is too long.
        UsageError: an unknown kind, a window or a number of samples below 1.
        NotFinite: the model's numbers, clean, corrupted or restored, are NaN or infinite.
    """
    check_kinds(kinds)
    _check(window, samples)
    window = window or default_window(model.n_layer)
    found = locate(model, template_of(prompt, subject), subject)
    ids = found.ids
    fact = CorruptedFact(model, ids, found.subject_range, noise=noise, samples=samples, seed=seed)
    if is_space(model, fact.answer):
        ids = (*ids, fact.answer)
        fact = CorruptedFact(model, ids, found.subject_range, noise=noise, samples=samples, seed=seed)
    scores = _scores(fact, kinds, window, progress)
    _check_finite(prompt, fact, scores)
    return TraceResult(
        model=model.name,
        prompt=prompt,
        subject=subject,
        subject_range=found.subject_range,
        tokens=tuple(strings(model, ids)),
        answer=strings(model, [fact.answer])[0],
        clean=fact.clean,
        corrupted=fact.corrupted,
        window=window,
        noise=noise,
        samples=samples,
        seed=seed,
        scores=scores,
    )


def _check_finite(prompt: str, fact: CorruptedFact, scores: Mapping[str, Sequence[Sequence[float]]]) -> None:
    parts = {"clean": [fact.clean], "corrupted": [fact.corrupted]}
    parts |= {f"restored ({kind})": [p for row in table for p in row] for kind, table in scores.items()}
    broken = [name for name, values in parts.items() if not all(map(math.isfinite, values))]
    if broken:
        raise NotFinite(
            f"Traced at {shown(prompt)}, the {broken[0]} run gives numbers that are not finite: the noise is too large "
            "for the model, or its type holds too small numbers (--dtype float32)."
        )


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse kinds that cannot be traced.

    Raises:
        UsageError: naming those that can.
    """
    unknown = [kind for kind in kinds if kind not in (*KINDS, *SEVERED)]
    if unknown or not kinds:
        raise UsageError(f"Cannot trace {', '.join(unknown) or 'nothing'}; there are {', '.join((*KINDS, *SEVERED))}.")


def _check(window: int | None, samples: int) -> None:
    if samples < 1 or (window is not None and window < 1):
        raise UsageError(f"Window {window} and samples {samples} must be at least 1.")


def _scores(
    fact: CorruptedFact, kinds: Sequence[str], window: int, progress: Callable[[int, int], None] | None
) -> dict[str, tuple[tuple[float, ...], ...]]:
    """P*[answer | restored] per kind `[tokens][layers]`; the restorations at one token share a batch."""
    n_layer = fact.model.n_layer
    restorations = [_restoration(kind, n_layer, window)(layer) for kind in kinds for layer in range(n_layer)]
    table: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in kinds}
    for token in range(fact.tokens):
        row = fact.restored(token, restorations)
        for n, kind in enumerate(kinds):
            table[kind].append(tuple(row[n * n_layer : (n + 1) * n_layer]))
        if progress:
            progress(token + 1, fact.tokens)
    return {kind: tuple(rows) for kind, rows in table.items()}


def trace_facts(
    model: EditableModel, facts: Sequence[KnownFact], *, noise: float | None = None, **settings: object
) -> Iterator[tuple[KnownFact, TraceResult | None]]:
    """Trace every fact that the model answers right; None for the others.

    Args:
        model: the model.
        facts: what to trace.
        noise: ν; None is three standard deviations of the embeddings of these facts' subjects.
        settings: further arguments of `trace_fact`.

    Yields:
        Each fact with its trace, or with None where its numbers are not finite (a warning says so), or where the clean
        run does not begin the answer: its first token that is more than a space must be the answer's, and a space
        before it too where the tokenizer writes one.
    """
    noise = 3 * embedding_sigma(model, [fact.subject for fact in facts]) if noise is None else noise
    for begin in range(0, len(facts), budget.KNOWN_FACTS):
        part = facts[begin : begin + budget.KNOWN_FACTS]
        answered = in_halves(part, lambda some: _answered(model, some), what="known facts")
        for fact, known in zip(part, answered, strict=True):
            yield fact, _trace_or_none(model, fact, noise, settings) if known else None


def _trace_or_none(
    model: EditableModel, fact: KnownFact, noise: float, settings: Mapping[str, object]
) -> TraceResult | None:
    try:
        return trace_fact(model, fact.prompt, fact.subject, noise=noise, **settings)  # type: ignore[arg-type]
    except NotFinite as error:
        log.warning("fact %s is left out: %s", fact.fact_id, error)
        return None


def _answered(model: EditableModel, facts: Sequence[KnownFact]) -> list[bool]:
    """Return whether the clean run begins the answer: greedily, the space before it where that is a token, then a
    character.

    A fact whose prompt the tokenizer cuts otherwise when the answer follows cannot be asked for, and is not answered.
    """
    prompts = tokenize_all(model, [fact.prompt for fact in facts])
    asked = continuations(model, [(fact.prompt, fact.answer) for fact in facts])
    reads = [(n, at) for n, (ids, first) in enumerate(asked) for at in range(first, after_space(model, ids, first) + 1)]
    found = next_tokens(model, [asked[n][0][:at] for n, at in reads])
    wrong = {n for (n, at), token in zip(reads, found, strict=True) if token != asked[n][0][at]}
    wrong |= {n for n, (ids, first) in enumerate(asked) if ids[:first] != prompts[n].ids}
    return [n not in wrong for n in range(len(facts))]
