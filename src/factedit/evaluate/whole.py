"""What edits that are on a model together make of it as a whole: harm elsewhere, how far its matrices moved, the cost.

Kept in the store beside the records' rows, under a case of its own per round.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from factedit.evaluate.column import MEMORY, Column
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.harm import Probes
from factedit.evaluate.regime import Round
from factedit.evaluate.together import Together
from factedit.models.adapter import EditableModel

MARK = "(whole)"
PERPLEXITY, PANEL, MOVED = "perplexity", "panel", "moved"
COLUMNS = (
    Column(PERPLEXITY, "of text that the unedited model wrote", better="lower", low=1, high=math.inf, decimals=2),
    Column(PANEL, "other facts that the unedited model knows and that are still answered, in %"),
    Column(MOVED, "‖W' − W‖ / ‖W‖ over all edited matrices", better="lower", high=math.inf, decimals=4),
)


class Wholes:
    """Measures rounds of an evaluation.

    Args:
        model: the unedited model.
        subjects: of all records; facts about them are no part of what must stay.
    """

    def __init__(self, model: EditableModel, subjects: Iterable[str]) -> None:
        self.model, self.subjects = model, sorted(set(subjects))

    @cached_property
    def _probes(self) -> Probes:
        return Probes.of(self.model, without=self.subjects)

    def case(self, turn: Round) -> str:
        """Return the case under which a round is kept."""
        return f"{MARK} {digest(self.subjects)} {turn.records[0].case_id}"

    def measured(self, turn: Round) -> dict[str, Any]:
        """Return what there is to say of a round: `{harm, moved, facts, seconds, peak_memory_mb}`.

        `moved` is ‖W' − W‖ / ‖W‖ per matrix, e.g. `{"3 out": 0.41}`; `seconds` what making all edits took.
        """
        on = turn.under.shared or Together(self.model)
        harm = self._probes.under(self.model, on)
        moved = {
            f"{layer} {which}": float((new.float() - self.model.weight(layer, which).float()).norm())
            / self.model.matrix(layer, which).norm
            for (layer, which), new in sorted(on.weights.items())
        }
        cost = {"facts": turn.cost.facts, "seconds": turn.cost.seconds, MEMORY: turn.cost.peak_mb}
        return {"harm": harm.as_json(), MOVED: moved, **cost}


def wholes_in(results: Mapping[str, Mapping[str, Any]], subjects: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return the rounds among a run's stored results by case, measured for records of these subjects."""
    begins = f"{MARK} {digest(sorted(set(subjects)))} "
    return [row for case, row in sorted(results.items()) if case.startswith(begins)]


def mean_columns(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Return their means as columns of a table: `perplexity`, `panel`, and `moved`, the root of the sum of squares."""
    means = {}
    for name, values in {
        PERPLEXITY: [row["harm"][PERPLEXITY] for row in rounds],
        PANEL: [row["harm"][PANEL] for row in rounds],
        MOVED: [math.hypot(*row[MOVED].values()) for row in rounds],
    }.items():
        known = [value for value in values if value is not None]
        if known:
            means[name] = Estimate(statistics.fmean(known), math.nan, len(known))
    return means


def digest(subjects: Sequence[str]) -> str:
    """Return a name for a set of subjects."""
    return hashlib.sha256("\n".join(subjects).encode()).hexdigest()[:8]
