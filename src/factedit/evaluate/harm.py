"""What edits cost a model elsewhere: true facts that it knew, and text that it would have written.

The text is the unedited model's own, so that its mean log likelihood ratio estimates the divergence KL(unedited ‖
edited) per token, whatever the model; it needs no file.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from factedit.data.worldfacts import worldfacts_known
from factedit.engine.generate import sample_texts
from factedit.evaluate.probability import Question, Score, is_readable, score
from factedit.evaluate.together import Together
from factedit.models.adapter import EditableModel

PANEL = 200  # embedded facts that are asked; those that the unedited model knows are the panel
TEXTS, TOKENS = 24, 64  # texts of the unedited model's own
AT_ONCE = 32


@dataclass(frozen=True)
class Harm:
    """What was found of a model.

    Attributes:
        perplexity: of the unedited model's own text.
        panel: share in percent of the facts that the unedited model knew and this one still answers; NaN of none.
        facts: how many facts that is of.
        tokens: of the text.
    """

    perplexity: float
    panel: float
    facts: int
    tokens: int

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {name: None if value != value else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Probes:
    """What a model and its edited form are both asked.

    Attributes:
        panel: facts that the unedited model answers.
        texts: the unedited model's own, each as its opening and what follows.
        unedited: what the unedited model gives for them.
    """

    panel: tuple[Question, ...]
    texts: tuple[Question, ...]
    unedited: Harm

    @classmethod
    def of(cls, model: EditableModel, *, without: Collection[str] = (), seed: int = 0) -> Probes:
        """Return the probes of an unedited model.

        Args:
            model: not changed.
            without: subjects that are edited; facts about them are no part of the panel.
            seed: of the text.
        """
        edited = {subject.casefold() for subject in without}
        facts = [fact for fact in worldfacts_known() if fact.subject.casefold() not in edited]
        every = [Question(fact.prompt, fact.answer) for fact in facts[:: max(1, len(facts) // PANEL)][:PANEL]]
        asked = [question for question in every if is_readable(model, question)]
        known = [question for question, scored in zip(asked, _scores(model, asked), strict=True) if all(scored.first)]
        length = min(TOKENS, model.context_length // 2)
        texts = sample_texts(model, [length] * TEXTS, top_k=model.vocab, seed=seed)
        halves = [_in_two(text) for text in texts if len(text.split()) > 1]
        read = tuple(question for question in halves if is_readable(model, question))
        return cls(tuple(known), read, _harm([True] * len(known), _scores(model, read)))

    def measured(self, model: EditableModel) -> Harm:
        """Return what a model gives for them.

        Args:
            model: the unedited one or an edited form of it.
        """
        return _harm([all(scored.first) for scored in _scores(model, self.panel)], _scores(model, self.texts))

    def under(self, model: EditableModel, on: Together) -> Harm:
        """Return what the model gives with edits on it; of the unedited one it is known.

        Args:
            model: the unedited one; the same bits afterwards.
            on: the edits.
        """
        if not on.weights and not on.others:
            return self.unedited
        with on.on(model):
            return self.measured(model)


def _harm(still: Sequence[bool], texts: Sequence[Score]) -> Harm:
    read = [value for text in texts for value in text.log_p]
    try:
        perplexity = math.exp(-sum(read) / len(read)) if read else math.nan
    except OverflowError:  # of a model that is broken
        perplexity = math.inf
    share = 100 * sum(still) / len(still) if still else math.nan
    return Harm(perplexity, share, len(still), len(read))


def _in_two(text: str) -> Question:
    """Return a text as its first word and the rest: the first token of all has nothing before it."""
    first, _, rest = text.strip().partition(" ")
    return Question(first, rest)


def _scores(model: EditableModel, asked: Sequence[Question]) -> list[Score]:
    scores: list[Score] = []
    for begin in range(0, len(asked), AT_ONCE):
        scores += [
            scored for [scored] in score(model, [[question] for question in asked[begin : begin + AT_ONCE]], [None])[0]
        ]
    return scores
