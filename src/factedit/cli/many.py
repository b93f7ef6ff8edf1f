"""Options of commands that can put many facts on one model."""

from __future__ import annotations

from typing import Annotated

import typer

from factedit.errors import UsageError

TOGETHER = "Many facts on one model"
AtOnce = Annotated[int | None, typer.Option(min=1, rich_help_panel=TOGETHER, help="so many facts on one model at once")]
InSequence = Annotated[
    int | None,
    typer.Option("--sequence", min=1, rich_help_panel=TOGETHER, help="so many facts, one batch after the other"),
]
Checkpoints = Annotated[
    str,
    typer.Option(
        rich_help_panel=TOGETHER, help="after how many facts of a sequence to score, with commas; default: 1,10,32,…"
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        show_default=False,
        help="cases edited and scored together, a matter of memory only (32); of a sequence its step (100)",
    ),
]


def numbers_in(text: str) -> list[int]:
    """Return the numbers of a list with commas.

    Raises:
        UsageError: what is no number.
    """
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f"The checkpoints {text!r} are not written like 10,100,300.") from error
