"""Two methods on the same records: the interval of their difference, record by record.

Records differ far more from each other than methods do on one record, so that overlapping intervals of two means
say little about the difference; its own interval, over the records that both have, is what decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

from factedit.evaluate.chunk import UNEDITED
from factedit.evaluate.metrics import Estimate, half_range, has_summary, mean, summary_draws

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Differences between the methods of a table.

    Attributes:
        change: per method and score the mean difference to the unedited model.
        behind: per method how far its S is behind the best one's (bootstrap over records).
        best: the method of the best S, if there is S.
    """

    change: Mapping[str, Mapping[str, Estimate]]
    behind: Mapping[str, Estimate]
    best: str | None = None


def compare(rows: Mapping[str, Sequence[Scores]], *, seed: int = 0) -> Comparison:
    """Compare the methods of a table.

    Args:
        rows: per method (the unedited model among them) the scores of the same records in the same order.
        seed: of the bootstrap.
    """
    edited = {method: own for method, own in rows.items() if method != UNEDITED}
    change = {method: _differences(own, rows[UNEDITED]) for method, own in edited.items()} if UNEDITED in rows else {}
    whole = [all(map(has_summary, scores)) for scores in zip(*edited.values(), strict=True)]
    count = sum(whole)
    if not count:
        return Comparison(change, {})
    draws = {method: summary_draws(list(compress(own, whole)), seed=seed) for method, own in edited.items()}
    best = max(draws, key=lambda method: draws[method][0])
    value, drawn = draws[best]
    behind = {
        method: Estimate(value - own, half_range(drawn - own_drawn, count), count)
        for method, (own, own_drawn) in draws.items()
    }
    return Comparison(change, behind, best)


def _differences(rows: Sequence[Scores], before: Sequence[Scores]) -> dict[str, Estimate]:
    """The mean difference of every score that a record has under both."""
    found = {}
    for name in rows[0]:
        pairs = [(a[name], b[name]) for a, b in zip(rows, before, strict=True) if name in b]
        values = [a - b for a, b in pairs if not math.isnan(a - b)]
        if values:
            found[name] = mean(values)
    return found
