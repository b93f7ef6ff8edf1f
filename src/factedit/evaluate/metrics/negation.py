"""Negation: is an edit a fact, or an association that fires whatever is said? (after arXiv 2510.00625)

The prompt with " not" behind it should no longer be continued with the new object. And three statements should be
judged anew: with the old object (now false), with the new one (now true), with a third one (false as before). A model
that judges nothing cannot be asked: a record's statements are judged only where the unedited model judges all three
right as they were, which one that always gives the same answer never does, and a coin one time in eight.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factedit.evaluate.asks import Ask
from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Metric, Outcome
from factedit.evaluate.metrics.free import FREE_TOKENS, free_match
from factedit.evaluate.probability import Question, Score
from factedit.evaluate.texts import Greedy
from factedit.facts import EditRequest, FactRecord, one_spelling, with_space

NOT = " not"
CHECK = "Statement: {}.\nTrue or False? Answer:"
_PAPER = "after arXiv 2510.00625"
_ENDS = ".?!:。？！："
_BEFORE, _AFTER = (True, False, False), (False, True, False)  # of the old, the new and a third object


@dataclass(frozen=True)
class Negation(Metric):
    """The negated prompt, and three statements judged.

    Attributes:
        objects: per relation ("" for all) objects that a third one is drawn from.
        tokens: that are written at most.
    """

    objects: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    tokens: int = FREE_TOKENS

    name = "negation"
    what = "is the new object kept out of the negated prompt, and the new fact judged true"
    source = _PAPER
    compares = True
    columns = (
        Column("negated_opens", 'share of edits whose prompt with " not" behind is still continued with the new object',
               better="lower", source=_PAPER),
        Column("fact_check", "statements judged right (mean of the true one and the two false ones) where the unedited "
               "model judges them all", source=_PAPER),
        Column("check_unedited", "the unedited model's own judgement of the same statements as they were; 50 is chance",
               source=_PAPER),
    )  # fmt: skip

    @classmethod
    def for_records(
        cls, records: Sequence[FactRecord], *, references: Path | None = None, **settings: Any
    ) -> Negation | None:
        """Return the metric, or None where no record's prompt can be negated; third objects are those of the set."""
        del references
        objects: dict[str, dict[str, None]] = {}
        for record in records:
            for target in (record.request.target_true, record.request.target_new):
                for relation in {"", record.relation_id or ""} if target else ():
                    objects.setdefault(relation, {})[str(target).strip()] = None
        made = cls({relation: tuple(names) for relation, names in objects.items()}, **settings)
        return None if all(map(made.lacks, records)) else made

    def lacks(self, record: FactRecord) -> str:
        """Return a prompt that goes on."""
        ended = record.request.text.rstrip()[-1:] in _ENDS
        return f"prompt that goes on, to put {NOT!r} behind it" if ended else ""

    def third(self, record: FactRecord) -> str | None:
        """Return another object of the relation, else of the set: the same whatever records are beside it in a draw."""
        request = record.request
        known = {one_spelling(target) for target in (request.target_new, request.target_true or "")}
        for relation in (record.relation_id or "", ""):
            others = [other for other in self.objects.get(relation, ()) if one_spelling(other) not in known]
            if others:
                return min(others, key=lambda other: random.Random(f"{record.case_id}/{other}").random())
        return None

    def asks(self, record: FactRecord) -> list[Ask]:
        """Return the negated prompt, and every statement with both judgements."""
        asked: list[Ask] = [Greedy(record.request.text.rstrip() + NOT, self.tokens)]
        statements = [statement(record.request, target) for target in self._three(record)]
        return asked + [Question(text, answer) for text in statements for answer in ("True", "False")]

    def _three(self, record: FactRecord) -> list[str]:
        """Return the old, the new and a third object; nothing where one of them is missing."""
        old, third = record.request.target_true, self.third(record)
        return [] if old is None or third is None else [old, record.request.target_new, third]

    def scored(self, answered: Answered) -> Outcome:
        """Return whether the negated prompt is free of the new object, and how the statements are judged."""
        text, target = answered.replies[0], answered.record.request.target_new
        now, before = judged(answered.replies[1:]), judged(answered.before[1:])
        known = balanced(before, _BEFORE)
        scores = {
            "negated_opens": 100.0 * free_match(text, target),
            "fact_check": balanced(now, _AFTER) if known == 100 else math.nan,
            "check_unedited": known,
        }
        return Outcome(scores, {"negated_opens": text})

    def describe(self) -> dict[str, Any]:
        """Return the wording, the length, and a hash of the objects that third ones are drawn from."""
        content = json.dumps({relation: list(names) for relation, names in self.objects.items()}, sort_keys=True)
        objects = hashlib.sha256(content.encode()).hexdigest()[:16]
        return {"check": CHECK, "tokens": self.tokens, "objects": objects}

    def notes(self) -> dict[str, str]:
        """Return when statements are judged."""
        return {
            "fact_check": 'log P(" True") against log P(" False") on three statements; executed where the unedited '
            "model judges all three right (chance: one in eight), else not measurable; check_unedited near 50 means "
            "that this model cannot be asked"
        }


def statement(request: EditRequest, target: str) -> str:
    """Return a prompt that asks whether the edited prompt with an object is true."""
    return CHECK.format(request.text + with_space(request.text, target))


def judged(scores: Sequence[Score]) -> list[bool | None]:
    """Return per statement whether True is likelier than False; None where the two are equal or not finite.

    Args:
        scores: of True and False in turn.
    """
    judgements: list[bool | None] = []
    for true, false in zip(scores[::2], scores[1::2], strict=True):
        margin = sum(true.log_p) - sum(false.log_p)
        judgements.append(margin > 0 if math.isfinite(margin) and margin else None)
    return judgements


def balanced(judgements: Sequence[bool | None], right: Sequence[bool]) -> float:
    """Return per cent judged right, the mean over the true and the false statements; NaN where none were asked.

    A statement that is not judged is not right.
    """
    if not judgements:
        return math.nan
    shares = []
    for kind in (True, False):
        hits = [judgement is answer for judgement, answer in zip(judgements, right, strict=True) if answer is kind]
        shares.append(sum(hits) / len(hits))
    return 100 * sum(shares) / len(shares)
