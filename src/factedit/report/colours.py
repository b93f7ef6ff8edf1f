"""The colours of figures, safe for the colour-blind (after Okabe and Ito 2008 and Tol 2021, dark enough for thin lines
on white: a contrast of 3 and more); those of the page are the same.

Those of the new and the old object are `markup.NEW` and `markup.OLD`, everywhere; lines of other things have neither.
"""

from __future__ import annotations

from matplotlib.colors import CenteredNorm, LinearSegmentedColormap

from factedit.markup import BLUE, GREEN, GREY, PURPLE, RED

LINES = ("#332288", "#007a58", "#b3588c", "#b87c00", "#2b8cc4", "#666666")
HUES = {"hidden": PURPLE, "mlp": GREEN, "attn": RED}  # as in the paper


def map_of(kind: str) -> LinearSegmentedColormap:
    """Return the colours of a heat map of a kind of state: white in the middle, grey below, the kind's own above."""
    below, above = ("#{:02x}{:02x}{:02x}".format(*hue) for hue in (GREY, HUES.get(kind, BLUE)))
    return LinearSegmentedColormap.from_list(kind, [below, "#ffffff", above])


def white_at(zero: float, least: float, most: float) -> CenteredNorm:
    """Return what puts the white of `map_of` at a value, both sides on one scale.

    Args:
        zero: what is white.
        least, most: of the values that are drawn.
    """
    half = max(most - zero, zero - least)
    return CenteredNorm(zero, half if half > 0 else 1.0)
