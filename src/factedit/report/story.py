"""What the demo's page shows: one fact traced, edited, asked before and after, and the edit undone."""

from __future__ import annotations

from dataclasses import dataclass

from factedit.edit.artefact import Edit
from factedit.evaluate.benchmark import Numbers
from factedit.facts import FactRecord
from factedit.trace.effects import TraceResult


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
