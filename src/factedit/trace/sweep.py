"""Trace one prompt, or a set of known facts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from factedit.engine import budget
from factedit.engine.resume import next_tokens
from factedit.errors import NotFinite, RequestError, UsageError, shown
from factedit.facts import KnownFact, template_of
from factedit.memory import in_halves
from factedit.models.adapter import EditableModel
from factedit.models.positions import check_fits, continuations, strings, tokenize_all
from factedit.models.tokens import after_space, is_space
from factedit.trace.asked import MEASURES, TracePrompt, prompt_to_trace
from factedit.trace.corrupt import Corruption, by_noise, by_subject, embedding_sigma
from factedit.trace.effects import TraceResult
from factedit.trace.experts import with_experts
from factedit.trace.restore import CorruptedFact, Restoration, contribution, hidden_state, severed

logger = logging.getLogger("factedit")
KINDS = ("hidden", "mlp", "attn")
SEVERED = ("hidden-mlp-severed", "hidden-attn-severed")


def default_window(n_layer: int) -> int:
    """Return the paper's 10 layers of 48 (ROME appendix B.2), scaled; at least 1."""
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
    noise: float | None = None,
    samples: int = 10,
    seed: int = 1,
    answer: str = "",
    measure: str = MEASURES[0],
    against: str = "",
    other_subject: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> TraceResult:
    """Trace a prompt causally (ROME section 2.1).

    Args:
        model: the model; unchanged.
        prompt: a complete text. Where the model's next token is only the space before a word, it is put to the
            prompt's tokens, and the answer is the token the model ranks next after it.
        subject: a part of it; its first occurrence as whole words counts.
        kinds: of `KINDS` and `SEVERED`.
        window: layers restored together for `mlp` and `attn`; None scales the paper's 10 of 48.
        noise: standard deviation ν of the noise (see `embedding_sigma`); not needed with `other_subject`.
        samples: noise samples.
        seed: of the noise; 1 is the published program's.
        answer: what is asked for, of one token or several; empty: the token the model ranks next.
        measure: `probability`, or `logit-difference` (see `trace.asked`).
        against: another answer, from whose logit that of the answer is measured.
        other_subject: corrupt by this subject, of as many tokens, instead of noise (symmetric replacement).
        progress: called with tokens done and all tokens.

    Raises:
        RequestError: the subject is not in the prompt, the prompt is too long, an answer or the other subject does not
            fit.
        UsageError: an unknown kind or measure, a window or a number of samples below 1, neither noise nor another
            subject.
        NotFinite: the model's numbers, clean, corrupted or restored, are NaN or infinite.
    """
    check_kinds(kinds)
    _check(window, samples)
    if noise is None and not other_subject:
        raise UsageError("A trace needs something to corrupt the subject by: noise, or another subject.")
    window, template = window or default_window(model.n_layer), template_of(prompt, subject)
    asked = prompt_to_trace(
        model, template, subject, answer=answer, against=against, replaced=other_subject, measure=measure
    )
    if other_subject:
        corrupt, noise, samples = by_subject(model, template, subject, other_subject), 0.0, 1
    else:
        corrupt = by_noise(noise or 0.0, samples, seed=seed)
    asked, fact = corrupted_fact(model, asked, corrupt)
    scores = _scores(fact, asked.tokens, kinds, window, progress)
    _check_finite(prompt, fact, scores)
    trace = TraceResult(
        model=model.name, prompt=prompt, subject=subject, subject_range=asked.subject_range,
        tokens=tuple(strings(model, asked.ids[: asked.tokens])), answer=asked.answer, clean=fact.clean,
        corrupted=fact.corrupted, window=window, noise=noise or 0.0, samples=samples, seed=seed,
        measure=MEASURES[1] if asked.against else MEASURES[0], against=asked.against, other_subject=other_subject,
        scores=scores,
    )  # fmt: skip
    return with_experts(model, trace, asked.ids[: asked.tokens])


def corrupted_fact(model: EditableModel, asked: TracePrompt, corrupt: Corruption) -> tuple[TracePrompt, CorruptedFact]:
    """Return the runs, and what was asked with the answer named; a space that is all the model says is the prompt's."""
    fact = CorruptedFact(model, asked.ids, asked.subject_range, corrupt=corrupt, readout=asked.readout)
    if asked.readout is not None:
        return asked, fact
    [token] = fact.readout.answer
    if is_space(model, token):
        ids = (*asked.ids, token)
        check_fits(model, len(ids), "The prompt with the space that the model says after it")
        fact = CorruptedFact(model, ids, asked.subject_range, corrupt=corrupt)
        asked = asked._replace(ids=ids, tokens=len(ids))
    return asked._replace(answer=strings(model, fact.readout.answer)[0]), fact


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
    fact: CorruptedFact, tokens: int, kinds: Sequence[str], window: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, tuple[tuple[float, ...], ...]]:  # fmt: skip
    """What is read of restored runs per kind `[tokens][layers]`; the restorations at one token share a batch."""
    n_layer = fact.model.n_layer
    restorations = [_restoration(kind, n_layer, window)(layer) for kind in kinds for layer in range(n_layer)]
    table: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in kinds}
    width = len(restorations) * fact.samples * fact.model.d_model * 4
    step = budget.tokens_restored(fact.model, width * tokens)
    for begin in range(0, tokens, step):
        part = range(begin, min(begin + step, tokens))
        for row in fact.restored_at(part, restorations):
            for n, kind in enumerate(kinds):
                table[kind].append(tuple(row[n * n_layer : (n + 1) * n_layer]))
        if progress:
            progress(part.stop, tokens)
    return {kind: tuple(rows) for kind, rows in table.items()}


class Traced(NamedTuple):
    """A fact that was to be traced.

    Attributes:
        fact: the fact.
        trace: None where it was left out.
        why: it was left out, in words.
    """

    fact: KnownFact
    trace: TraceResult | None
    why: str = ""


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
        Each fact with its trace, or with None where it is left out; see `traced`.
    """
    return ((traced_fact.fact, traced_fact.trace) for traced_fact in traced(model, facts, noise=noise, **settings))


def traced(
    model: EditableModel, facts: Sequence[KnownFact], *, noise: float | None = None, **settings: object
) -> Iterator[Traced]:
    """Trace facts, saying of each that is left out why.

    A fact is left out where its numbers are not finite (a warning says so), where its other subject does not fit, or
    where the clean run does not begin its answer: its first token that is more than a space must be the answer's, and
    a space before it too where the tokenizer writes one. A fact without an answer is traced at what the model says.

    Args:
        model, facts, noise, settings: see `trace_facts`.

    Yields:
        Each fact in order.
    """
    noise = 3 * embedding_sigma(model, [fact.subject for fact in facts]) if noise is None else noise
    for begin in range(0, len(facts), budget.KNOWN_FACTS):
        part = facts[begin : begin + budget.KNOWN_FACTS]
        asked = [fact for fact in part if fact.answer]
        known = in_halves(asked, lambda some: _answered(model, some), what="known facts") if asked else []
        wrong = {fact.fact_id for fact, right in zip(asked, known, strict=True) if not right}
        for fact in part:
            if fact.fact_id in wrong:
                yield Traced(fact, None, f"the model does not answer {shown(fact.answer)}")
            else:
                yield _traced(model, fact, noise, settings)


def _traced(model: EditableModel, fact: KnownFact, noise: float, settings: Mapping[str, object]) -> Traced:
    fact_settings = {"other_subject": fact.other_subject} if fact.other_subject else {}
    try:
        return Traced(fact, trace_fact(model, fact.prompt, fact.subject, noise=noise, **{**settings, **fact_settings}))  # type: ignore[arg-type]
    except NotFinite as error:
        logger.warning("fact %s is left out: %s", fact.fact_id, error)
        return Traced(fact, None, str(error))
    except RequestError as error:
        if not fact_settings:
            raise
        return Traced(fact, None, str(error))


def _answered(model: EditableModel, facts: Sequence[KnownFact]) -> list[bool]:
    """Return whether the clean run begins the answer: greedily, the space before it where that is a token, then a
    character.

    A fact whose prompt the tokenizer cuts otherwise when the answer follows cannot be asked for, and is not answered.
    """
    prompts = tokenize_all(model, [fact.prompt for fact in facts])
    asked = continuations(model, [(fact.prompt, fact.answer) for fact in facts])
    reads = [(n, at) for n, (ids, first) in enumerate(asked) for at in range(first, after_space(model, ids, first) + 1)]
    ranked_first = next_tokens(model, [asked[n][0][:at] for n, at in reads])
    wrong = {n for (n, at), token in zip(reads, ranked_first, strict=True) if token != asked[n][0][at]}
    wrong |= {n for n, (ids, first) in enumerate(asked) if ids[:first] != prompts[n].ids}
    return [n not in wrong for n in range(len(facts))]
