"""What a score is, apart from how it is computed; and what edits cost, which is told beside the scores."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple


class Column(NamedTuple):
    """One score: a column of the tables.

    Attributes:
        name: of the score.
        what: one sentence for people.
        better: whether higher or lower values are wanted.
        low, high: the range of its values.
        source: where it is from.
        needs: another score and what the unedited model must reach in it, on average, for this one to say anything;
            below it is not given.
        decimals: that tables show.
    """

    name: str
    what: str
    better: Literal["higher", "lower"] = "higher"
    low: float = 0.0
    high: float = 100.0
    source: str = ""
    needs: tuple[str, float] | None = None
    decimals: int = 1


SECONDS, MEMORY = "seconds_per_edit", "peak_memory_mb"
COSTS = (
    Column(SECONDS, "seconds that making an edit took, on average", better="lower", high=math.inf),
    Column(MEMORY, "the most memory that making or scoring them took, in MB", better="lower", high=math.inf),
)
