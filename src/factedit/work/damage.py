"""What edits did to facts they are not about: a panel of true facts, asked before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from factedit.edit.artefact import Edit
from factedit.evaluate.asks import Ask
from factedit.evaluate.probability import Question
from factedit.evaluate.texts import Greedy
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.work.ask import read_with
from factedit.work.progress import Progress, advancing, silent

TOKENS, AT_ONCE = 12, 8


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
    found: list[Moved] = []
    advance = advancing(progress, "asking true facts (facts)", len(facts))
    for begin in range(0, len(facts), AT_ONCE):
        part = facts[begin : begin + AT_ONCE]
        asks: list[list[Ask]] = [[Question(f.prompt, f.answer), Greedy(f.prompt, TOKENS)] for f in part]
        for fact, was, now in zip(part, read_with(model, asks, ()), read_with(model, asks, edits), strict=True):
            shares, texts = (was[0].probability, now[0].probability), (was[1], now[1])
            found.append(Moved(fact.prompt, fact.subject, fact.answer, shares, texts))
        advance(len(part))
    return sorted(found, key=lambda row: row.moved if math.isfinite(row.moved) else -math.inf)
