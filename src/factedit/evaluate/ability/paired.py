"""Before and after, item by item: a difference with its interval, and how many answers changed.

A mean that stays can hide that as many items were lost as were won; so the share whose answer is another stands beside
it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factedit.evaluate.ability.harness import ItemAnswer, TaskAnswers
from factedit.evaluate.estimates import Estimate, mean


@dataclass(frozen=True)
class Paired:
    """A task before and after.

    Attributes:
        before, after: per cent right; of texts the perplexity per word.
        difference: after − before over items, with its 95 % interval, in the same unit; of texts in nats a text.
        changed: per cent of the items whose answer is another one; NaN of texts.
        unit: `% right` or `word perplexity`.
        n: items.
    """

    before: float
    after: float
    difference: Estimate
    changed: float
    unit: str
    n: int

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        values = {"before": self.before, "after": self.after, "unit": self.unit, "n": self.n, "changed": self.changed}
        return {**values, "difference": self.difference.value, "half_width": self.difference.half_width}


def paired(before: TaskAnswers, after: TaskAnswers) -> Paired:
    """Return a task before and after; the items are the same, in one order."""
    pairs = list(zip(before.given, after.given, strict=True))
    if all(math.isnan(answer.right) for answer in before.given):
        moved = mean([then.log_p - now.log_p for then, now in pairs])  # nats a text, worse is more
        word = "word_perplexity"
        return Paired(before.scores[word], after.scores[word], moved, math.nan, "word perplexity", len(pairs))
    return Paired(
        _right(before.given), _right(after.given), mean([100 * (now.right - then.right) for then, now in pairs]),
        100 * sum(now.answer != then.answer for then, now in pairs) / len(pairs), "% right", len(pairs),
    )  # fmt: skip


def _right(given: Sequence[ItemAnswer]) -> float:
    return 100 * sum(answer.right for answer in given) / len(given)
