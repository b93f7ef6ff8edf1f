"""Traced effect and success of edits by layer, and what the one explains of the other (arXiv 2301.04213)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from factedit.evaluate.regression import Fit, means_by_layer
from factedit.trace.effects import Z95

COLOURS = ("#5b3a8c", "#b5413c", "#4c9a6a", "#c08a2e", "#3f6fa8", "#7a7a7a")
CurvesByName = Mapping[str, Sequence[Sequence[float]]]
Fits = Mapping[tuple[str, str], Fit]


def locate_figure(
    layers: Sequence[int], effects: CurvesByName, success: CurvesByName, fits: Fits, *, model: str, kind: str
) -> Figure:
    """Return three panels: effect by layer and window, success by layer and method, R² of both models.

    Args:
        layers: on the axis.
        effects: per window, fact and layer.
        success: per method, fact and layer.
        fits: per method and window.
        model: its name, for the title.
        kind: whose states were restored.
    """
    figure = Figure(figsize=(13.2, 3.8), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    _curves(first, layers, effects, label="window {}" if kind != "hidden" else "hidden state")
    first.set_title(f"traced effect ({kind}, last subject token)", fontsize=10)
    _curves(second, layers, success, label="{}")
    second.set_title("success of an edit at the layer", fontsize=10)
    for axes in (first, second):
        axes.set_xlabel("layer", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=7.5, frameon=False)
    _bars(third, fits)
    count = max(fit.facts for fit in fits.values())
    figure.suptitle(f"Does tracing tell where to edit? {model}, {count} facts; bands: 95 % intervals", fontsize=10)
    return figure


def _curves(axes: Axes, layers: Sequence[int], rows: CurvesByName, *, label: str) -> None:
    for n, (name, values) in enumerate(rows.items()):
        middle = means_by_layer(values)
        off = [[value - mean for value, mean in zip(row, middle, strict=True)] for row in values]
        count = np.isfinite(np.array(off)).sum(0)
        spread = np.sqrt(np.nansum(np.square(off), axis=0) / np.maximum(count - 1, 1))
        band = np.where(count > 1, Z95 * spread / np.sqrt(np.maximum(count, 1)), 0.0)  # of one fact there is none
        colour = COLOURS[n % len(COLOURS)]
        axes.plot(layers, middle, color=colour, label=label.format(name), linewidth=1.5, marker=".", markersize=4)
        axes.fill_between(layers, middle - band, middle + band, color=colour, alpha=0.15, linewidth=0)


def _bars(axes: Axes, fits: Fits) -> None:
    """Per method and window the R² of the layer, and on it what the effect adds."""
    names = [f"{method}, {window}" for method, window in fits]
    places = np.arange(len(fits))
    alone, gain = ([getattr(fit, what) for fit in fits.values()] for what in ("layer", "gain"))
    axes.barh(places, alone, color="#c9c4d4", label="layer alone")
    axes.barh(places, gain, left=alone, color="#b5413c", label="added by the effect")
    axes.set_yticks(places, names, fontsize=7.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title("R² of success (method, window)", fontsize=10)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7.5, frameon=False, loc="lower right")


def locate_table(fits: Fits, *, title: str) -> Table:
    """Return a row per method and window: R² of the effect, the layer and both, the difference and its tests."""
    table = Table(
        "method", "window", "n", "R² effect", "R² layer", "R² both", "added", "F", "p", "shuffled p", title=title
    )
    for (method, window), fit in fits.items():
        table.add_row(
            method, window, str(fit.n), *(f"{value:.3f}" for value in (fit.effect, fit.layer, fit.both, fit.gain)),
            f"{fit.f:.2f} ({fit.degrees[0]}, {fit.degrees[1]})", f"{fit.p:.2g}", f"{fit.shuffled:.3f}",
        )  # fmt: skip
    return table


def locate_markdown(fits: Fits) -> str:
    """Return the same as a Markdown table."""
    lines = ["| method | window | n | R² effect | R² layer | R² both | added | F | p | shuffled p |", "|---" * 10 + "|"]
    for (method, window), fit in fits.items():
        numbers = " | ".join(f"{value:.3f}" for value in (fit.effect, fit.layer, fit.both, fit.gain))
        test = f"{fit.f:.2f} ({fit.degrees[0]}, {fit.degrees[1]}) | {fit.p:.2g} | {fit.shuffled:.3f}"
        lines.append(f"| {method} | {window} | {fit.n} | {numbers} | {test} |")
    return "\n".join(lines) + "\n"
