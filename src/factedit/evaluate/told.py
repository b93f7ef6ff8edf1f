"""What must be told beside the scores of stored results: what was not edited, not measured, not executed.

Everywhere `results` is, per row of a table, the stored results by case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def not_edited(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of the stored results of one row those cases that a method could not edit, and why."""
    return {case: row["failed"] for case, row in rows.items() if "failed" in row}


def left_out(results: Results) -> dict[str, dict[str, dict[str, str]]]:
    """Per metric that has no scores somewhere: per row the cases without, and why."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for method, rows in results.items():
        for case, row in rows.items():
            for metric, why in row.get("left_out", {}).items():
                found.setdefault(metric, {}).setdefault(method, {})[case] = why
    return found


def tests_of(results: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Per score how many tests were executed and how many were not, over stored results that count them."""
    found: dict[str, list[int]] = {}
    for row in results:
        for name, counts in row.get("tests", {}).items():
            found[name] = [a + b for a, b in zip(found.get(name, (0, 0)), counts, strict=True)]
    return found


def not_executed(results: Results) -> dict[str, dict[str, list[int]]]:
    """Per row the scores of which some tests were not executed, of records that no metric left out; counts as above."""
    found = {}
    for method, rows in results.items():
        counts = tests_of([row for row in rows.values() if "left_out" not in row])
        missing = {name: own for name, own in counts.items() if own[1]}
        if missing:
            found[method] = missing
    return found
