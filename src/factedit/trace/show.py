"""A trace as it is drawn: on the demo's page, in notebooks, and as tables where nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence

from factedit.markup import BLUE, GREEN, GREY, PURPLE, RED, Cell, table
from factedit.markup.frozen import Drawing, in_notebook
from factedit.trace.effects import TraceResult

HUES = {"hidden": PURPLE, "mlp": GREEN, "attn": RED}  # as in the paper's figures
SHADED = 1000  # cells of a trace; larger ones have their numbers alone, so that they stay small
_HEAD, _MAP, _TOKEN = 330, 90, 23  # pixels: above the maps, of a map beside its rows, of a row


def trace_drawing(trace: TraceResult, *, edited: Sequence[int] = (), marked: str = "") -> Drawing:
    """Return what a trace is drawn from.

    Args:
        trace: the trace.
        edited: layers to mark.
        marked: what is marked about them, in words: "which is edited".
    """
    told = trace.as_stored() | {"edited_layers": list(edited), "notes": trace.notes()}
    told |= {"marked": marked} if marked else {}
    return Drawing("trace", told, "".join(_table(trace, kind) for kind in trace.scores))


def trace_html(trace: TraceResult) -> str:
    """Return a trace for a notebook."""
    height = _HEAD + len(trace.scores) * (_MAP + _TOKEN * len(trace.tokens))
    return in_notebook(f"Causal trace of “{trace.prompt}”", trace_drawing(trace), height=height)


def _table(trace: TraceResult, kind: str) -> str:
    """Tokens by layers: what was measured, white where it is that of the corrupted run."""
    grid, zero = trace.scores[kind], trace.corrupted
    most = max(abs(value - zero) for row in grid for value in row) or 1.0
    begin, end = trace.subject_range
    hue, shaded = HUES.get(kind, BLUE), len(trace.scores) * len(grid) * len(grid[0]) <= SHADED

    def cell(value: float) -> Cell:
        share = abs(value - zero) / most if shaded else None
        return Cell(f"{value:.3f}", share, hue if value >= zero else GREY)

    names = [f"{token}{'*' * (begin <= n < end)}" for n, token in enumerate(trace.tokens)]
    rows: list[list[str | Cell]] = [[name, *map(cell, row)] for name, row in zip(names, grid, strict=True)]
    runs = f"clean {trace.clean:.3f}, corrupted {zero:.3f}"
    caption = f"{trace.prompt} → {trace.answer.strip()}: {kind}, {trace.measured} by token and layer, {runs}"
    return table(caption, ["", *map(str, range(len(grid[0])))], rows)
