"""Tables whose numbers and names stay whole: wrapped between words, else cut into several of the same first column."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.table import Table

from factedit.safe import safe_text

KEPT_WHOLE = 24  # a cell of so many characters is never wrapped: "95.2 ±1.0", "rome-original"
LONGEST_WORD = 40  # longer ones are folded where need be
BESIDE = 3  # characters around every cell: two of padding, one line


def width_of(table: Table) -> int:
    """Return the width a table of strings takes where nothing is wrapped."""
    return _together([_widths(table, n)[1] for n in range(len(table.columns))])


def parts(table: Table, width: int) -> list[Table]:
    """Return the table, or several that hold its columns between them, each at most so wide wherever its words allow.

    Args:
        table: every cell a string.
        width: of the terminal, in characters.
    """
    widths = [_widths(table, n) for n in range(len(table.columns))]
    groups: list[list[int]] = [[0]]
    for n in range(1, len(widths)):
        if len(groups[-1]) > 1 and _together([widths[k][0] for k in (*groups[-1], n)]) > width:
            groups.append([0])
        groups[-1].append(n)
    fitted = [_fitted([widths[n] for n in group], width) for group in groups]
    return [
        _part(table, group, column_widths, first=not k)
        for k, (group, column_widths) in enumerate(zip(groups, fitted, strict=True))
    ]


def _part(table: Table, columns: Sequence[int], widths: Sequence[int], *, first: bool) -> Table:
    """Some columns of a table, the title over the first part alone."""
    made = Table(title=table.title if first else None, show_header=table.show_header)
    for n, width in zip(columns, widths, strict=True):
        old = table.columns[n]
        made.add_column(old.header, justify=old.justify, width=width, overflow="fold")
    for row in zip(*(table.columns[n].cells for n in columns), strict=True):
        made.add_row(*row)
    return made


def _together(widths: Sequence[int]) -> int:
    return sum(widths) + BESIDE * len(widths) + 1


def _widths(table: Table, column: int) -> tuple[int, int]:
    """The least and the full width of a column."""
    cells = [str(table.columns[column].header)] if table.show_header else []
    cells += [safe_text(str(cell)) for cell in table.columns[column].cells]  # as it will be shown
    lines = [line for cell in cells for line in cell.split("\n")]
    return max(map(_least, lines), default=0), max(map(cell_len, lines), default=0)


def _least(line: str) -> int:
    """The width at which a line can be wrapped without breaking what belongs together."""
    full = cell_len(line)
    return full if full <= KEPT_WHOLE else min(LONGEST_WORD, max(map(cell_len, line.split()), default=0))


def _fitted(widths: Sequence[tuple[int, int]], width: int) -> list[int]:
    """Widths between least and full that fit, the widest columns giving way first."""
    fitted = [full for _, full in widths]
    while _together(fitted) > width:
        spare = [(fitted[n], n) for n, (least, _) in enumerate(widths) if fitted[n] > least]
        if not spare:
            break
        fitted[max(spare)[1]] -= 1
    return fitted
