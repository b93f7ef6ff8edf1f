"""One record to questions, and their scores to the record's row of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from factedit.errors import RequestError
from factedit.evaluate.metrics import pairs
from factedit.evaluate.probability import Question, Score
from factedit.facts import FactRecord

Numbers = dict[str, float]


def questions(record: FactRecord) -> list[Question]:
    """What a record asks: rewrite, paraphrases, neighbours, with the answers that its kind compares.

    Raises:
        RequestError: a record with neither `target_true` nor `loc_answer` has nothing to compare with.
    """
    prompts = (record.request.text, *record.paraphrases)
    if record.loc_answer is not None:
        asked = [Question(prompt, record.request.target_new) for prompt in prompts]
        return asked + [Question(prompt, record.loc_answer) for prompt in record.neighborhood]
    if record.request.target_true is None:
        raise RequestError(f"Record {record.case_id} has no target_true, so its new object has no rival to beat.")
    targets = (record.request.target_new, record.request.target_true)
    return [Question(prompt, target) for prompt in (*prompts, *record.neighborhood) for target in targets]


def numbers(record: FactRecord, scores: Sequence[Score]) -> Numbers:
    """The record's scores × 100, from the scores of its `questions` in order."""
    return _zsre(record, scores) if record.loc_answer is not None else _counterfact(record, scores)


def _counterfact(record: FactRecord, scores: Sequence[Score]) -> Numbers:
    new = [score.probability for score in scores[0::2]]
    true = [score.probability for score in scores[1::2]]
    middle = 1 + len(record.paraphrases)
    es, em = pairs(new[:1], true[:1])
    ps, pm = pairs(new[1:middle], true[1:middle])
    ns, nm = pairs(true[middle:], new[middle:])  # a neighbour keeps the true object
    return {"ES": es, "EM": em, "PS": ps, "PM": pm, "NS": ns, "NM": nm, "efficacy_tokens": 100 * scores[0].accuracy}


def _zsre(record: FactRecord, scores: Sequence[Score]) -> Numbers:
    middle = 1 + len(record.paraphrases)
    parts = {"efficacy": scores[:1], "paraphrase": scores[1:middle], "specificity": scores[middle:]}
    return {name: 100 * sum(s.accuracy for s in part) / len(part) if part else math.nan for name, part in parts.items()}
