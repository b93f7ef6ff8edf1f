"""One fact traced, edited, asked before and after, and the edit undone: what the demo shows."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from factedit.edit.artefact import Edit
from factedit.edit.method import Method, check_made
from factedit.edit.method_table import make_method
from factedit.errors import EditError, UsageError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.probability import Score, score
from factedit.evaluate.texts import continue_texts
from factedit.facts import EditRequest, FactRecord, asked_of
from factedit.files.embedded import EMBEDDED
from factedit.models.adapter import EditableModel
from factedit.report.story import Answer, Story
from factedit.stack.stand import check_made_for
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
FREE_TOKENS, TRUE_TOKENS = 24, 8
logger = logging.getLogger("factedit")


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

    def as_json(self) -> dict[str, Any]:
        """Return what happened, for machines; scores that were not asked are NaN."""
        story, (before, after) = self.story, self.story.scores
        return {
            "model": story.trace.model, "request": vars(story.record.request), "verdict": ": ".join(story.verdict),
            "before": dict(before), "after": dict(after), "restored": story.restored,
            "answers": [asdict(answer) for answer in story.answers], "trace": story.trace.as_json(),
            "seconds": self.seconds,
        }  # fmt: skip


def demonstrate(
    model: ModelSource,
    *,
    record: FactRecord | None = None,
    method: str = "rome",
    edit: Path | None = None,
    progress: Progress = silent,
) -> Demo:
    """Find, change, test and undo one fact.

    Args:
        model: the model, the same bits afterwards, or what gives it.
        record: the fact with its test prompts; None: the embedded one, or that of `edit`. Where it has no true object,
            what the model writes now stands for it.
        method: makes the edit.
        edit: instead: a folder of an edit of one fact, which is tested.
        progress: told how far text is read, where the second moment must be computed.

    Raises:
        UsageError: an edit of several facts, or of another fact than the record's; a true object that must be named.
        EditError: the edit cannot be computed, or undoing it did not restore the bits.
    """
    began = time.perf_counter()
    saved = None if edit is None else Edit.load(edit)
    if saved is not None:
        record = saved_record(saved.requests, record)
    model = opened(model)
    if saved is not None:
        for said in check_made_for(model, [saved]):
            logger.info("%s", said)
    full_record = RECORD if record is None else _with_true(model, record)
    made = saved or make_method(method, model, moments_from(progress=progress))
    prompt = TRACE_PROMPT if record is None else full_record.request.text
    story = trace_edit_undo(model, made, noise=noise_for(model, "3s"), record=full_record, trace_prompt=prompt)
    notice = EMBEDDED[model.name].notice if model.name in EMBEDDED else ""
    return Demo(story, notice, time.perf_counter() - began)


def saved_record(requests: Sequence[EditRequest], record: FactRecord | None) -> FactRecord:
    """Return the record that a saved edit is tested by: the given one, or the edit's request alone.

    Args:
        requests: of the edit.
        record: of the same fact, with its test prompts.

    Raises:
        UsageError: an edit of several facts, or of another one.
    """
    if len(requests) != 1:
        raise UsageError(f"The edit holds {len(requests)} facts, and a demo is of one. Use 'factedit check'.")
    [request] = requests
    if record is None:
        return FactRecord(case_id="edit", request=request)
    if asked_of(record.request) != asked_of(request):
        raise UsageError(f"The edit is of {request.text!r}, and the facts are of {record.request.text!r}.")
    return replace(record, request=replace(request, target_true=request.target_true or record.request.target_true))


def _with_true(model: EditableModel, record: FactRecord) -> FactRecord:
    """The record with a true object: where it names none, the first words the model writes."""
    if record.request.target_true:
        return record
    [text] = continue_texts(model, [record.request.text], [None], tokens=TRUE_TOKENS)
    present = re.split(r"[.,;:!?\n()]", text.strip())[0].strip()
    if not present or present == record.request.target_new:
        raise UsageError(
            f"The model writes {text.strip()!r} after {record.request.text!r}, which is no object to compare the new "
            "one with. Name the present one (--true-target)."
        )
    logger.info("the present object, as the model writes it: %s", present)
    return replace(record, request=replace(record.request, target_true=present))


def trace_edit_undo(
    model: EditableModel,
    method: Method | Edit,
    *,
    noise: float,
    record: FactRecord = RECORD,
    trace_prompt: str = TRACE_PROMPT,
) -> Story:
    """Trace a fact, edit it, score it before and after with the weights really changed, and undo it.

    Args:
        model: the model; the same bits afterwards.
        method: makes the edit; or an edit that was made already.
        noise: ν of the trace.
        record: the fact and its test prompts; needs `target_true`.
        trace_prompt: what is traced; holds the subject.

    Raises:
        EditError: undoing did not restore the bits.
    """
    logger.info("tracing the fact: hidden states, MLP and attention outputs")
    traced = trace_fact(model, trace_prompt, record.request.subject, noise=noise)
    if isinstance(method, Edit):
        edit = method
    else:
        logger.info("computing the edit")
        [edit] = check_made(method, [record.request], method.edit([record.request]), model).edits
    asked = COUNTERFACT.questions(record)
    logger.info("asking the model before the edit")
    before, texts_before = score(model, [asked], [None])[0][0], _continue(model, record)
    hashes = [model.fingerprint()]
    logger.info("asking the edited model")
    with edit.applied_to(model):
        hashes.append(model.fingerprint())
        after, texts_after = score(model, [asked], [None])[0][0], _continue(model, record)
    logger.info("undoing the edit and hashing all weights")
    hashes.append(model.fingerprint())
    if hashes[0] != hashes[2]:
        raise EditError("Undoing the edit did not restore the same bits; please report this.")
    answers = _answers(record, (before, after), list(zip(texts_before, texts_after, strict=True)))
    scores = COUNTERFACT.numbers(record, before), COUNTERFACT.numbers(record, after)
    return Story(traced, record, edit, answers, scores, (hashes[0], hashes[1], hashes[2]))


def story_prompts(record: FactRecord) -> list[tuple[str, str]]:
    """Return what is asked about a fact, each prompt after the part of the story that it belongs to."""
    parts = (
        ("rewrite", (record.request.text,)),
        ("paraphrase", record.paraphrases),
        ("neighbour", record.neighborhood),
        ("open", record.generation),
    )
    return [(part, prompt) for part, prompts in parts for prompt in prompts]


def _continue(model: EditableModel, record: FactRecord) -> list[str]:
    prompts = [prompt for _, prompt in story_prompts(record)]
    return continue_texts(model, prompts, [None] * len(prompts), tokens=FREE_TOKENS)


def _answers(
    record: FactRecord, scores: tuple[list[Score], list[Score]], texts: list[tuple[str, str]]
) -> tuple[Answer, ...]:
    answers = []
    for n, ((part, prompt), text) in enumerate(zip(story_prompts(record), texts, strict=True)):
        new = true = None
        if part != "open":
            new = (scores[0][2 * n].probability, scores[1][2 * n].probability)
            true = (scores[0][2 * n + 1].probability, scores[1][2 * n + 1].probability)
        answers.append(Answer(part, prompt, new, true, text))
    return tuple(answers)
