"""Means over records with their intervals, and figures made of several means.

The unit of an interval is the record. A record that lacks a score (NaN) does not count towards it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factedit.errors import UsageError
from factedit.trace.effects import Z95

RESAMPLES = 2000


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

    def told(self, decimals: int = 1) -> str:
        """Return the mean with its half-width, which one record has not."""
        return plus_minus(self.value, self.half_width, decimals)

    def __str__(self) -> str:
        return self.told()


Summary = Mapping[str, Mapping[str, Estimate]]  # per method its scores


def plus_minus(value: float, half_width: float, decimals: int = 1, *, sign: bool = False) -> str:
    """Return a mean in words with half of its interval, or alone where it has none (NaN).

    Args:
        value, half_width: the mean and half of its interval.
        decimals: of both.
        sign: show the plus of what is positive, as of a difference.
    """
    alone = f"{value:{'+' if sign else ''}.{decimals}f}"
    return alone if math.isnan(half_width) else f"{alone} ±{half_width:.{decimals}f}"


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean with its normal 95 % interval.

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


def harmonic(values: Sequence[float]) -> float:
    """Return the harmonic mean; 0 where one of the values is 0."""
    return 0.0 if min(values) <= 0 else len(values) / math.fsum(1 / v for v in values)


@dataclass(frozen=True)
class Headline:
    """One figure made of the means of several scores, with a bootstrap interval over records.

    Attributes:
        name: of the figure.
        what: one sentence.
        parts: the scores it is made of.
        combine: makes it of their means.
    """

    name: str
    what: str
    parts: tuple[str, ...]
    combine: Callable[[Sequence[float]], float] = harmonic

    def is_of(self, row: Mapping[str, float]) -> bool:
        """Return whether a record has all the scores that the figure is made of."""
        return not any(math.isnan(row.get(name, math.nan)) for name in self.parts)

    def draws(self, rows: Sequence[Mapping[str, float]], *, seed: int) -> tuple[float, np.ndarray]:
        """Return the figure of the records, and of resamples of them; a seed draws the same records whatever the
        method.
        """
        table = np.array([[row[name] for name in self.parts] for row in rows])
        drawn = np.random.default_rng(seed).integers(0, len(rows), (RESAMPLES, len(rows)))
        resampled = [self.combine(list(means)) for means in table[drawn].mean(1)]
        return self.combine(list(table.mean(0))), np.array(resampled)

    def estimate(self, rows: Sequence[Mapping[str, float]], *, seed: int) -> Estimate:
        """Return the figure with its interval, over records that have all its parts."""
        value, drawn = self.draws(rows, seed=seed)
        return Estimate(value, half_range(drawn, len(rows)), len(rows))


def half_range(drawn: np.ndarray, n: int) -> float:
    """Return half the width of the middle 95 % of a statistic's resamples; NaN where they resample a single record."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(high - low) / 2 if n > 1 else math.nan


def summarise(
    rows: Sequence[Mapping[str, float]], headlines: Sequence[Headline] = (), *, seed: int = 0
) -> dict[str, Estimate]:
    """Return every score of the records with its interval, and each headline whose parts some record has.

    Args:
        rows: per record its scores.
        headlines: figures made of several scores.
        seed: of the bootstrap.

    Raises:
        UsageError: no records.
    """
    if not rows:
        raise UsageError("A summary of no records was asked for; evaluate at least one.")
    estimates: dict[str, Estimate] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row and not math.isnan(row[name])]
        if values:
            estimates[name] = mean(values)
    for headline in headlines:
        whole = [row for row in rows if headline.is_of(row)]
        if whole:
            estimates[headline.name] = headline.estimate(whole, seed=seed)
    return estimates
