"""Other facts of the edited subject: of those that the unedited model answers right, how many are still answered.

The facts are those of the embedded worldfacts, and of a panel where one is given. Facts of the edited relation are left
out, and so are those whose object is the old one: a city that is moved to another country leaves its continent too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from factedit.data.panel import read_panel
from factedit.data.relations import slug
from factedit.data.worldfacts import relations
from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Metric, Outcome, mean_of
from factedit.evaluate.metrics.free import FREE_TOKENS, free_match
from factedit.evaluate.texts import Greedy
from factedit.facts import FactRecord, KnownFact, fill, one_spelling

Facts = Mapping[str, Sequence[tuple[str, str, str]]]  # per subject its relations, prompts and objects


@lru_cache(maxsize=1)
def _embedded() -> Facts:
    by_subject: dict[str, list[tuple[str, str, str]]] = {}
    for relation in relations():
        for subject, target in relation.pairs:
            by_subject.setdefault(slug(subject), []).append(
                (relation.relation_id, fill(relation.prompt, subject), target)
            )
    return by_subject


@dataclass(frozen=True)
class SameSubject(Metric):
    """Facts of the edited subject that the edit is not about.

    Attributes:
        facts: per subject (a slug) its relations, prompts and objects.
        tokens: that are written at most.
    """

    facts: Facts = field(default_factory=_embedded, repr=False)
    tokens: int = FREE_TOKENS

    name = "same-subject"
    what = "are other facts of the edited subject that the model knew still answered"
    source = "own, facts of the embedded worldfacts and of a panel"
    compares = True
    takes: ClassVar[tuple[str, ...]] = ("panel",)
    columns = (
        Column("same_subject", "share of other facts of the subject, right in the unedited model, that are still "
               "written on their prompt", source="own"),
    )  # fmt: skip

    @classmethod
    def for_records(
        cls,
        records: Sequence[FactRecord],
        *,
        references: Path | None = None,
        panel: Path | None = None,
        **settings: Any,
    ) -> SameSubject | None:
        """Return the metric, or None where no record's subject has other facts.

        Raises:
            DataError: the panel cannot be read.
        """
        del references
        facts = _embedded() if panel is None else with_panel(_embedded(), read_panel(panel).records)
        made = cls(**{"facts": facts, **settings})
        return made if any(made.others(record) for record in records) else None

    def lacks(self, record: FactRecord) -> str:
        """Return other facts of its subject."""
        return "" if self.others(record) else "other facts of its subject in worldfacts or a panel (--panel)"

    def others(self, record: FactRecord) -> list[tuple[str, str]]:
        """Return prompt and object of every fact of the record's subject that the edit is not about."""
        request = record.request
        old = one_spelling(request.target_true or "")
        return [
            (prompt, target)
            for relation, prompt, target in self.facts.get(slug(request.subject), ())
            if relation != record.relation_id
            and one_spelling(target) != old
            and one_spelling(prompt) != one_spelling(request.text)
        ]

    def asks(self, record: FactRecord) -> list[Greedy]:
        """Return the prompts of the other facts, continued."""
        return [Greedy(prompt, self.tokens) for prompt, _ in self.others(record)]

    def scored(self, answered: Answered) -> Outcome:
        """Return the share that is still right of those that were."""
        targets = [target for _, target in self.others(answered.record)]
        told = zip(answered.replies, answered.before, targets, strict=True)
        mean, tests = mean_of(
            [100.0 * free_match(now, target) if free_match(before, target) else None for now, before, target in told]
        )
        return Outcome({"same_subject": mean}, {"same_subject": list(answered.replies)}, {"same_subject": tests})

    def describe(self) -> dict[str, Any]:
        """Return the length, and a hash of the facts."""
        content = json.dumps({subject: list(facts) for subject, facts in self.facts.items()}, sort_keys=True)
        return {"tokens": self.tokens, "facts": hashlib.sha256(content.encode()).hexdigest()[:16]}


def with_panel(facts: Facts, panel: Sequence[KnownFact]) -> Facts:
    """Return facts by subject with those of a panel behind them, each once; a panel's facts name no relation."""
    by_subject = {subject: list(of_subject) for subject, of_subject in facts.items()}
    for fact in panel:
        told = by_subject.setdefault(slug(fact.subject), [])
        if all((prompt, target) != (fact.prompt, fact.answer) for _, prompt, target in told):
            told.append(("", fact.prompt, fact.answer))
    return by_subject
