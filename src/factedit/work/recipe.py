"""What an evaluation's methods are made of, in names, files and numbers, so that another process can make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.measures import Measures
from factedit.evaluate.regime import Joint, Regime
from factedit.evaluate.regime import Sequence as InSequence
from factedit.evaluate.runner import Runner
from factedit.facts import FactRecord
from factedit.work.team import Team


@dataclass(frozen=True)
class Recipe:
    """An evaluation's methods as they were asked for; see `evaluate_dataset`.

    Attributes:
        dataset: its name, or a file of facts.
        methods: their names.
        trained, settings, preset, second_moment, corpus, references, inputs: as given.
        places: of a sweep of ROME: tokens and layers, in place of methods.
        team: who computes; None is this process.
    """

    dataset: str
    methods: tuple[str, ...]
    trained: Path | None = None
    settings: tuple[str, ...] = ()
    preset: str = "tuned"
    second_moment: Path | None = None
    corpus: str | None = None
    references: Path | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    places: tuple[tuple[str, int], ...] | None = None
    team: Team | None = None

    def runner(
        self, records: Sequence[FactRecord], benchmark: Benchmark, measures: Measures, regime: Regime | None
    ) -> Runner | None:
        """Return what computes the evaluation elsewhere; None where there is no team."""
        if self.team is None:
            return None
        asked = {
            "dataset": _path(self.dataset) if Path(self.dataset).is_file() else self.dataset,
            "methods": list(self.methods), "trained": _path(self.trained), "settings": list(self.settings),
            "preset": self.preset, "second_moment": _path(self.second_moment), "corpus": self.corpus,
            "references": _path(self.references),
            "inputs": {name: _path(value) for name, value in self.inputs.items() if isinstance(value, Path)},
            "words": {name: value for name, value in self.inputs.items() if isinstance(value, str)},
            "places": None if self.places is None else [list(place) for place in self.places],
            "ids": [record.case_id for record in records], "benchmark": benchmark.name,
            "metrics": [metric.name for metric in measures.metrics], "seed": measures.seed, "chunk": measures.chunk,
            "regime": regime_as_json(regime),
        }  # fmt: skip
        return self.team.evaluating(asked)


def _path(file: Path | str | None) -> str | None:
    """Return where a file is, whoever asks."""
    return None if file is None else str(Path(file).absolute())


def regime_as_json(regime: Regime | None) -> dict[str, Any] | None:
    """Return a regime of this house as JSON values; None for each fact on its own."""
    if isinstance(regime, Joint):
        return {"kind": "joint", "count": regime.count}
    if isinstance(regime, InSequence):
        settings = {"batch": regime.batch, "checkpoints": list(regime.checkpoints), "sample": regime.sample}
        return {"kind": "sequence", **settings}
    return None


def regime_of(asked: Mapping[str, Any] | None) -> Regime | None:
    """Return the regime that `regime_as_json` gave."""
    if asked is None:
        return None
    fields = dict(asked)
    kind = fields.pop("kind")
    return Joint(**fields) if kind == "joint" else InSequence(**fields | {"checkpoints": tuple(fields["checkpoints"])})
