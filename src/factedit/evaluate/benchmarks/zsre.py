"""zsRE as MEND asks it (Mitchell et al. 2022, arXiv 2110.11309; ROME, arXiv 2202.05262, section 3.2 and table 1).

All three scores are shares of the right answer's tokens that are the likeliest, each given the right ones before it,
× 100: of the new answer at the question and at its other wording, and of an unrelated question's own right answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factedit.evaluate.benchmark import UNEDITED, Benchmark, Legs, Numbers, Published
from factedit.evaluate.benchmarks.published_many import ZSRE_MANY
from factedit.evaluate.column import Column
from factedit.evaluate.probability import Question, Score, mean_accuracy
from factedit.facts import FactRecord

XL = "GPT-2 XL"


class ZsRE(Benchmark):
    """Are the right answer's tokens the likeliest?"""

    name = "zsre"
    title = "zsRE (Table 1)"
    what = "are the tokens of the new answer the likeliest, and still those of an unrelated one"
    source = "arXiv 2202.05262, section 3.2, after arXiv 2110.11309"
    dataset = "zsre"
    scores = (
        Column("efficacy", "share of the new answer's tokens that are the likeliest at the edited question"),
        Column("paraphrase", "the same at its other wording"),
        Column("specificity", "share of the right answer's tokens that are the likeliest at an unrelated question"),
    )
    columns = ("efficacy", "paraphrase", "specificity")
    legs = Legs("efficacy", "paraphrase", "specificity")
    methods = ("ft", "ft-l", "kn", "ke", "ke-zsre", "mend", "mend-zsre", "rome", "rome-original")
    published = (
        Published(XL, UNEDITED, (22.2, 21.3, 24.2)),
        Published(XL, "ft", (99.6, 82.1, 23.2)),
        Published(XL, "ft-l", (92.3, 47.2, 23.4)),
        Published(XL, "ke", (65.5, 61.4, 24.9)),
        Published(XL, "ke-zsre", (92.4, 90.0, 23.8)),
        Published(XL, "mend", (75.9, 65.3, 24.1)),
        Published(XL, "mend-zsre", (99.4, 99.3, 24.1)),
        Published(XL, "rome", (99.8, 88.1, 24.2)),
    )
    many = ZSRE_MANY

    def as_key(self) -> dict[str, Any]:
        """Return nothing: the data set tells, as it did before benchmarks had names."""
        return {}

    def lacks(self, record: FactRecord) -> str:
        """Return the right answer of the unrelated question."""
        return "loc_answer" if record.loc_answer is None else ""

    def questions(self, record: FactRecord) -> list[Question]:
        """Return the question and its other wordings with the new answer, unrelated questions with their own.

        Raises:
            RequestError: a record without the right answer of its unrelated question.
        """
        self.check([record])
        asked = [Question(prompt, record.request.target_new) for prompt in (record.request.text, *record.paraphrases)]
        return asked + [Question(prompt, record.loc_answer or "") for prompt in record.neighborhood]

    def numbers(self, record: FactRecord, scores: Sequence[Score]) -> Numbers:
        """Return the record's scores × 100, from the scores of its `questions` in order."""
        return {name: mean_accuracy(part) for name, part in _parts(record, scores).items()}

    def tests(self, record: FactRecord, scores: Sequence[Score]) -> dict[str, tuple[int, int]]:
        """Return per score how many questions were executed and how many were not."""
        counts = {name: (sum(s.executed for s in part), len(part)) for name, part in _parts(record, scores).items()}
        return {name: (executed, asked - executed) for name, (executed, asked) in counts.items()}


def _parts(record: FactRecord, scores: Sequence[Score]) -> dict[str, Sequence[Score]]:
    middle = 1 + len(record.paraphrases)
    return {"efficacy": scores[:1], "paraphrase": scores[1:middle], "specificity": scores[middle:]}


ZSRE = ZsRE()
