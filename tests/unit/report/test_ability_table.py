"""Abilities as a table."""

from __future__ import annotations

import io
import math
from typing import Any

from rich.console import Console

from factedit.report.ability import ability_table


def printed(rows: dict[str, Any]) -> list[list[str]]:
    """The lines of a table, each as its cells."""
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(ability_table(rows))
    lines = console.export_text().splitlines()
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines if "│" in line]


def compared(**own: Any) -> dict[str, Any]:
    usual = {"unit": "% right", "n": 4, "before": 50.0, "after": 25.0, "difference": -25.0, "half_width": 3.456}
    return {"unedited": {}, "compared": {**usual, "changed": 75.0, **own}}


def test_differences_stand_with_their_intervals() -> None:
    rows = {
        "arc-easy": compared(),
        "sst2": compared(n=1, difference=0.0, half_width=math.nan),
        "perplexity": compared(unit="nats", difference=2.0, half_width=0.5, changed=math.nan),
    }
    assert printed(rows) == [
        ["arc-easy", "% right", "4", "50.00", "25.00", "-25.00 ±3.46", "75.0"],
        ["sst2", "% right", "1", "50.00", "25.00", "+0.00", "75.0"],
        ["perplexity", "nats", "4", "50.00", "25.00", "+2.00 ±0.50 nats a text", "–"],
    ]


def test_without_edits_the_scores_stand_alone() -> None:
    rows = {"lambada": {"unedited": {"acc": 0.25, "perplexity": 12.0}, "compared": None}}
    assert printed(rows) == [["lambada", "acc", "0.2500"], ["lambada", "perplexity", "12.0000"]]
