"""Stored results summed up: means with intervals, for tables and for machines."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.benchmarks.table import headlines_of
from factedit.evaluate.column import MEMORY, SECONDS
from factedit.evaluate.estimates import Estimate, summarise


def as_numbers(
    summary: Mapping[str, Estimate],
    failed: Mapping[str, str] | None = None,
    tests: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Return a summary for machines: n, the values, and under `ci` the half-widths of those that have an interval.

    Where some cases could not be edited, they stand with the reason under `not_edited`; counts of tests, where there
    are some, under `tests`.
    """
    intervals = {name: e.half_width for name, e in summary.items() if not math.isnan(e.half_width)}
    count = max(e.n for e in summary.values())
    told: dict[str, Any] = {"not_edited": dict(failed)} if failed else {}
    told |= {"tests": dict(tests)} if tests else {}
    return {"n": count, **{name: e.value for name, e in summary.items()}, "ci": intervals, **told}


def summary_of(
    results: Sequence[Mapping[str, Any]], benchmark: Benchmark | None = None, *, seed: int = 0
) -> dict[str, Estimate]:
    """Return the scores of stored results with their intervals, mean seconds per edit and peak memory.

    Args:
        results: of one row of a table.
        benchmark: whose headline is added; None: that of every known benchmark whose parts the scores are.
        seed: of the bootstrap.

    Raises:
        UsageError: no results.
    """
    scores = [row["scores"] for row in results]
    known = headlines_of(name for row in scores for name in row)
    of_benchmark = [] if benchmark is None or benchmark.headline is None else [benchmark.headline]
    summary = summarise(scores, known if benchmark is None else of_benchmark, seed=seed)
    times = [row[SECONDS] for row in results if SECONDS in row]
    if times:  # records of a chunk share their time, so their spread says nothing
        summary[SECONDS] = Estimate(statistics.fmean(times), math.nan, len(times))
    summary[MEMORY] = Estimate(max(row[MEMORY] for row in results), math.nan, len(results))
    return summary
