"""A panel of true facts under every edit: how many are still answered, and how far their next token moved.

Only facts that the unedited model answers are asked; which these are is found once. Where edits are shared by all
records the panel is asked once for them, else under each edit. A whole panel of ten thousand facts under one edit, with
the list of the worst hit, is `factedit panel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from factedit.data.panel import read_panel
from factedit.data.worldfacts import worldfacts_known
from factedit.evaluate.asks import Ask
from factedit.evaluate.column import Column
from factedit.evaluate.distribution import divergences
from factedit.evaluate.metric import Answered, Metric, Outcome, digest_of, mean_of
from factedit.evaluate.panel import Hit, asks_of, known_of, worst
from factedit.facts import FactRecord, KnownFact, one_spelling
from factedit.models.adapter import EditableModel

FACTS, WORST = 50, 5
_SOURCE = "own; facts of arXiv 2603.19297 where given"


@lru_cache(maxsize=1)
def _embedded() -> tuple[KnownFact, ...]:
    return tuple(worldfacts_known())


@dataclass(frozen=True)
class PanelFacts(Metric):
    """True facts about other subjects.

    Attributes:
        facts: of the panel, in the order they are tried.
        count: how many that the model answers are asked.
        model: the unedited model, from which it is known which these are.
    """

    facts: tuple[KnownFact, ...] = field(default_factory=_embedded, repr=False)
    count: int = FACTS
    model: EditableModel | None = field(default=None, repr=False, compare=False)

    name = "panel"
    what = "are true facts about others, which the model answers, still answered"
    source = _SOURCE
    compares = True
    same_for_all = True
    takes: ClassVar[tuple[str, ...]] = ("panel",)
    columns = (
        Column("panel_kept", "share of true facts, answered by the unedited model, that are still answered",
               source=_SOURCE),
        Column("panel_kl", "divergence of the token after their prompts from the unedited model's, KL in nats",
               better="lower", high=float("inf"), source=_SOURCE, decimals=4),
    )  # fmt: skip

    @classmethod
    def for_records(
        cls,
        records: Sequence[FactRecord],
        *,
        references: Path | None = None,
        panel: Path | None = None,
        **settings: Any,
    ) -> PanelFacts | None:
        """Return the metric; of a user's panel, or of the embedded facts.

        Raises:
            DataError: the panel cannot be read.
        """
        del records, references
        return cls(**settings) if panel is None else cls(_mixed(read_panel(panel).records), **settings)

    def for_model(self, model: EditableModel) -> PanelFacts:
        """Return the metric for a model; which facts it answers is found when they are first asked for."""
        return replace(self, model=model)

    def lacks(self, record: FactRecord) -> str:
        """Return facts that the model answers, where it answers none of the panel."""
        del record  # every one is asked the same
        return "" if self.known else f"fact of the panel that the model answers, of {len(self.facts)} that were asked"

    def asks(self, record: FactRecord) -> list[Ask]:
        """Return what is asked of every fact that the model answers."""
        return [ask for fact in self.known for ask in asks_of(fact)]

    @cached_property
    def known(self) -> tuple[KnownFact, ...]:
        """The facts that the model answers, found once; without a model those that come first, of which fewer will
        count.
        """
        if self.model is None:
            return self.facts[: self.count]
        return known_of(self.model, self.facts, at_most=self.count).known

    def scored(self, answered: Answered) -> Outcome:
        """Return the share that is still answered, and the mean divergence; facts about the edited subject aside."""
        subject = one_spelling(answered.record.request.subject)
        kls = divergences(answered.replies[1::2], answered.before[1::2])
        told = zip(self.known, answered.replies[::2], answered.before[::2], kls, strict=True)
        hits = [
            Hit(fact, all(now.first), kl)
            for fact, now, before, kl in told
            if all(before.first) and one_spelling(fact.subject) != subject
        ]
        kept, tests = mean_of([100.0 * hit.still for hit in hits])
        moved, measured = mean_of([hit.kl for hit in hits])
        shown = [[hits[n].fact.prompt, hits[n].fact.answer, hits[n].kl] for n in worst(hits)[:WORST]]
        return Outcome(
            {"panel_kept": kept, "panel_kl": moved}, {"panel": shown}, {"panel_kept": tests, "panel_kl": measured}
        )

    def describe(self) -> dict[str, Any]:
        """Return how many are asked, and a hash of the facts."""
        return {"count": self.count, "facts": digest_of([[fact.prompt, fact.answer] for fact in self.facts])}

    def notes(self) -> dict[str, str]:
        """Return which facts are asked."""
        return {
            "panel": f"the first {self.count} of {len(self.facts)} facts, mixed, that the unedited model answers (each "
            "token of the answer the likeliest); facts about the edited subject aside"
        }


def _mixed(facts: Sequence[KnownFact]) -> tuple[KnownFact, ...]:
    """Return facts in an order that does not depend on their place in the file."""
    return tuple(sorted(facts, key=lambda fact: digest_of([fact.prompt, fact.answer])))
