"""The columns of tables of scores: which there are, in which order, with how many decimals, and what each says."""

from __future__ import annotations

from factedit.evaluate.benchmarks.table import all_benchmarks
from factedit.evaluate.column import COSTS, Column
from factedit.evaluate.estimates import Summary
from factedit.evaluate.metrics.table import all_metrics
from factedit.evaluate.whole import COLUMNS as OF_A_MODEL


def columns_of(summary: Summary) -> list[str]:
    """Return the columns that any row has: published ones in their order, then metrics, what goes beyond, and costs."""
    present = dict.fromkeys(name for row in summary.values() for name in row)
    benchmarks = list(all_benchmarks().values())
    of_benchmarks = [
        name for b in benchmarks for name in (*([b.headline.name] if b.headline else ()), *(c.name for c in b.scores))
    ]
    published = {name for benchmark in benchmarks for name in benchmark.columns}
    metrics = [column.name for metric in all_metrics().values() for column in metric.columns]
    costs = [column.name for column in COSTS]
    others = [name for name in present if name not in {*of_benchmarks, *metrics, *costs}]
    first, beyond = [n for n in of_benchmarks if n in published], [n for n in of_benchmarks if n not in published]
    return [name for name in dict.fromkeys((*first, *metrics, *others, *beyond, *costs)) if name in present]


def decimals_of(name: str) -> int:
    """Return how many decimals a table shows of a score: its column's own; 1 of others."""
    return next((column.decimals for column in _known() if column.name == name), 1)


def sentences_of(summary: Summary) -> dict[str, str]:
    """Return what the columns of a table are, by their names; nothing of those that nobody explains."""
    headlines = (benchmark.headline for benchmark in all_benchmarks().values() if benchmark.headline is not None)
    said = {headline.name: headline.what for headline in headlines} | {one.name: one.what for one in _known()}
    return {name: said[name] for name in columns_of(summary) if name in said}


def _known() -> list[Column]:
    """Every column that is known: of benchmarks and metrics, of a whole model, of costs."""
    scored = (*all_benchmarks().values(), *all_metrics().values())
    return [*(c for one in scored for c in getattr(one, "scores", getattr(one, "columns", ()))), *OF_A_MODEL, *COSTS]
