"""Figures in the paper's layout (ROME, arXiv 2202.05262, figures 1 and 2): purple hidden, green MLP, red attention."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from factedit import __version__
from factedit.cache import write_atomic
from factedit.errors import UsageError
from factedit.safe import safe_text
from factedit.trace.effects import ROLES, Averages, TraceResult
from factedit.trace.sweep import SEVERED

COLOUR_MAPS = {"hidden": "Purples", "mlp": "Greens", "attn": "Reds"}
NAMES = {
    "hidden": "single hidden state h",
    "mlp": "MLP outputs",
    "attn": "attention outputs",
    SEVERED[0]: "hidden state, MLP severed",
    SEVERED[1]: "hidden state, attention severed",
}
LINE_COLOURS = ("#5b3a8c", "#8a6bbf", "#2f5d9b", "#4c9a6a", "#c58a2d", "#b5413c")
FORMATS = (".png", ".svg")


def _map_of(kind: str) -> str:
    return COLOUR_MAPS.get(kind, "Blues")


def trace_figure(trace: TraceResult) -> Figure:
    """Return one heat map per kind: rows are tokens (the subject's starred), columns are layers, shade is
    P*[answer].
    """
    kinds = list(trace.scores)
    height = 0.9 + 0.24 * len(trace.tokens)
    figure = Figure(figsize=(4.4 * len(kinds), height), layout="constrained")
    begin, end = trace.subject_range
    labels = [f"{token}{'*' if begin <= i < end else ''}" for i, token in enumerate(_printable(trace.tokens))]
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
        grid = np.array(trace.scores[kind])
        image = axes.pcolormesh(grid, cmap=_map_of(kind), vmin=min(trace.corrupted, float(grid.min())))
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize=8)
        _layers(axes, grid.shape[1])
        window = "" if kind.startswith("hidden") else f" (window of {trace.window} layers)"
        axes.set_title(f"Restoring {NAMES[kind]}{window}", fontsize=9)
        bar = figure.colorbar(image, ax=axes)
        bar.ax.set_title(f"p({trace.answer.strip()})", fontsize=8, y=-0.14)
        bar.ax.tick_params(labelsize=7)
    return figure


def averages_figure(averages: Averages) -> Figure:
    """Per kind a heat map of roles by layers and, under it, the curves with their 95 % bands."""
    kinds = list(averages.curves)
    figure = Figure(figsize=(4.6 * len(kinds), 5.6), layout="constrained")
    above, below = figure.subplots(2, len(kinds), squeeze=False, height_ratios=(1, 1.5))
    for axes, lines, kind in zip(above, below, kinds, strict=True):
        curves = averages.curves[kind]
        roles = [role for role in ROLES if role in curves]
        grid = 100 * np.array([curves[role].mean for role in roles])
        image = axes.pcolormesh(grid, cmap=_map_of(kind), vmin=min(0.0, float(grid.min())))
        axes.invert_yaxis()
        axes.set_yticks(np.arange(len(roles)) + 0.5, [f"{r} (n {curves[r].n})" for r in roles], fontsize=7)
        axes.set_title(f"AIE of {NAMES[kind]}, %", fontsize=9)
        _layers(axes, grid.shape[1])
        figure.colorbar(image, ax=axes).ax.tick_params(labelsize=7)
        _curves(lines, [(role, curves[role].mean, curves[role].half_width) for role in roles])
    handles, names = below[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=7, frameon=False)
    ate, half = averages.total_effect
    figure.suptitle(
        f"{averages.facts} facts of {averages.asked}: ATE {100 * ate:.1f} ±{100 * half:.1f} %; bands: 95 % intervals",
        fontsize=9,
    )
    return figure


def _curves(axes: Axes, rows: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> None:
    for (role, mean, half), colour in zip(rows, LINE_COLOURS, strict=False):
        x, middle, band = np.arange(len(mean)), 100 * np.array(mean), 100 * np.array(half)
        axes.plot(x, middle, color=colour, label=role, linewidth=1.4)
        axes.fill_between(x, middle - band, middle + band, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(0, color="#999999", linewidth=0.6)
    axes.set_ylabel("AIE, %", fontsize=8)
    axes.tick_params(labelsize=7)
    _layers(axes, len(rows[0][1]), middle=0)


def _layers(axes: Axes, count: int, *, middle: float = 0.5) -> None:
    shown = range(0, count, max(1, count // 9))
    axes.set_xticks(np.array(shown) + middle, [str(n) for n in shown], fontsize=7)
    axes.set_xlabel("layer", fontsize=8)


def _printable(tokens: Sequence[str]) -> list[str]:
    """Return tokens as labels: no line breaks."""
    return [safe_text(token).replace("\n", "⏎") for token in tokens]


def check_suffix(path: Path) -> str:
    """Return the suffix of a figure's file, if figures can be written so.

    Raises:
        UsageError: a suffix other than .png and .svg.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"A figure can be written as {' or '.join(FORMATS)}, not {suffix or 'without a suffix'}.")
    return suffix


def as_bytes(figure: Figure, suffix: str) -> bytes:
    """Return the figure as a .png or .svg file."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    for text in figure.findobj(Text):  # of models and of others: no formulas, and no orders to a terminal in an .svg
        text.set_parse_math(False)
        text.set_text(safe_text(text.get_text()))
    made_by = f"factedit {__version__}"
    metadata = {"Date": None, "Creator": made_by} if suffix == ".svg" else {"Software": made_by}
    with rc_context({"text.parse_math": False}):
        figure.savefig(buffer, format=suffix[1:], dpi=150, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure; the suffix names the format.

    Raises:
        UsageError: a suffix other than .png and .svg.
        ResourceError: the file cannot be written.
    """
    write_atomic(path, as_bytes(figure, check_suffix(path)))
