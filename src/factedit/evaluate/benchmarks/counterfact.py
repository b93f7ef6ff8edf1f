"""CounterFact (Meng et al. 2022, arXiv 2202.05262, section 3.3 and table 4).

Every prompt is asked for the new and the true object. Success: how often the wanted one is the likelier; magnitude: by
how much, both × 100. At the rewrite prompt and its paraphrases the new object is wanted, at neighbours the true one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from factedit.evaluate.benchmark import UNEDITED, Benchmark, Legs, Numbers, Published
from factedit.evaluate.benchmarks.published_many import COUNTERFACT_MANY
from factedit.evaluate.column import Column
from factedit.evaluate.estimates import Headline
from factedit.evaluate.probability import Question, Score, mean_accuracy
from factedit.facts import FactRecord

XL, J = "GPT-2 XL", "GPT-J"


class CounterFact(Benchmark):
    """New against true object, by probability."""

    name = "counterfact"
    title = "CounterFact (Table 4)"
    what = "is the new object likelier than the true one where it should be, and only there"
    source = "arXiv 2202.05262, section 3.3"
    dataset = "counterfact"
    scores = (
        Column("ES", "efficacy: share of edits whose new object is the likelier one"),
        Column("EM", "by how much, as a difference of probabilities", low=-100),
        Column("PS", "paraphrase: share of other wordings where the new object is the likelier one"),
        Column("PM", "by how much, as a difference of probabilities", low=-100),
        Column("NS", "neighborhood: share of prompts about other subjects where the true object is the likelier one"),
        Column("NM", "by how much, as a difference of probabilities", low=-100),
        Column("efficacy_tokens", "share of the new object's tokens that are the likeliest at the edited prompt"),
    )
    headline = Headline("S", "harmonic mean of the means of ES, PS and NS", ("ES", "PS", "NS"))
    columns = ("S", "ES", "EM", "PS", "PM", "NS", "NM", "GE", "RS")
    legs = Legs("ES", "PS", "NS")
    methods = ("ft", "ft-l", "kn", "ke", "ke-cf", "mend", "mend-cf", "rome", "rome-original")
    published = (
        Published(XL, UNEDITED, (30.5, 22.2, -4.8, 24.7, -5.0, 78.1, 5.0, 626.6, 31.9)),
        Published(XL, "ft", (65.1, 100.0, 98.8, 87.9, 46.6, 40.4, -6.2, 607.1, 40.5)),
        Published(XL, "ft-l", (66.9, 99.1, 91.5, 48.7, 28.9, 70.3, 3.5, 621.4, 37.4)),
        Published(XL, "kn", (35.6, 28.7, -3.4, 28.0, -3.3, 72.9, 3.7, 570.4, 30.3)),
        Published(XL, "ke", (52.2, 84.3, 33.9, 75.4, 14.6, 30.9, -11.0, 586.6, 31.2)),
        Published(XL, "ke-cf", (18.1, 99.9, 97.0, 95.8, 59.2, 6.9, -63.2, 383.0, 24.5)),
        Published(XL, "mend", (57.9, 99.1, 70.9, 65.4, 12.2, 37.9, -11.6, 624.2, 34.8)),
        Published(XL, "mend-cf", (14.9, 100.0, 99.2, 97.0, 65.6, 5.5, -69.9, 570.0, 33.2)),
        Published(XL, "rome", (89.2, 100.0, 97.9, 96.4, 62.7, 75.4, 4.2, 621.9, 41.9)),
        Published(J, UNEDITED, (23.6, 16.3, -7.2, 18.6, -7.4, 83.0, 7.3, 621.8, 29.8)),
        Published(J, "ft", (25.5, 100.0, 99.9, 96.6, 71.0, 10.3, -50.7, 387.8, 24.6)),
        Published(J, "ft-l", (68.7, 99.6, 95.0, 47.9, 30.4, 78.6, 6.8, 622.8, 35.5)),
        Published(J, "mend", (63.2, 97.4, 71.5, 53.6, 11.0, 53.9, -6.0, 620.5, 32.6)),
        Published(J, "rome", (91.5, 99.9, 99.4, 99.1, 74.1, 78.9, 5.2, 620.1, 43.0)),
    )
    many = COUNTERFACT_MANY

    def as_key(self) -> dict[str, Any]:
        """Return nothing: the data set tells, as it did before benchmarks had names."""
        return {}

    def lacks(self, record: FactRecord) -> str:
        """Return the true object, without which the new one has no rival."""
        return "target_true" if record.request.target_true is None else ""

    def questions(self, record: FactRecord) -> list[Question]:
        """Rewrite prompt, paraphrases and neighbours, each with the new and the true object.

        Raises:
            RequestError: a record without a true object.
        """
        self.check([record])
        targets = (record.request.target_new, record.request.target_true or "")
        prompts = (record.request.text, *record.paraphrases, *record.neighborhood)
        return [Question(prompt, target) for prompt in prompts for target in targets]

    def numbers(self, record: FactRecord, scores: Sequence[Score]) -> Numbers:
        """Return the record's scores × 100, from the scores of its `questions` in order."""
        new, true = scores[0::2], scores[1::2]
        middle = 1 + len(record.paraphrases)
        es, em = pairs(new[:1], true[:1])
        ps, pm = pairs(new[1:middle], true[1:middle])
        ns, nm = pairs(true[middle:], new[middle:])  # a neighbour keeps the true object
        tokens = mean_accuracy(scores[:1])
        return {"ES": es, "EM": em, "PS": ps, "PM": pm, "NS": ns, "NM": nm, "efficacy_tokens": tokens}

    def tests(self, record: FactRecord, scores: Sequence[Score]) -> dict[str, tuple[int, int]]:
        """Return per score how many prompts were executed, both objects finite, and how many were not."""
        whole = [new.executed and true.executed for new, true in zip(scores[0::2], scores[1::2], strict=True)]
        middle = 1 + len(record.paraphrases)
        parts = {"E": whole[:1], "P": whole[1:middle], "N": whole[middle:]}
        counts = {letter: (sum(part), len(part) - sum(part)) for letter, part in parts.items()}
        of_pairs = {letter + kind: count for letter, count in counts.items() for kind in "SM"}
        return of_pairs | {"efficacy_tokens": (int(scores[0].executed), int(not scores[0].executed))}


def pairs(wanted: Sequence[Score], other: Sequence[Score]) -> tuple[float, float]:
    """Return success and magnitude over prompts: how often, and by how much, the wanted answer is the likelier one (×
    100).

    The likelier one is found by the logarithms, since probabilities far below all that a model would write are all 0.
    Prompts with a score that is not finite are left out of both; NaN where none is left.
    """
    both = [(a, b) for a, b in zip(wanted, other, strict=True) if a.executed and b.executed]
    if not both:
        return math.nan, math.nan
    success = sum(a.mean_log_p > b.mean_log_p for a, b in both) / len(both)
    return 100 * success, 100 * math.fsum(a.probability - b.probability for a, b in both) / len(both)


COUNTERFACT = CounterFact()
