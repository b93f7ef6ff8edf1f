"""Ripple effects: does the model hold what follows from an edit, and only that? (arXiv 2307.12976)

A probe counts only where the unedited model answers its condition (`data/probes.py`) and where the edit took: the
edited prompt is continued with the new object. It is passed where an alias of its answer stands in the continuation.
The published program also searches the prompt, so that a prompt which names the answer passes for nothing; that figure
stands beside ours. A record's score is passed / (passed + failed), averaged over records with an executed probe.

Departures: any of several answers will do (published: all of them); aliases are whole words, names of up to three
capitals in just these (published: any run of letters, so that the code "ar" is found in "are").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factedit.data.probes import (
    ALIASING,
    COMPOSITION_1,
    COMPOSITION_2,
    FORGETTING,
    LOGIC,
    PHRASES,
    SPECIFICITY,
    Condition,
    Probe,
    probes_of,
)
from factedit.evaluate.column import Column
from factedit.evaluate.metric import Answered, Metric, Outcome, digest_of, mean_of
from factedit.evaluate.metrics.free import FREE_TOKENS, free_match
from factedit.evaluate.texts import Greedy
from factedit.facts import FactRecord
from factedit.text import says_any

TOKENS = 30
COLUMNS = {
    COMPOSITION_1: ("ripple_compose_1", "the edited fact and a second one of the new object"),
    COMPOSITION_2: ("ripple_compose_2", "a fact that leads to the edited subject, and the edited one"),
    ALIASING: ("ripple_alias", "the edited fact under another name of the subject"),
    LOGIC: ("ripple_logic", "what follows from the kind of relation (siblings, inverse); no condition is known"),
    SPECIFICITY: ("ripple_specific", "other relations of the subject, which must stay"),
    FORGETTING: ("ripple_forget", "other objects of a relation that has several, which must stay"),
}
_SOURCE = "arXiv 2307.12976"


@dataclass(frozen=True)
class Ripple(Metric):
    """What follows from edits, by criterion.

    Attributes:
        probes: a hash of those of the whole set, for the key of a run.
        unknown: how many of these can never count, since no condition is known, and how many there are; to be told.
        tokens: that are written at most.
    """

    probes: str = field(default="", repr=False)
    unknown: tuple[int, int] = field(default=(0, 0), repr=False, compare=False)
    tokens: int = TOKENS

    name = "ripple"
    what = "does the model write what follows from the edit, and what must stay, where it knew the premise"
    source = f"{_SOURCE}, section 3"
    compares = True
    columns = (
        *(Column(name, f"probes passed: {what}", source=_SOURCE) for name, what in COLUMNS.values()),
        Column("ripple_all", "probes passed, all criteria together", source=_SOURCE),
        Column("ripple_published", "the same where the answer may also stand in the prompt, as published",
               source=_SOURCE),
    )  # fmt: skip

    @classmethod
    def for_records(
        cls, records: Sequence[FactRecord], *, references: Path | None = None, **settings: Any
    ) -> Ripple | None:
        """Return the metric, or None where no record brings probes."""
        del references
        every = [[record.case_id, *map(vars, probes)] for record in records if (probes := probes_of(record))]
        asked = [probe for record in records for probe in probes_of(record)]
        unknown = sum(probe.condition is None and probe.kind != LOGIC for probe in asked)
        return cls(digest_of(every), (unknown, len(asked)), **settings) if every else None

    def lacks(self, record: FactRecord) -> str:
        """Return probes."""
        return "" if probes_of(record) else "probes of what follows from it (portability, locality)"

    def asks(self, record: FactRecord) -> list[Greedy]:
        """Return the edited prompt, then every prompt of a probe or condition, each once."""
        return [Greedy(record.request.text, FREE_TOKENS), *(Greedy(text, self.tokens) for text in _prompts(record))]

    def scored(self, answered: Answered) -> Outcome:
        """Return the share of executed probes that are passed, by criterion and in all."""
        record, prompts = answered.record, _prompts(answered.record)
        now = dict(zip(prompts, answered.replies[1:], strict=True))
        before = dict(zip(prompts, answered.before[1:], strict=True))
        took = free_match(answered.replies[0], record.request.target_new)
        by_criterion: dict[str, list[float | None]] = {name: [] for name, _ in COLUMNS.values()}
        every: list[float | None] = []
        loose: list[float | None] = []
        for probe in probes_of(record):
            runs = took and _executed(probe, before)
            passed = 100.0 * says_any(now[probe.prompt], probe.answers) if runs else None
            if probe.kind in COLUMNS:
                by_criterion[COLUMNS[probe.kind][0]].append(passed)
            every.append(passed)
            loose.append(None if passed is None else 100.0 * says_any(probe.prompt + now[probe.prompt], probe.answers))
        means = {name: mean_of(values) for name, values in (by_criterion | _of_all(every, loose)).items()}
        texts = {"took": took, "ripple": {probe.prompt: now[probe.prompt] for probe in probes_of(record)}}
        return Outcome(
            {name: mean for name, (mean, _) in means.items()},
            texts,
            {name: tests for name, (_, tests) in means.items()},
        )

    def describe(self) -> dict[str, Any]:
        """Return the length, and a hash of probes and conditions."""
        return {"tokens": self.tokens, "probes": self.probes}

    def notes(self) -> dict[str, str]:
        """Return what counts as executed."""
        told = {
            "ripple effects": f"greedy, at most {self.tokens} tokens, an alias of the answer in the continuation; a "
            "probe counts where the edit took and the unedited model answers its condition (composition: the other "
            "fact; another name: the old object; what must stay: itself; logic: none)"
        }
        if self.unknown[0]:
            told["ripple conditions"] = (
                f"{self.unknown[0]} of the set's {self.unknown[1]} probes have no known condition and never count; "
                f"that of compositions is found by {PHRASES}, which lies beside the set's file"
            )
        return told


def _of_all(every: list[float | None], loose: list[float | None]) -> dict[str, list[float | None]]:
    return {"ripple_all": every, "ripple_published": loose}


def _executed(probe: Probe, before: dict[str, str]) -> bool:
    """Return whether the unedited model answers a probe's condition."""
    if probe.condition is None:
        return probe.kind == LOGIC
    return says_any(before[probe.condition.prompt], probe.condition.answers)


def _prompts(record: FactRecord) -> list[str]:
    prompts: dict[str, None] = {}
    for probe in probes_of(record):
        asked: tuple[Probe | Condition, ...] = (probe, probe.condition) if probe.condition else (probe,)
        prompts.update(dict.fromkeys(each.prompt for each in asked))
    return list(prompts)
