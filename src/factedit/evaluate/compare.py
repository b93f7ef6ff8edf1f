"""Two methods on the same records: the interval of their difference, record by record.

Records differ far more from each other than methods do on one record, so that overlapping intervals of two means
say little about the difference; its own interval, over the records that both have, is what decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.estimates import Estimate, Headline, half_range, mean

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Differences between the methods of a table.

    Attributes:
        change: per method and score the mean difference to the unedited model.
        behind: per method how far its headline is behind the best one's (bootstrap over records).
        best: the method of the best headline, if there is one.
    """

    change: Mapping[str, Mapping[str, Estimate]]
    behind: Mapping[str, Estimate]
    best: str | None = None


def compare(rows: Mapping[str, Mapping[str, Scores]], headline: Headline | None = None, *, seed: int = 0) -> Comparison:
    """Compare the methods of a table.

    Args:
        rows: per method (the unedited model among them) and record the scores; only records that methods have in
            common are compared.
        headline: what methods are ranked by.
        seed: of the bootstrap.
    """
    edited = {method: by_record for method, by_record in rows.items() if method != UNEDITED}
    change = {m: _differences(by_record, rows[UNEDITED]) for m, by_record in edited.items()} if UNEDITED in rows else {}
    whole = [] if headline is None else _common(edited, headline)
    if headline is None or not whole:
        return Comparison(change, {})
    draws = {m: headline.draws([by_record[record] for record in whole], seed=seed) for m, by_record in edited.items()}
    best = max(draws, key=lambda method: draws[method][0])
    value, drawn = draws[best]
    behind = {
        method: Estimate(value - other, half_range(drawn - other_drawn, len(whole)), len(whole))
        for method, (other, other_drawn) in draws.items()
    }
    return Comparison(change, behind, best)


def _common(rows: Mapping[str, Mapping[str, Scores]], headline: Headline) -> list[str]:
    """Return the records for which every method has all parts of the headline."""
    first: Mapping[str, Scores] = next(iter(rows.values()), {})
    return [record for record in first if all(headline.is_of(by_record.get(record, {})) for by_record in rows.values())]


def _differences(rows: Mapping[str, Scores], before: Mapping[str, Scores]) -> dict[str, Estimate]:
    """Return the mean difference of every score that a record has under both."""
    differences = {}
    for name in dict.fromkeys(name for row in rows.values() for name in row):
        pairs = [(row.get(name, math.nan), before.get(record, {}).get(name, math.nan)) for record, row in rows.items()]
        values = [a - b for a, b in pairs if not math.isnan(a - b)]
        if values:
            differences[name] = mean(values)
    return differences
