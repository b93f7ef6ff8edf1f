"""Abilities as a table: scores of the unedited model, or differences over items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from factedit.evaluate.estimates import plus_minus


def ability_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a row per task, as `Abilities.as_json` gives them: what was asked before and after, or the scores alone.

    A task of texts is in nats a text and has no answers that could change.
    """
    if all(row["compared"] is None for row in rows.values()):
        table = Table("task", "score", "unedited")
        for name, row in rows.items():
            for score, value in row["unedited"].items():
                table.add_row(name, score, f"{value:.4f}")
        return table
    table = Table("task", "", "n", "unedited", "edited", "difference", "answers changed, %")
    for name, row in rows.items():
        compared = row["compared"]
        unit = " nats a text" if compared["changed"] != compared["changed"] else ""
        moved = plus_minus(compared["difference"], compared["half_width"], 2, sign=True)
        table.add_row(
            name, compared["unit"], str(compared["n"]), f"{compared['before']:.2f}", f"{compared['after']:.2f}",
            f"{moved}{unit}", "–" if unit else f"{compared['changed']:.1f}",
        )  # fmt: skip
    return table
