"""What must be told beside the scores of stored results: what was not edited, not measured, not executed.

Everywhere `results` is, per row of a table, the stored results by case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factedit.evaluate.metrics.table import all_metrics

StoredResults = Mapping[str, Mapping[str, Mapping[str, Any]]]


def not_edited(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return those cases of the stored results of one row that a method could not edit, and why."""
    return {case: row["failed"] for case, row in rows.items() if "failed" in row}


def left_out(results: StoredResults) -> dict[str, dict[str, dict[str, str]]]:
    """Return per metric that has no scores somewhere: per row the cases without, and why."""
    by_metric: dict[str, dict[str, dict[str, str]]] = {}
    for method, rows in results.items():
        for case, row in rows.items():
            for metric, why in row.get("left_out", {}).items():
                by_metric.setdefault(metric, {}).setdefault(method, {})[case] = why
    return by_metric


def tests_of(results: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Return per score how many tests were executed and how many were not, over stored results that count them."""
    totals: dict[str, list[int]] = {}
    for row in results:
        for name, counts in row.get("tests", {}).items():
            totals[name] = [a + b for a, b in zip(totals.get(name, (0, 0)), counts, strict=True)]
    return totals


def not_executed(results: StoredResults) -> dict[str, dict[str, list[int]]]:
    """Return per row the scores of which some tests were not executed, counts as above.

    Scores of a metric that left a record out are told by `left_out`, and do not count here again.
    """
    gone = {metric for rows in results.values() for row in rows.values() for metric in row.get("left_out", {})}
    known = all_metrics() if gone else {}
    columns = {metric: {column.name for column in known[metric].columns} for metric in gone & known.keys()}
    by_method = {}
    for method, rows in results.items():
        counts = tests_of([{"tests": _of_the_others(row, columns)} for row in rows.values()])
        missing = {name: count for name, count in counts.items() if count[1]}
        if missing:
            by_method[method] = missing
    return by_method


def _of_the_others(row: Mapping[str, Any], columns: Mapping[str, set[str]]) -> dict[str, Any]:
    """Return the counts of the scores of those metrics that did not leave the record out.

    Nothing where a metric did whose scores are not known here: a benchmark's own, or one that is not installed.
    """
    gone = row.get("left_out", {})
    if not gone.keys() <= columns.keys():
        return {}
    names = {name for metric in gone for name in columns[metric]}
    return {name: counts for name, counts in row.get("tests", {}).items() if name not in names}
