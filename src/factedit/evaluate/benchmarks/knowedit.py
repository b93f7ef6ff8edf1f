"""KnowEdit's WikiData edits as EasyEdit scores them (arXiv 2401.01286): the answers fed in.

Shares of an answer's tokens that are the likeliest, each given the right ones before it, × 100: of the new object at
the edited prompt and at its other wording, and of the right answers to other relations of the subject.
"""

from __future__ import annotations

from collections.abc import Sequence

from factedit.data.probes import SPECIFICITY, probes_of
from factedit.evaluate.benchmark import Benchmark, Legs, Numbers
from factedit.evaluate.column import Column
from factedit.evaluate.probability import Question, Score, mean_accuracy
from factedit.facts import FactRecord


class KnowEdit(Benchmark):
    """Are the right answers' tokens the likeliest?"""

    name = "knowedit"
    title = "KnowEdit, WikiData counterfactual"
    what = "are the tokens of the new object the likeliest, and still those of the subject's other facts"
    source = "arXiv 2401.01286, section 4"
    dataset = "knowedit"
    scores = (
        Column("edit_tokens", "share of the new object's tokens that are the likeliest at the edited prompt"),
        Column("rephrased_tokens", "the same at its other wording"),
        Column("locality_tokens", "share of the right answer's tokens that are the likeliest, other relations"),
    )
    columns = ("edit_tokens", "rephrased_tokens", "locality_tokens")
    legs = Legs(*columns)

    def lacks(self, record: FactRecord) -> str:
        """Return nothing: what a record does not bring is not asked."""
        return ""

    def questions(self, record: FactRecord) -> list[Question]:
        """Return the prompt and its other wordings with the new object, other relations with their own."""
        prompts = (record.request.text, *record.paraphrases)
        stays = [probe for probe in probes_of(record) if probe.kind == SPECIFICITY]
        return [
            *(Question(prompt, record.request.target_new) for prompt in prompts),
            *(Question(probe.prompt, probe.answers[0]) for probe in stays),
        ]

    def numbers(self, record: FactRecord, scores: Sequence[Score]) -> Numbers:
        """Return the record's scores × 100, from the scores of its `questions` in order."""
        return {name: mean_accuracy(part) for name, part in self._parts(record, scores).items()}

    def tests(self, record: FactRecord, scores: Sequence[Score]) -> dict[str, tuple[int, int]]:
        """Return per score how many questions were executed and how many were not."""
        counts = {n: (sum(s.executed for s in part), len(part)) for n, part in self._parts(record, scores).items()}
        return {name: (executed, asked - executed) for name, (executed, asked) in counts.items()}

    def _parts(self, record: FactRecord, scores: Sequence[Score]) -> dict[str, Sequence[Score]]:
        middle = 1 + len(record.paraphrases)
        return dict(zip(self.columns, (scores[:1], scores[1:middle], scores[middle:]), strict=True))


KNOWEDIT = KnowEdit()
