"""Multi-hop questions: does the model draw the conclusion? (MQuAKE, arXiv 2305.14795, section 4)

After 16 examples ("Q: … A: …") each of a case's three questions is answered greedily; the case is right if one of them
is answered by the new answer or another name of it, both normalised as SQuAD does. Three settings follow from how the
cases are edited: each alone (`evaluate`), all at once those whose path no other case's edit changes (data set
`mquake-unbroken`, `--at-once`), and all at once (`mquake`, `--at-once`).

A model that cannot answer such questions unedited shows nothing after an edit: where it answers fewer than one in ten
by the old answer, the figure is not given (`Column.needs`). Beside it stands whether all single facts of the new path
are answered, each after eight examples of its relation (hop-wise).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factedit.data.cases import CaseRecord, Hop
from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.texts import Greedy
from factedit.evaluate.writing import squad
from factedit.facts import FactRecord

TOKENS = 20
LEAST = 10.0  # per cent that the unedited model must answer
_SOURCE = "arXiv 2305.14795"


@dataclass(frozen=True)
class MultiHop(Metric):
    """Questions whose answer follows from several facts.

    Attributes:
        tokens: that are written at most.
    """

    tokens: int = TOKENS

    name = "multi-hop"
    what = "are questions answered anew whose answer follows from edited facts"
    source = f"{_SOURCE}, section 4"
    compares = True
    columns = (
        Column("multihop", "share of cases of which a question is answered by the new answer", source=_SOURCE,
               needs=("multihop_unedited", LEAST)),
        Column("multihop_old", "share of cases of which a question is still answered by the old answer",
               better="lower", source=_SOURCE, needs=("multihop_unedited", LEAST)),
        Column("multihop_hops", "share of cases of which every fact of the new path is answered", source=_SOURCE),
        Column("multihop_unedited", "share of cases of which the unedited model answers a question by the old answer: "
               "whether it can answer such questions at all", source="own"),
    )  # fmt: skip

    @classmethod
    def for_records(
        cls, records: Sequence[FactRecord], *, references: Path | None = None, **settings: Any
    ) -> MultiHop | None:
        """Return the metric, or None where no record brings such questions."""
        del references
        made = cls(**settings)
        return None if all(map(made.lacks, records)) else made

    def lacks(self, record: FactRecord) -> str:
        """Return questions, or examples to stand before them."""
        if not isinstance(record, CaseRecord) or not record.multihop:
            return "multi-hop questions"
        return "" if record.shots else "examples of answers (mquake_multihop_prompts.txt beside the file)"

    def asks(self, record: FactRecord) -> list[Greedy]:
        """Return every question after the examples, and the questions of the path's facts after theirs."""
        assert isinstance(record, CaseRecord)
        questions = [f"{record.shots}\nQ: {question} A:" for question in record.multihop]
        return [Greedy(text, self.tokens) for text in (*questions, *(hop.question for hop in _asked(record)))]

    def scored(self, answered: Answered) -> Outcome:
        """Return whether one of the questions is answered by the new answer, by the old one, and was by the old."""
        case = answered.record
        assert isinstance(case, CaseRecord)
        now, before = (replies[: len(case.multihop)] for replies in (answered.replies, answered.before))
        hops = list(zip(_asked(case), answered.replies[len(now) :], strict=True))
        scores = {
            "multihop": _answers(now, case.answers),
            "multihop_old": _answers(now, case.answers_before),
            "multihop_hops": min((_answers([text], hop.answers) for hop, text in hops), default=math.nan),
            "multihop_unedited": _answers(before, case.answers_before),
        }
        return Outcome(scores, {"multihop": [_line(text) for text in answered.replies]})

    def describe(self) -> dict[str, Any]:
        """Return the length."""
        return {"tokens": self.tokens}

    def notes(self) -> dict[str, str]:
        """Return the protocol."""
        return {
            "multi-hop": f"16 examples, greedy, at most {self.tokens} tokens, the first line; any of three questions, "
            f"any name of the answer; not given where the unedited model answers less than {LEAST:g} %"
        }


def _asked(case: CaseRecord) -> tuple[Hop, ...]:
    """Return the path's facts if all of them can be asked; nothing where the examples of one are missing."""
    return case.hops if case.hops and all(hop.question for hop in case.hops) else ()


def _answers(texts: Sequence[str], names: Sequence[str]) -> float:
    wanted = {squad(name) for name in names} - {""}  # of a name of articles or signs alone nothing is left
    return 100.0 * any(_line(text) in wanted for text in texts)


def _line(text: str) -> str:
    return squad(text.strip().partition("\n")[0])
