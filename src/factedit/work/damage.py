"""What edits did to facts they are not about: a panel of true facts, asked before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from factedit.data.registry import load_known, select
from factedit.edit.artefact import Edit
from factedit.evaluate.asks import Ask
from factedit.evaluate.probability import Question
from factedit.evaluate.texts import Greedy
from factedit.evaluate.together import Together
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.work.progress import Progress, advancing, silent

TOKENS, AT_ONCE = 12, 8
KNOWN = "worldfacts-known"


@dataclass(frozen=True)
class Moved:
    """One true fact.

    Attributes:
        prompt, subject, answer: the fact.
        probability: of the answer (before, after).
        text: what is written (before, after).
    """

    prompt: str
    subject: str
    answer: str
    probability: tuple[float, float]
    text: tuple[str, str]

    @property
    def moved(self) -> float:
        """By how much the answer's probability rose."""
        return self.probability[1] - self.probability[0]

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return asdict(self) | {"moved": self.moved}


def true_facts(count: int) -> list[KnownFact]:
    """Return so many facts of the embedded set, drawn with seed 0."""
    return list(select(load_known(KNOWN).records, limit=count, seed=0))


def damage(
    model: EditableModel, facts: Sequence[KnownFact], edits: Sequence[Edit], *, progress: Progress = silent
) -> list[Moved]:
    """Ask facts of the unedited model and with edits on; first those whose answer has no number, or lost most.

    Args:
        model: unedited; the same bits afterwards.
        facts: true ones.
        edits: in order.
        progress: told the facts asked.

    Raises:
        EditError: an edit of other shapes.
    """
    advance = advancing(progress, "asking true facts (facts)", len(facts))
    on = Together(model).plus(edits)
    moved = [
        Moved(fact.prompt, fact.subject, fact.answer, (was[0].probability, now[0].probability), (was[1], now[1]))
        for part, before, after in on.against_unedited(facts, _asks, at_once=AT_ONCE, step=advance)
        for fact, was, now in zip(part, before, after, strict=True)
    ]
    return sorted(moved, key=lambda row: row.moved if math.isfinite(row.moved) else -math.inf)


def _asks(fact: KnownFact) -> list[Ask]:
    return [Question(fact.prompt, fact.answer), Greedy(fact.prompt, TOKENS)]
