"""Which scores say something on a model: those whose task the unedited model can do at all."""

from __future__ import annotations

from collections.abc import Iterable

from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.column import Column
from factedit.evaluate.estimates import Estimate, Summary


def not_measurable(summary: Summary, columns: Iterable[Column]) -> dict[str, str]:
    """Return the scores that say nothing on this model, and why, by name.

    Args:
        summary: per row of a table its scores, the unedited model's among them.
        columns: of all that is measured.
    """
    reasons = {}
    for column in columns:
        if column.needs is None:
            continue
        name, least = column.needs
        reached = summary.get(UNEDITED, {}).get(name)
        if reached is None or reached.value < least:
            has = "nothing" if reached is None else f"{reached.value:.1f}"
            reasons[column.name] = (
                f"{column.name} is not measurable on this model: unedited it reaches {has} in {name}, and {least:g} is "
                "needed."
            )
    return reasons


def without(summary: Summary, names: Iterable[str]) -> dict[str, dict[str, Estimate]]:
    """Return a summary without some of its scores."""
    gone = set(names)
    return {
        row: {name: estimate for name, estimate in scores.items() if name not in gone}
        for row, scores in summary.items()
    }
