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
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from factedit import __version__
from factedit.cache import write_atomic
from factedit.errors import UsageError
from factedit.evaluate.estimates import plus_minus
from factedit.report.colours import LINES, map_of, white_at
from factedit.safe import safe_text
from factedit.trace.effects import ROLES, Averages, TraceResult
from factedit.trace.sweep import SEVERED

NAMES = {
    "hidden": "single hidden state h",
    "mlp": "MLP outputs",
    "attn": "attention outputs",
    SEVERED[0]: "hidden state, MLP severed",
    SEVERED[1]: "hidden state, attention severed",
}
FORMATS = (".png", ".svg", ".pdf")


def trace_figure(trace: TraceResult, *, edited: Sequence[int] = ()) -> Figure:
    """Return one heat map per kind: rows are tokens (the subject's starred), columns are layers, shade is what was
    measured of the restored run; white is the corrupted run, so an effect of zero.

    Args:
        trace: the trace.
        edited: layers to frame.
    """
    kinds = list(trace.scores)
    height = 1.2 + 0.24 * len(trace.tokens)
    figure = Figure(figsize=(4.4 * len(kinds), height), layout="constrained")
    begin, end = trace.subject_range
    labels = [f"{token}{'*' if begin <= i < end else ''}" for i, token in enumerate(_printable(trace.tokens))]
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
        grid = np.array(trace.scores[kind])
        _heat(figure, axes, grid, kind, zero=trace.corrupted, label=trace.measured)
        axes.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize=8)
        window = "" if kind.startswith("hidden") else f" (window of {trace.window} layers)"
        axes.set_title(f"Restoring {NAMES[kind]}{window}", fontsize=9)
        for layer in edited:
            axes.add_patch(Rectangle((layer, 0), 1, len(labels), fill=False, edgecolor="black", linewidth=1.2))
    by = f"in place of another subject, {trace.other_subject}" if trace.other_subject else (
        f"{trace.samples} noise samples, ν = {trace.noise:.3g}"
    )  # fmt: skip
    framed = f"framed: the edited layer {', '.join(map(str, edited))}" if edited else ""
    apart = ",\n" if len(kinds) == 1 else ", "  # one map is narrow
    figure.suptitle(f"{trace.model}, n = 1 prompt, {by}{apart if framed else ''}{framed}", fontsize=8)
    return figure


def averages_figure(averages: Averages, *, model: str = "", window: int | None = None) -> Figure:
    """Return per kind a heat map of roles by layers and, under it, the curves with their 95 % bands.

    Args:
        averages: the averages.
        model: its name, for the title.
        window: layers that were restored together, for the title.
    """
    kinds = list(averages.curves)
    figure = Figure(figsize=(4.6 * len(kinds), 5.6), layout="constrained")
    above, below = figure.subplots(2, len(kinds), squeeze=False, height_ratios=(1, 1.5))
    for axes, lines, kind in zip(above, below, kinds, strict=True):
        curves = averages.curves[kind]
        roles = [role for role in ROLES if role in curves]
        _heat(figure, axes, 100 * np.array([curves[role].mean for role in roles]), kind)
        axes.set_yticks(np.arange(len(roles)) + 0.5, [f"{r} (n {curves[r].n})" for r in roles], fontsize=7)
        wide = f" (window of {window} layers)" if window and not kind.startswith("hidden") else ""
        axes.set_title(f"AIE of {NAMES[kind]}{wide}, %", fontsize=9)
        _curves(lines, [(role, curves[role].mean, curves[role].half_width) for role in roles])
    handles, names = below[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=7, frameon=False)
    ate, half = averages.total_effect
    whose = f"{model}: " if model else ""
    figure.suptitle(
        f"{whose}{averages.facts} facts of {averages.asked}: ATE {plus_minus(100 * ate, 100 * half)} %; "
        "bands: 95 % intervals",
        fontsize=9,
    )
    return figure


def _heat(figure: Figure, axes: Axes, grid: np.ndarray, kind: str, *, zero: float = 0.0, label: str = "") -> None:
    """A heat map with its bar, which shows the values that there are."""
    least, most = min(zero, float(grid.min())), max(zero, float(grid.max()))
    image = axes.pcolormesh(grid, cmap=map_of(kind), norm=white_at(zero, least, most))
    axes.invert_yaxis()
    _layers(axes, grid.shape[1])
    bar = figure.colorbar(image, ax=axes)
    if most > least:
        bar.ax.set_ylim(least, most)
    bar.ax.tick_params(labelsize=7)
    if label:
        bar.ax.set_title(label, fontsize=8, y=-0.14)


def _curves(axes: Axes, rows: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> None:
    for (role, mean, half), colour in zip(rows, LINES, strict=False):
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
        UsageError: a suffix that is none of `FORMATS`.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"A figure can be written as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, "
            f"not {suffix or 'without a suffix'}."
        )
    return suffix


def as_bytes(figure: Figure, suffix: str) -> bytes:
    """Return the figure as a file of one of `FORMATS`; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    for text in figure.findobj(Text):  # of models and of others: no formulas, and no orders to a terminal in an .svg
        text.set_parse_math(False)
        text.set_text(safe_text(text.get_text()))
    made_by = f"factedit {__version__}"
    metadata = {".svg": {"Date": None, "Creator": made_by}, ".pdf": {"CreationDate": None, "Creator": made_by}}.get(
        suffix, {"Software": made_by}
    )
    with rc_context({"text.parse_math": False}):
        figure.savefig(buffer, format=suffix[1:], dpi=150, metadata=metadata)
    return buffer.getvalue()


def write_figure(figure: Figure, path: Path) -> None:
    """Write the figure; the suffix names the format.

    Raises:
        UsageError: a suffix that is none of `FORMATS`.
        ResourceError: the file cannot be written.
    """
    write_atomic(path, as_bytes(figure, check_suffix(path)))
