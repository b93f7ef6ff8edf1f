"""A panel of true facts: which of those that a model answers does it still answer with edits on it, and who is hit.

A fact is answered where every token of its answer is the likeliest, the one before it given. Beside it stands the
divergence KL(edited ‖ unedited) of the token after its prompt, in nats, by which the worst hit are listed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from factedit.errors import UsageError
from factedit.evaluate.asks import Ask, replies
from factedit.evaluate.distribution import NextToken, divergences
from factedit.evaluate.probability import Question, is_readable
from factedit.evaluate.together import Together
from factedit.facts import KnownFact, one_spelling
from factedit.models.adapter import EditableModel

AT_ONCE = 256  # facts that are asked together


class Hit(NamedTuple):
    """What edits did to a fact that the unedited model answers.

    Attributes:
        fact: the fact.
        still: it is still answered.
        kl: divergence of the token after its prompt from the unedited model's, in nats.
    """

    fact: KnownFact
    still: bool
    kl: float


@dataclass(frozen=True)
class Panel:
    """The facts of a panel that a model answers.

    Attributes:
        model: the unedited model.
        known: the facts.
        asked: how many there are.
    """

    model: EditableModel
    known: tuple[KnownFact, ...]
    asked: int

    @classmethod
    def of(
        cls,
        model: EditableModel,
        facts: Sequence[KnownFact],
        *,
        without: Collection[str] = (),
        at_most: int | None = None,
        step: Callable[[int], None] = lambda _facts: None,
    ) -> Panel:
        """Return the panel of an unedited model.

        Args:
            model: not changed.
            facts: of the panel; those that do not fit the model's context are passed over.
            without: subjects that are edited, whose facts are no part of it.
            at_most: stop when so many are answered.
            step: called with the number of facts that were just asked.

        Raises:
            UsageError: the model answers none of them.
        """
        panel = known_of(model, facts, without=without, at_most=at_most, step=step)
        if not panel.known:
            raise UsageError(
                f"{model.name} answers none of the {panel.asked} facts of the panel, so nothing can be lost: give "
                "another."
            )
        return panel

    def under(self, on: Together, *, step: Callable[[int], None] = lambda _facts: None) -> list[Hit]:
        """Return what edits did to each fact.

        Args:
            on: the edits.
            step: called with the number of facts that were just asked.
        """
        hits: list[Hit] = []
        for part, before, after in on.against_unedited(self.known, asks_of, at_once=AT_ONCE, step=step):
            kls = divergences([replied[1] for replied in after], [replied[1] for replied in before])
            hits += [Hit(fact, all(replied[0].first), kl) for fact, replied, kl in zip(part, after, kls, strict=True)]
        return hits


def known_of(
    model: EditableModel,
    facts: Sequence[KnownFact],
    *,
    without: Collection[str] = (),
    at_most: int | None = None,
    step: Callable[[int], None] = lambda _facts: None,
) -> Panel:
    """Return the panel of an unedited model, also where it answers none of the facts; arguments as for `Panel.of`."""
    edited = set(map(one_spelling, without))
    left = [fact for fact in facts if one_spelling(fact.subject) not in edited]
    known: list[KnownFact] = []
    asked = 0
    for begin in range(0, len(left), AT_ONCE):
        part = left[begin : begin + AT_ONCE]
        readable = [fact for fact in part if is_readable(model, Question(fact.prompt, fact.answer))]
        [answers] = replies(model, [[Question(fact.prompt, fact.answer)] for fact in readable], [None], seed=0)
        known += [fact for fact, [score] in zip(readable, answers, strict=True) if all(score.first)]
        asked += len(part)
        step(len(part))
        if at_most is not None and len(known) >= at_most:
            break
    return Panel(model, tuple(known[:at_most]), asked)


def asks_of(fact: KnownFact) -> list[Ask]:
    """Return what is asked of a fact: its answer, and the token after its prompt."""
    return [Question(fact.prompt, fact.answer), NextToken(fact.prompt)]


def share_kept(hits: Sequence[Hit]) -> float:
    """Return the share in percent of the facts that are still answered.

    Raises:
        UsageError: there are none.
    """
    if not hits:
        raise UsageError("A share of no facts was asked for.")
    return 100 * statistics.fmean(hit.still for hit in hits)


def worst(hits: Sequence[Hit]) -> list[int]:
    """Return the places of the facts, the worst hit first: by divergence, those no longer answered before others."""
    return sorted(range(len(hits)), key=lambda n: (hits[n].still, -hits[n].kl if hits[n].kl == hits[n].kl else 0.0))


def as_row(hit: Hit, predicted: float) -> dict[str, Any]:
    """Return a hit as JSON values."""
    fact = vars(hit.fact)
    return {**fact, "still": hit.still, "kl": None if hit.kl != hit.kl else hit.kl, "predicted": predicted}
