"""Small tables as markup, where no script draws, and the colours of objects on every page; the standard library alone.

One language of colour: the new object, the old object, anything else. The pair is safe for the colour-blind and has a
contrast of more than 4.5 on white; `drawings/drawings.css` has the same, and a lighter pair for dark pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from factedit.safe import safe_text

NEW, OLD, OTHER = "#b34700", "#0062a3", "#6b7280"
PURPLE, GREEN, RED, BLUE = (88, 60, 146), (32, 112, 72), (168, 44, 36), (0, 98, 163)  # of maps, as in the paper
GREY = (77, 77, 77)  # of maps: less than nothing
_MOST, _LIGHT = 0.98, 0.7  # opacity of the darkest shade; the share above which text on it is white


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: what it shows.
        share: 0 to 1, how dark it is.
        hue: red, green, blue; of its shade.
        title: what is said where one points at it.
    """

    text: str = ""
    share: float | None = None
    hue: tuple[int, int, int] = BLUE
    title: str = ""


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> str:
    """Return a table whose first cells are the heads of its rows; every text is escaped.

    Args:
        caption: above it.
        head: of the columns; empty for none.
        rows: the cells.
    """
    top = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(_cell(cell, first=not n) for n, cell in enumerate(row))}</tr>" for row in rows)
    return f"<table><caption>{_text(caption)}</caption>{f'<thead><tr>{top}</tr></thead>' if top else ''}{body}</table>"


def _cell(cell: str | Cell, *, first: bool) -> str:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    shade = "" if cell.share is None else f' style="{_shade(cell.hue, cell.share)}"'
    title = f' title="{_text(cell.title)}"' if cell.title else ""
    inside = _text(cell.text)
    return f'<th scope="row"{title}>{inside}</th>' if first else f"<td{shade}{title}>{inside}</td>"


def _shade(hue: tuple[int, int, int], share: float) -> str:
    light = "; color: #fff" if share > _LIGHT else ""
    return f"background: rgb({' '.join(map(str, hue))} / {_MOST * min(1.0, max(0.0, share)):.3f}){light}"


def _text(text: str) -> str:
    return escape(safe_text(text))
