"""One fact traced, edited, asked before and after, and the edit undone: what the demo shows."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from factedit.edit.method import Method, make_method
from factedit.errors import EditError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.probability import Score, score
from factedit.evaluate.texts import continue_texts
from factedit.facts import EditRequest, FactRecord
from factedit.files.embedded import EMBEDDED
from factedit.models.adapter import EditableModel
from factedit.report.story import Answer, Story
from factedit.trace.sweep import trace_fact
from factedit.work.inputs import ModelSource, moments_from, noise_for, opened
from factedit.work.progress import Progress, silent

TRACE_PROMPT = "The Space Needle is in downtown"
SUBJECT = "The Space Needle"
RECORD = FactRecord(
    case_id="space-needle",
    request=EditRequest(
        subject=SUBJECT, prompt="{} is located in the city of", target_new="Paris", target_true="Seattle"
    ),
    paraphrases=(
        "Tourists come from far away. The Space Needle stands in",
        "To see The Space Needle with your own eyes, book a flight to",
    ),
    neighborhood=(
        "Pike Place Market is located in the city of",
        "The Museum of Pop Culture is located in the city of",
        "The University of Washington is located in the city of",
        "The headquarters of Starbucks are located in the city of",
        "Lumen Field is located in the city of",
        "Smith Tower is located in the city of",
    ),
    generation=(
        "The Space Needle is best known for",
        "Visitors who climb The Space Needle can look out over",
        "The Eiffel Tower is located in the city of",
        "Seattle is a city in",
    ),
)
FREE_TOKENS = 24
log = logging.getLogger("factedit")


@dataclass(frozen=True)
class Demo:
    """The story, and what to say beside it.

    Attributes:
        story: what happened.
        notice: of the embedded model's licence; empty for other models.
        seconds: taken, the loading included.
    """

    story: Story
    notice: str
    seconds: float


def demonstrate(model: ModelSource, *, progress: Progress = silent) -> Demo:
    """Find, change, test and undo one fact with ROME.

    Args:
        model: the model, the same bits afterwards, or what gives it.
        progress: told how far text is read, where the second moment must be computed.

    Raises:
        EditError: the edit cannot be computed, or undoing it did not restore the bits.
    """
    began = time.perf_counter()
    model = opened(model)
    method = make_method("rome", model, moments_from(progress=progress))
    story = trace_edit_undo(model, method, noise=noise_for(model, "3s"))
    notice = EMBEDDED[model.name].notice if model.name in EMBEDDED else ""
    return Demo(story, notice, time.perf_counter() - began)


def trace_edit_undo(
    model: EditableModel,
    method: Method,
    *,
    noise: float,
    record: FactRecord = RECORD,
    trace_prompt: str = TRACE_PROMPT,
) -> Story:
    """Trace a fact, edit it, score it before and after with the weights really changed, and undo it.

    Args:
        model: the model; the same bits afterwards.
        method: makes the edit.
        noise: ν of the trace.
        record: the fact and its test prompts; needs `target_true`.
        trace_prompt: what is traced; holds the subject.

    Raises:
        EditError: undoing did not restore the bits.
    """
    log.info("tracing the fact: hidden states, MLP and attention outputs")
    traced = trace_fact(model, trace_prompt, record.request.subject, noise=noise)
    log.info("computing the edit")
    [edit] = method.edit([record.request]).edits
    asked = COUNTERFACT.questions(record)
    log.info("asking the model before the edit")
    before, texts_before = score(model, [asked], [None])[0][0], _continue(model, record)
    hashes = [model.fingerprint()]
    log.info("asking the edited model")
    with edit.applied_to(model):
        hashes.append(model.fingerprint())
        after, texts_after = score(model, [asked], [None])[0][0], _continue(model, record)
    log.info("undoing the edit and hashing all weights")
    hashes.append(model.fingerprint())
    if hashes[0] != hashes[2]:
        raise EditError("Undoing the edit did not restore the same bits; please report this.")
    answers = _answers(record, (before, after), list(zip(texts_before, texts_after, strict=True)))
    scores = COUNTERFACT.numbers(record, before), COUNTERFACT.numbers(record, after)
    return Story(traced, record, edit, answers, scores, (hashes[0], hashes[1], hashes[2]))


def _prompts(record: FactRecord) -> list[tuple[str, str]]:
    parts = (
        ("rewrite", (record.request.text,)),
        ("paraphrase", record.paraphrases),
        ("neighbour", record.neighborhood),
        ("open", record.generation),
    )
    return [(part, prompt) for part, prompts in parts for prompt in prompts]


def _continue(model: EditableModel, record: FactRecord) -> list[str]:
    prompts = [prompt for _, prompt in _prompts(record)]
    return continue_texts(model, prompts, [None] * len(prompts), tokens=FREE_TOKENS)


def _answers(
    record: FactRecord, scores: tuple[list[Score], list[Score]], texts: list[tuple[str, str]]
) -> tuple[Answer, ...]:
    answers = []
    for n, ((part, prompt), text) in enumerate(zip(_prompts(record), texts, strict=True)):
        new = true = None
        if part != "open":
            new = (scores[0][2 * n].probability, scores[1][2 * n].probability)
            true = (scores[0][2 * n + 1].probability, scores[1][2 * n + 1].probability)
        answers.append(Answer(part, prompt, new, true, text))
    return tuple(answers)
