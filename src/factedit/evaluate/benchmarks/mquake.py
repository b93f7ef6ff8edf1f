"""MQuAKE-CF, edit by edit (arXiv 2305.14795, section 4): are the edited facts of a case recalled, and its others kept?

Edit-wise: every token of the new object is the likeliest after the cloze, the one before it given, so that it is what
would be written. The multi-hop questions themselves are the metric `multi-hop`.
"""

from __future__ import annotations

from collections.abc import Sequence

from factedit.data.cases import CaseRecord, requests_of
from factedit.evaluate.benchmark import Benchmark, Legs, Numbers
from factedit.evaluate.column import Column
from factedit.evaluate.metric import mean_of
from factedit.evaluate.probability import Question, Score
from factedit.facts import FactRecord


class MQuAKE(Benchmark):
    """Are the facts of a case recalled?"""

    name = "mquake"
    title = "MQuAKE-CF, single facts"
    what = "are the edited facts of a case recalled, as text and as questions, and the other facts of its path kept"
    source = "arXiv 2305.14795, section 4"
    dataset = "mquake"
    scores = (
        Column("edit_wise", "share of a case's edited facts whose new object is what follows the cloze"),
        Column("edit_asked", "the same after the fact's question"),
        Column("path_kept", "share of the path's facts that no edit changes whose right object follows the cloze"),
    )
    columns = ("edit_wise", "edit_asked", "path_kept")
    legs = Legs(*columns)

    def lacks(self, record: FactRecord) -> str:
        """Return nothing: what a record does not bring is not asked."""
        return ""

    def questions(self, record: FactRecord) -> list[Question]:
        """Return every edited fact as cloze and as question, and the other hops' clozes."""
        requests = requests_of(record)
        case = record if isinstance(record, CaseRecord) else None
        asked = zip(case.asked, requests, strict=False) if case else ()
        hops = [hop for hop in case.hops if not hop.edited] if case else []
        return [
            *(Question(request.text, request.target_new) for request in requests),
            *(Question(_as_question(text), request.target_new) for text, request in asked),
            *(Question(hop.cloze, hop.answers[0]) for hop in hops),
        ]

    def numbers(self, record: FactRecord, scores: Sequence[Score]) -> Numbers:
        """Return the shares × 100, from the scores of its `questions` in order."""
        return {name: mean_of(shares)[0] for name, shares in self._parts(record, scores).items()}

    def tests(self, record: FactRecord, scores: Sequence[Score]) -> dict[str, tuple[int, int]]:
        """Return per score how many facts were executed and how many were not."""
        return {name: mean_of(shares)[1] for name, shares in self._parts(record, scores).items()}

    def _parts(self, record: FactRecord, scores: Sequence[Score]) -> dict[str, list[float | None]]:
        shares = [100.0 * all(score.first) if score.executed else None for score in scores]
        first = len(requests_of(record))
        second = first + (min(len(record.asked), first) if isinstance(record, CaseRecord) else 0)
        return dict(zip(self.columns, (shares[:first], shares[first:second], shares[second:]), strict=True))


def _as_question(text: str) -> str:
    return f"Q: {text} A:"


MQUAKE = MQuAKE()
