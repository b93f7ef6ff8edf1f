"""The whole story of one fact: where it is, the edit, what changed and what did not, and the undoing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from factedit.edit.artefact import Edit
from factedit.edit.method import Method
from factedit.errors import EditError
from factedit.evaluate.case import Numbers, numbers, questions
from factedit.evaluate.free import continue_texts
from factedit.evaluate.probability import Score, score
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.trace.effects import TraceResult
from factedit.trace.sweep import trace_fact

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


@dataclass(frozen=True)
class Answer:
    """One prompt before and after.

    Attributes:
        part: rewrite, paraphrase, neighbour or open.
        prompt: the text.
        new, true: P of target_new and target_true, (before, after); None for open prompts.
        text: the greedy continuation, (before, after).
    """

    part: str
    prompt: str
    new: tuple[float, float] | None
    true: tuple[float, float] | None
    text: tuple[str, str]


@dataclass(frozen=True)
class Story:
    """Everything the page shows.

    Attributes:
        trace: the three traces.
        record: the fact.
        edit: the edit, with its outcome.
        answers: every prompt before and after.
        scores: the record's scores (before, after).
        fingerprints: hash of all weights before the edit, with it in place, after undoing it.
    """

    trace: TraceResult
    record: FactRecord
    edit: Edit
    answers: tuple[Answer, ...]
    scores: tuple[Numbers, Numbers]
    fingerprints: tuple[str, str, str]

    @property
    def restored(self) -> bool:
        """Whether undoing the edit gave the same bits."""
        return self.fingerprints[0] == self.fingerprints[2]


def tell(
    model: EditableModel,
    method: Method,
    *,
    noise: float,
    record: FactRecord = RECORD,
    trace_prompt: str = TRACE_PROMPT,
    step: Callable[[str], None] = lambda _text: None,
) -> Story:
    """Trace a fact, edit it, score it before and after with the weights really changed, and undo it.

    Args:
        model: the model; the same bits afterwards.
        method: makes the edit.
        noise: ν of the trace.
        record: the fact and its test prompts; needs `target_true`.
        trace_prompt: what is traced; holds the subject.
        step: told what is being done.

    Raises:
        EditError: undoing did not restore the bits.
    """
    step("tracing the fact: hidden states, MLP and attention outputs")
    traced = trace_fact(model, trace_prompt, record.request.subject, noise=noise)
    step("computing the edit")
    [edit] = method.edit([record.request]).edits
    asked = questions(record)
    step("asking the model before the edit")
    before, texts_before = score(model, [asked], [None])[0][0], _continue(model, record)
    hashes = [model.fingerprint()]
    step("asking the edited model")
    with edit.applied_to(model):
        hashes.append(model.fingerprint())
        after, texts_after = score(model, [asked], [None])[0][0], _continue(model, record)
    step("undoing the edit and hashing all weights")
    hashes.append(model.fingerprint())
    if hashes[0] != hashes[2]:
        raise EditError("Undoing the edit did not restore the same bits; please report this.")
    answers = _answers(record, (before, after), list(zip(texts_before, texts_after, strict=True)))
    scores = numbers(record, before), numbers(record, after)
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
    found = []
    for n, ((part, prompt), text) in enumerate(zip(_prompts(record), texts, strict=True)):
        new = true = None
        if part != "open":
            new = (scores[0][2 * n].probability, scores[1][2 * n].probability)
            true = (scores[0][2 * n + 1].probability, scores[1][2 * n + 1].probability)
        found.append(Answer(part, prompt, new, true, text))
    return tuple(found)
