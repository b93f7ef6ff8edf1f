"""Small multiples of a verdict: a panel per figure, methods below each other, 95 % intervals, one colour per mark."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure as Drawing

from factedit.report.verdict_rules import QUESTIONS, Figure, Limit, VerdictTable

COLOURS = {  # of marks, wherever they stand; on white a contrast of 4.5 and more
    "holds": "#2f7d5b", "partly": "#96600f", "fails": "#b03a2e", "not measurable": "#6b6b6b", "told": "#4a5568",
    "not measured": "#737373",
}  # fmt: skip
DARK = {  # the same on a dark page
    "holds": "#74cfa5", "partly": "#e2b35c", "fails": "#f29186", "not measurable": "#aaaaaa", "told": "#b4bfd0",
    "not measured": "#9a9a9a",
}  # fmt: skip
SIGNS = {"holds": "●", "partly": "◐", "fails": "○", "not measurable": "?", "told": "·", "not measured": "–"}
SHAPES = {"holds": "o", "partly": "D", "fails": "X", "not measurable": "s", "told": "o"}


class ScorePanel(NamedTuple):
    """One score on one data set under all methods that have it.

    Attributes:
        question: whose.
        title: score and data set.
        rows: method and figure.
    """

    question: str
    title: str
    rows: Sequence[tuple[str, Figure]]


def panels(verdict: VerdictTable) -> list[ScorePanel]:
    """Return a panel per score, data set and number of facts, in the order of the questions."""
    by_panel: dict[tuple[str, str, str, int], list[tuple[str, Figure]]] = {}
    for question in QUESTIONS:
        for method, cells in verdict.items():
            for figure in cells[question.name].figures:
                key = question.name, figure.score, figure.dataset, figure.facts
                by_panel.setdefault(key, []).append((method, figure))
    return [
        ScorePanel(question, f"{score}, {dataset}" + (f", {facts} facts at once" if facts > 1 else ""), rows)
        for (question, score, dataset, facts), rows in by_panel.items()
    ]


def limits(rule: Limit) -> dict[str, float]:
    """Return where a rule's two limits lie on the axis of what is judged, by the mark that they bound."""
    if rule.how == "told":
        return {}
    side = -1 if rule.how == "loses at most" else 1
    return {"holds": side * rule.holds, "fails": side * rule.fails}


def draw(panel: ScorePanel) -> Drawing:
    """Return one panel; what is judged is drawn: the mean, or its change to the unedited model (line at 0), and the
    limits.
    """
    first = panel.rows[0][1]
    changed = first.judged is not first.value
    title = textwrap.wrap(panel.title + (", change" if changed else ""), 42)
    figure = Drawing(figsize=(3.9, 0.6 + 0.15 * len(title) + 0.26 * len(panel.rows)), layout="constrained")
    axes = figure.subplots()
    for row, (_, score) in enumerate(panel.rows):
        judged, colour = score.judged, COLOURS[score.mark]
        half = 0.0 if math.isnan(judged.half_width) else judged.half_width
        axes.errorbar(judged.value, row, xerr=half, fmt=SHAPES[score.mark], color=colour, markersize=5, capsize=2)
    if changed:
        axes.axvline(0, color="#9a9a9a", linewidth=0.8)
    for mark, at in limits(first.rule).items():
        axes.axvline(at, color=COLOURS[mark], linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    axes.set_yticks(range(len(panel.rows)), [method for method, _ in panel.rows], fontsize=8)
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.set_title("\n".join(title), fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
