"""How much of a success a layer explains, and how much more an effect measured there does (arXiv 2301.04213).

Two linear models of the success of an edit of one fact at one layer are compared: a mean of its own for every layer,
and besides a slope of its own on the effect for every layer. R² of both, their difference, and the F test of the
second against the first. Layers of one fact are not independent of each other, which the F test takes them for: beside
it stands a permutation test that deals the facts' effects out anew, whole facts at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from factedit.errors import UsageError

SHUFFLES = 999
FactsByLayer = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What two linear models explain.

    Attributes:
        n: observations: facts times layers, those without a number left out.
        facts: how many.
        layer: R² of the layer alone.
        effect: R² of the effect alone.
        both: R² of the layer and the effect in it.
        f: the F statistic of `both` against `layer`; NaN where nothing is left to test with.
        degrees: its degrees of freedom.
        p: its tail probability, as if observations were independent.
        shuffled: share of deals of the facts' effects that explain as much; see the module.
    """

    n: int
    facts: int
    layer: float
    effect: float
    both: float
    f: float
    degrees: tuple[int, int]
    p: float
    shuffled: float

    @property
    def gain(self) -> float:
        """R² that the effect adds to the layer."""
        return self.both - self.layer

    def as_json(self) -> dict[str, Any]:
        """Return every number."""
        return {**asdict(self), "gain": self.gain}


def fit(success: FactsByLayer, effect: FactsByLayer, *, seed: int = 0) -> Fit:
    """Compare the two models.

    Args:
        success: per fact and layer how far the edit there succeeded; NaN where there is none.
        effect: per fact and layer the effect that was traced there.
        seed: of the deals.

    Raises:
        UsageError: fewer than two facts or layers, or success that never differs.
    """
    y, x = np.array(success, dtype=float), np.array(effect, dtype=float)
    kept = np.isfinite(y) & np.isfinite(x)
    if y.ndim != 2 or min(y.shape) < 2 or kept.sum() < 3 or np.ptp(y[kept]) == 0:
        raise UsageError(
            f"{int(kept.sum())} numbers of {y.shape[0]} facts by layer leave nothing to explain: trace and edit at "
            "least two facts at two layers, where edits differ in success."
        )
    layer, first = np.nonzero(kept)[1], y[kept]
    alone, rank = _explained(_by_layer(layer, y.shape[1]), first)
    both, full = _explained(_with_slopes(layer, x[kept], y.shape[1]), first)
    slope, _ = _explained(np.column_stack([np.ones(len(first)), x[kept]]), first)
    more, rest = full - rank, len(first) - full
    f = ((both - alone) / more) / ((1 - both) / rest) if more > 0 and rest > 0 and both < 1 else math.nan
    drawn = np.random.default_rng(seed)
    as_much = 1
    for _ in range(SHUFFLES):
        dealt = x[drawn.permutation(len(x))]
        fine = kept & np.isfinite(dealt)
        explained, _ = _explained(_with_slopes(np.nonzero(fine)[1], dealt[fine], y.shape[1]), y[fine])
        as_much += explained >= both - 1e-12
    return Fit(
        n=len(first), facts=int(kept.any(1).sum()), layer=alone, effect=slope, both=both, f=f, degrees=(more, rest),
        p=f_tail(f, more, rest), shuffled=as_much / (SHUFFLES + 1),
    )  # fmt: skip


def means_by_layer(rows: FactsByLayer) -> np.ndarray:
    """Return per layer the mean over facts, of the numbers there are; NaN where there is none."""
    table = np.array(rows, dtype=float)
    there = np.isfinite(table)
    sums, counts = np.where(there, table, 0.0).sum(0), there.sum(0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _by_layer(layer: np.ndarray, layers: int) -> np.ndarray:
    columns: np.ndarray = np.eye(layers)[layer]
    return columns


def _with_slopes(layer: np.ndarray, effect: np.ndarray, layers: int) -> np.ndarray:
    columns = _by_layer(layer, layers)
    return np.column_stack([columns, columns * effect[:, None]])


def _explained(design: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """Return R² of least squares, and the rank of the design."""
    weights, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    left = float(((y - design @ weights) ** 2).sum())
    return 1 - left / float(((y - y.mean()) ** 2).sum()), int(rank)


def f_tail(f: float, more: int, rest: int) -> float:
    """Return P(F ≥ f) of an F distribution with `more` and `rest` degrees of freedom; NaN of NaN."""
    if math.isnan(f):
        return math.nan
    return beta_share(rest / (rest + more * f), rest / 2, more / 2)


def beta_share(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), by its continued fraction (Lentz's way)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(1 - x, b, a)
    front = math.exp(a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)) / a
    tiny, c, d, value = 1e-300, 1.0, 0.0, 1.0
    for n in range(400):
        m = n // 2
        if n == 0:
            term = 1.0
        elif n % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        value *= c * d
        if n and abs(1 - c * d) < 1e-15:
            break
    return front * (value - 1)
