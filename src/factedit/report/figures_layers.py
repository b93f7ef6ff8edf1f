"""ROME's scores by edited layer and token (arXiv 2202.05262, figure 5): three panels of lines with 95 % bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from factedit.errors import UsageError
from factedit.evaluate.benchmark import LEGS, Legs
from factedit.evaluate.estimates import Estimate
from factedit.report.colours import LINES

LABELS = {"subject_first": "first subject token", "subject_last": "last subject token", "last": "last token"}
COLOURS = dict(zip(LABELS, (LINES[1], LINES[0], LINES[2]), strict=True))
Points = Mapping[tuple[str, int], Mapping[str, Estimate]]


def layers_figure(points: Points, *, unedited: Mapping[str, Estimate], model: str, legs: Legs) -> Figure:
    """Return the figure.

    Args:
        points: per token and layer the scores there.
        unedited: the scores of the unedited model, drawn as a dashed line.
        model: its name, for the title.
        legs: the scores of the three panels.

    Raises:
        UsageError: nothing to draw.
    """
    if not points:
        raise UsageError("There is no layer to draw; evaluate at least one.")
    figure = Figure(figsize=(12.6, 3.6), layout="constrained")
    for axes, title, name in zip(figure.subplots(1, len(legs)), LEGS, legs, strict=True):
        for token in dict.fromkeys(token for token, _ in points):
            x, curve = curve_of(points, token, name)
            middle = np.array([e.value for e in curve])
            band = np.nan_to_num(np.array([e.half_width for e in curve]))
            axes.plot(x, middle, color=COLOURS[token], label=LABELS[token], linewidth=1.5, marker=".", markersize=4)
            axes.fill_between(x, middle - band, middle + band, color=COLOURS[token], alpha=0.15, linewidth=0)
        before = unedited[name]
        axes.axhline(before.value, color="#888888", linewidth=0.9, linestyle="--", label="unedited")
        axes.set_title(f"{title} ({name})", fontsize=10)
        axes.set_xlabel("edited layer", fontsize=9)
        axes.set_ylim(-3, 103)
        axes.tick_params(labelsize=8)
    figure.axes[0].set_ylabel("score × 100", fontsize=9)
    figure.axes[0].legend(fontsize=7.5, frameon=False, loc="lower left")
    count = max(e.n for row in points.values() for e in row.values())
    figure.suptitle(f"ROME on {model} by edited layer and token, {count} records; bands: 95 % intervals", fontsize=10)
    return figure


def curve_of(points: Points, token: str, name: str) -> tuple[list[int], list[Estimate]]:
    """Return layers and values of a score at a token, layers ascending."""
    layers = sorted(layer for place, layer in points if place == token)
    return layers, [points[token, layer][name] for layer in layers]


def points_as_json(points: Points) -> list[dict[str, Any]]:
    """Return the points for machines."""
    return [
        {"token": token, "layer": layer, **{k: [e.value, e.half_width, e.n] for k, e in row.items()}}
        for (token, layer), row in points.items()
    ]
