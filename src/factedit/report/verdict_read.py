"""A verdict read back from its verdict.json, so that its page can be made again without the results it is of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from factedit.evaluate.estimates import Estimate
from factedit.report.verdict_rules import QUESTIONS, WORST, Figure, Limit, VerdictCell, VerdictTable, mark_of


def verdict_from(rows: Mapping[str, Any]) -> VerdictTable:
    """Return the cells of a verdict.json, its figures marked by the rules as they are now.

    A figure that no rule asks for any more is left out; what the unedited model could not do stays not measurable.

    Raises:
        KeyError, TypeError, ValueError: it is of another form.
    """
    return {
        str(method): {
            question.name: VerdictCell(tuple(_figures(question.rules, cells[question.name]["figures"])))
            for question in QUESTIONS
        }
        for method, cells in rows["methods"].items()
    }


def _figures(rules: tuple[Limit, ...], kept: Any) -> list[Figure]:
    by_score = {rule.score: rule for rule in rules}
    return [_figure(by_score[row["score"]], row) for row in kept if row["score"] in by_score]


def _figure(rule: Limit, row: Mapping[str, Any]) -> Figure:
    kept = WORST[WORST.index(row["mark"])]
    value = _estimate(row["value"])
    if math.isnan(value.value) and kept in ("holds", "partly", "fails"):  # judged, so it was infinite
        value = replace(value, value=math.inf)
    changes = rule.how in ("loses at most", "gains at most")
    judged = _estimate(row["judged"]) if changes else value
    mark = kept if kept == "not measurable" else mark_of(rule, judged)
    return Figure(str(row["score"]), str(row["dataset"]), int(row["facts"]), value, judged, mark, rule)


def _estimate(numbers: Any) -> Estimate:
    value, half, n = numbers
    return Estimate(_number(value), _number(half), int(n))


def _number(value: Any) -> float:
    """Return a number; NaN of what JSON has none for."""
    return math.nan if value is None else float(value)
