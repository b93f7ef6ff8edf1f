"""Edits that contradict each other, put on one after the other (ConflictEdit, arXiv 2310.02129): does the later win?

The second edit contradicts what follows from the first: its reverse (Anna's husband is Ben; Ben's wife is Carla), or
with a fact that the model knows. Each fact is asked for its new object and for the one that it should no longer have.
"""

from __future__ import annotations

from collections.abc import Sequence

from factedit.data.cases import CaseRecord, requests_of
from factedit.evaluate.benchmark import Benchmark, Legs, Numbers
from factedit.evaluate.column import Column
from factedit.evaluate.metric import mean_of
from factedit.evaluate.probability import Question, Score
from factedit.facts import FactRecord


class Conflicts(Benchmark):
    """Is the later edit's object the likelier one?"""

    name = "conflicts"
    title = "Conflicting edits"
    what = "of two edits that contradict each other, put on one after the other, does the later one win"
    source = "arXiv 2310.02129, section 2"
    dataset = "conflicts-reverse"
    scores = (
        Column("later_wins", "share of pairs where the later edit's object is likelier than the one it replaces"),
        Column("later_reworded", "the same in other words"),
        Column("earlier_wins", "share of earlier edits whose object is still likelier than the one they replaced"),
    )
    columns = ("later_wins", "later_reworded", "earlier_wins")
    legs = Legs(*columns)

    def lacks(self, record: FactRecord) -> str:
        """Return a second edit, or objects to replace."""
        if not isinstance(record, CaseRecord) or not record.further:
            return "second edit"
        return "" if all(request.target_true for request in requests_of(record)) else "target_true of both edits"

    def questions(self, record: FactRecord) -> list[Question]:
        """Return the last edit and its other wordings, then the earlier ones, each with the new and the old object.

        Raises:
            RequestError: a record of one edit.
        """
        self.check([record])
        *earlier, last = requests_of(record)
        asked = [(text, last) for text in (last.text, *getattr(record, "reworded", ()))]
        asked += [(request.text, request) for request in earlier]
        return [Question(text, target or "") for text, r in asked for target in (r.target_new, r.target_true)]

    def numbers(self, record: FactRecord, scores: Sequence[Score]) -> Numbers:
        """Return the shares × 100, from the scores of its `questions` in order."""
        return {name: mean_of(shares)[0] for name, shares in self._parts(record, scores).items()}

    def tests(self, record: FactRecord, scores: Sequence[Score]) -> dict[str, tuple[int, int]]:
        """Return per score how many comparisons were executed and how many were not."""
        return {name: mean_of(shares)[1] for name, shares in self._parts(record, scores).items()}

    def _parts(self, record: FactRecord, scores: Sequence[Score]) -> dict[str, list[float | None]]:
        shares: list[float | None] = [
            100.0 * (new.mean_log_p > old.mean_log_p) if new.executed and old.executed else None
            for new, old in zip(scores[::2], scores[1::2], strict=True)
        ]
        middle = 1 + len(getattr(record, "reworded", ()))
        return dict(zip(self.columns, (shares[:1], shares[1:middle], shares[middle:]), strict=True))


CONFLICTS = Conflicts()
