"""The colours of pages and figures, safe for the colour-blind (Okabe and Ito 2008; Tol 2021).

Two of them mean the same everywhere: the new object and the old one. Lines of other things have neither.
"""

from __future__ import annotations

from matplotlib.colors import CenteredNorm, LinearSegmentedColormap

NEW, OLD = "#d55e00", "#0072b2"  # the object that an edit gives, and the one that was there
LINES = ("#332288", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
BELOW = "#4d4d4d"  # of a heat map: less than nothing
KINDS = {"hidden": "#4b2991", "mlp": "#006d4b", "attn": "#a50f15"}  # as in the paper: purple, green, red
OTHER_KINDS = "#1f4e79"


def map_of(kind: str) -> LinearSegmentedColormap:
    """Return the colours of a heat map of a kind of state: white in the middle, grey below, the kind's own above."""
    return LinearSegmentedColormap.from_list(kind, [BELOW, "#ffffff", KINDS.get(kind, OTHER_KINDS)])


def white_at(zero: float, least: float, most: float) -> CenteredNorm:
    """Return what puts the white of `map_of` at a value, both sides on one scale.

    Args:
        zero: what is white.
        least, most: of the values that are drawn.
    """
    half = max(most - zero, zero - least)
    return CenteredNorm(zero, half if half > 0 else 1.0)
