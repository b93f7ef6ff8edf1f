"""Portability as EasyEdit reports it (arXiv 2305.13172, 2401.01286): with the answers fed in.

The share of an answer's tokens that are the likeliest, each given the right ones before it. An editor that raises the
new object everywhere passes much of it, so the name says legacy; `ripple` asks the same probes without the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factedit.data.probes import ALIASING, LOGIC, REASONING, Probe, probes_of
from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Metric, Outcome, mean_of
from factedit.evaluate.probability import Question
from factedit.facts import FactRecord

KINDS = {"portability_reasoning": REASONING, "portability_alias": (ALIASING,), "portability_logic": (LOGIC,)}
_SOURCE = "arXiv 2305.13172; 2401.01286"


class Portability(Metric):
    """Answers of what follows from edits, fed in."""

    name = "portability-legacy"
    what = "are the tokens of what follows from the edit the likeliest, the answer fed in"
    source = _SOURCE
    columns = (
        *(Column(name, f"share of the answer's tokens that are the likeliest; {name.partition('_')[2]} probes",
                 source=_SOURCE) for name in KINDS),
        Column("portability_legacy", "the same of all these probes", source=_SOURCE),
    )  # fmt: skip

    @classmethod
    def for_records(
        cls, records: Sequence[FactRecord], *, references: Path | None = None, **settings: Any
    ) -> Portability | None:
        """Return the metric, or None where no record brings such probes."""
        del references, settings
        return cls() if any(map(_probes, records)) else None

    def lacks(self, record: FactRecord) -> str:
        """Return probes."""
        return "" if _probes(record) else "probes of what follows from it (portability)"

    def asks(self, record: FactRecord) -> list[Question]:
        """Return every probe with the usual name of its answer."""
        return [Question(probe.prompt, probe.answers[0]) for probe in _probes(record)]

    def scored(self, answered: Answered) -> Outcome:
        """Return the accuracies by kind and over all probes."""
        probes = _probes(answered.record)
        accuracies = [100.0 * score.accuracy if score.executed else None for score in answered.replies]
        by_kind: dict[str, list[float | None]] = {
            name: [value for probe, value in zip(probes, accuracies, strict=True) if probe.kind in kinds]
            for name, kinds in KINDS.items()
        }
        means = {name: mean_of(values) for name, values in (by_kind | {"portability_legacy": accuracies}).items()}
        scores = {name: mean for name, (mean, _) in means.items()}
        return Outcome(scores, {}, {name: tests for name, (_, tests) in means.items()})


def _probes(record: FactRecord) -> list[Probe]:
    kinds = {kind for group in KINDS.values() for kind in group}
    return [probe for probe in probes_of(record) if probe.kind in kinds]
