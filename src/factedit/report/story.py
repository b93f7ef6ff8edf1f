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
    def verdict(self) -> tuple[str, str]:
        """Whether the edit did what it should, in a few words, and the counts that say so."""
        rewrite = [answer for answer in self.answers if answer.part == "rewrite"]
        took, had = (all(_gives_new(answer, when) for answer in rewrite) for when in (1, 0))
        others = [answer for answer in self.answers if answer.part == "paraphrase"]
        wordings, gave = ([_gives_new(answer, when) for answer in others] for when in (1, 0))
        # a neighbour that gave the new object before cannot lose the old one
        kept = [not _gives_new(a, 1) for a in self.answers if a.part == "neighbour" and not _gives_new(a, 0)]
        counts = [
            f"{sum(held)} of {len(held)} {what}"
            for held, what in ((wordings, "other wordings give the new object"), (kept, "neighbours keep the old one"))
            if held
        ]
        if any(gave):
            counts[0] += f" ({sum(gave)} of {len(gave)} before the edit)"
        [first] = rewrite
        old, new = first.new or (0.0, 0.0)
        told = [f"P({self.record.request.target_new}) {old:.2f} → {new:.2f}", *counts]
        told.append("undone to the bit" if self.restored else "not undone: the weights differ afterwards")
        if not took:
            return "The edit did not take", "; ".join(told)
        if had:  # what held before is none of the edit's doing
            return "The model gave the new object before the edit, too", "; ".join(told)
        if all(wordings) and all(kept):
            return ("The edit took" if counts else "The edit took at its own prompt"), "; ".join(told)
        but = [what for held, what in ((wordings, "not in all wordings"), (kept, "neighbours moved")) if not all(held)]
        return f"The edit took, but {' and '.join(but)}", "; ".join(told)

    @property
    def restored(self) -> bool:
        """Whether undoing the edit gave the same bits."""
        return self.fingerprints[0] == self.fingerprints[2]


def _gives_new(answer: Answer, when: int) -> bool:
    """Whether the new object is likelier than the true one, before (0) or after (1)."""
    return answer.new is not None and answer.true is not None and answer.new[when] > answer.true[when]
