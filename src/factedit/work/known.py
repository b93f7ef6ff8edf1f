"""Facts that a model knows: whose answer it says next by itself."""

from __future__ import annotations

from collections.abc import Sequence

from factedit.evaluate.metrics.free import free_match
from factedit.evaluate.texts import Greedy
from factedit.evaluate.together import Together
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.work.progress import Progress, advancing, silent

AT_ONCE, TOKENS = 8, 8


def known_facts(
    model: EditableModel, facts: Sequence[KnownFact], *, count: int, progress: Progress = silent
) -> list[KnownFact]:
    """Return the first facts whose greedy continuation opens with the answer.

    Args:
        model: unedited; not changed.
        facts: with answers.
        count: how many at most; the rest is not asked.
        progress: told the facts asked.
    """
    advance, known = advancing(progress, "asking facts", len(facts)), list[KnownFact]()
    for begin in range(0, len(facts), AT_ONCE):
        part = facts[begin : begin + AT_ONCE]
        texts = Together(model).read([[Greedy(fact.prompt, TOKENS)] for fact in part])
        known += [fact for fact, [text] in zip(part, texts, strict=True) if free_match(text, fact.answer)]
        if len(known) >= count:
            break
        advance(len(part))
    return known[:count]
