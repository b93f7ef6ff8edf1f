"""The scores of the paper's tables, and their intervals (ROME, arXiv 2202.05262, section 3.4 and tables 1, 4).

All are shares or differences of probabilities, × 100. The unit of an interval is the record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factedit.errors import UsageError

Z95 = 1.959963984540054
RESAMPLES = 2000
PARTS_OF_S = ("ES", "PS", "NS")


@dataclass(frozen=True)
class Estimate:
    """A mean over records with the half-width of its 95 % interval.

    Attributes:
        value: the mean.
        half_width: of the 95 % interval; NaN where n is 1.
        n: records.
    """

    value: float
    half_width: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1f} ±{self.half_width:.1f}"


def mean(values: Sequence[float]) -> Estimate:
    """The mean with its normal 95 % interval.

    Raises:
        UsageError: no values: an average over nothing is not zero.
    """
    n = len(values)
    if not n:
        raise UsageError("An average over no records was asked for; evaluate at least one.")
    middle = math.fsum(values) / n
    if n == 1:
        return Estimate(middle, math.nan, 1)
    spread = math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (n - 1))
    return Estimate(middle, Z95 * spread / math.sqrt(n), n)


def pairs(wanted: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Success and magnitude over prompts: how often, and by how much, the wanted probability is the larger (× 100)."""
    differences = [a - b for a, b in zip(wanted, other, strict=True)]
    if not differences:
        return math.nan, math.nan
    return 100 * sum(d > 0 for d in differences) / len(differences), 100 * math.fsum(differences) / len(differences)


def harmonic(values: Sequence[float]) -> float:
    """The harmonic mean; 0 where one of the values is 0."""
    return 0.0 if min(values) <= 0 else len(values) / math.fsum(1 / v for v in values)


def summary_score(rows: Sequence[Mapping[str, float]], *, seed: int = 0) -> Estimate:
    """S, the harmonic mean of the means of ES, PS and NS, with a bootstrap interval over records."""
    value, drawn = summary_draws(rows, seed=seed)
    return Estimate(value, half_range(drawn, len(rows)), len(rows))


def summary_draws(rows: Sequence[Mapping[str, float]], *, seed: int) -> tuple[float, np.ndarray]:
    """S of the records, and of resamples of them; the same seed draws the same records whatever the method."""
    table = np.array([[row[name] for name in PARTS_OF_S] for row in rows])
    drawn = np.random.default_rng(seed).integers(0, len(rows), (RESAMPLES, len(rows)))
    return harmonic(list(table.mean(0))), np.array([harmonic(list(means)) for means in table[drawn].mean(1)])


def has_summary(row: Mapping[str, float]) -> bool:
    """Whether a record has the three scores that S is of."""
    return not any(math.isnan(row.get(name, math.nan)) for name in PARTS_OF_S)


def half_range(drawn: np.ndarray, n: int) -> float:
    """Half the width of the middle 95 % of a statistic's resamples; NaN where they resample a single record."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(high - low) / 2 if n > 1 else math.nan


def summarise(rows: Sequence[Mapping[str, float]], *, seed: int = 0) -> dict[str, Estimate]:
    """Every score of the records with its interval; S too where its parts are there.

    Records that lack a score (NaN) do not count towards it.

    Raises:
        UsageError: no records.
    """
    if not rows:
        raise UsageError("A summary of no records was asked for; evaluate at least one.")
    found: dict[str, Estimate] = {}
    for name in rows[0]:
        values = [row[name] for row in rows if not math.isnan(row[name])]
        if values:
            found[name] = mean(values)
    whole = [row for row in rows if has_summary(row)]
    if whole:
        found["S"] = summary_score(whole, seed=seed)
    return found
