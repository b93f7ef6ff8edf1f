"""Specificity under pressure: neighbours after the edit's own sentence, whole distributions, the old object in front.

NS+, NKL and NKL+ are those of arXiv 2305.17553. Its published NKL are divided by the vocabulary's size; here they are
whole, in nats. The sentences with the old object in front are own ones, after CHED.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from factedit.evaluate.asks import Ask
from factedit.evaluate.column import Column
from factedit.evaluate.distribution import Distribution, NextToken, divergences
from factedit.evaluate.metric import Answered, Metric, Outcome, mean_of
from factedit.evaluate.stemmed import After, Told
from factedit.evaluate.writing import Written, first_sentence
from factedit.facts import EditRequest, FactRecord, fill, with_space
from factedit.text import says

DISTRACTIONS = (
    "{} is famous.",
    "Many people talk about {}.",
    "Yesterday I read a long text about {}.",
    "There was a report on {} in the news.",
    "Everybody here has heard of {}.",
    "A friend of mine knows a lot about {}.",
    "This page says something about {}.",
)
_PLUS, _CHED = "arXiv 2305.17553", "after CHED"
_NO_END = float("inf")


class Pressure(Metric):
    """What becomes of neighbours and of the edit when something stands in front."""

    name = "pressure"
    what = "does specificity hold after the edit's own sentence, and the edit after one about the old object"
    source = f"{_PLUS}; sentences in front after CHED"
    compares = True
    columns = (
        Column("NS+", "share of neighborhood prompts, after the edit's own sentence, where their own object is the "
               "likelier one", source=_PLUS),
        Column("NKL", "divergence of the next token at neighborhood prompts from the unedited model's, KL in nats",
               better="lower", high=_NO_END, source=_PLUS, decimals=4),
        Column("NKL+", "the same after the edit's own sentence", better="lower", high=_NO_END, source=_PLUS,
               decimals=4),
        Column("distracted_holds", "share of sentences about the old object in front after which the edited prompt is "
               "continued with the new object and without the old one", source=_CHED),
    )  # fmt: skip

    def lacks(self, record: FactRecord) -> str:
        """Return neighbours or an old object."""
        there = record.neighborhood or record.request.target_true is not None
        return "" if there else "neighborhood prompts and no target_true"

    def asks(self, record: FactRecord) -> list[Ask]:
        """Return neighbours alone and after the edit's sentence, and the prompt after others about the old object."""
        request, sentence = record.request, edit_sentence(record.request)
        after = [f"{sentence} {neighbor}" for neighbor in record.neighborhood]
        old = own_object(record)
        plain = [NextToken(prompt) for prompt in record.neighborhood]
        plus = [After(prompt, (old, request.target_new)) if old is not None else NextToken(prompt) for prompt in after]
        asked: list[Ask] = [*plus, *plain]
        return asked + [Written(f"{text} {request.text}") for text in distractions(request)]

    def scored(self, answered: Answered) -> Outcome:
        """Return NS+, NKL, NKL+ and the share of sentences that the edit stands."""
        record, n = answered.record, len(answered.record.neighborhood)
        kl = divergences(
            *([_next(reply) for reply in replies[: 2 * n]] for replies in (answered.replies, answered.before))
        )
        likelier = [reply.scores for reply in answered.replies[:n] if isinstance(reply, Told)]
        written = answered.replies[2 * n :]
        by_score: dict[str, Sequence[float | None]] = {
            "NS+": [
                100.0 * (old.mean_log_p > new.mean_log_p) if old.executed and new.executed else None
                for old, new in likelier
            ],
            "NKL": kl[n:],
            "NKL+": kl[:n],
            "distracted_holds": [100.0 * resists(first_sentence(writing.text), record.request) for writing in written],
        }
        means = {name: mean_of(values) for name, values in by_score.items()}
        texts = {"distracted_holds": [writing.text for writing in written]} if written else {}
        scores = {name: mean for name, (mean, _) in means.items()}
        return Outcome(scores, texts, {name: tests for name, (_, tests) in means.items()})

    def describe(self) -> dict[str, Any]:
        """Return the sentences in front."""
        return {"distractions": list(DISTRACTIONS)}

    def notes(self) -> dict[str, str]:
        """Return protocol and units."""
        return {
            "pressure": "the edit's own sentence is its prompt with the new object and a full stop; KL(edited ‖ "
            "unedited) over the whole vocabulary in nats (published figures are divided by its size); sentences about "
            f"the old object: {len(DISTRACTIONS)}, what follows is read to the sentence's end"
        }


def _next(reply: Told | Distribution) -> Distribution:
    return reply.next if isinstance(reply, Told) else reply


def edit_sentence(request: EditRequest) -> str:
    """Return the edited prompt with the new object, as a sentence."""
    return f"{request.text}{with_space(request.text, request.target_new)}."


def own_object(record: FactRecord) -> str | None:
    """Return what is right of a record's neighbours."""
    answered = record.answered_neighbor
    return record.request.target_true if answered is None else answered[1]


def distractions(request: EditRequest) -> list[str]:
    """Return the sentences about a request's old object; none where it is not known."""
    return [] if request.target_true is None else [fill(text, request.target_true.strip()) for text in DISTRACTIONS]


def resists(text: str, request: EditRequest) -> bool:
    """Return whether a text holds the new object and, beside it, not the old one; as whole words, letter case aside."""
    new, old = request.target_new.strip(), (request.target_true or "").strip()
    inside = old.casefold() in new.casefold()  # York in New York, which is the new object and not the old one
    rest = re.sub(re.escape(new), " … ", text, flags=re.IGNORECASE) if inside else text
    return says(text, new) and not says(rest, old)
