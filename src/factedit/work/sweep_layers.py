"""ROME's scores by edited layer and token (ROME, arXiv 2202.05262, figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factedit.data.registry import load_facts, select_of
from factedit.edit.methods.rome import rome
from factedit.errors import UnknownName, UsageError
from factedit.evaluate.benchmark import UNEDITED, Benchmark
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.layer_sweep import TOKENS, RomeAt
from factedit.evaluate.measures import Measures
from factedit.report.figures_layers import Points, points_as_json
from factedit.work.asked import notes_of
from factedit.work.evaluate import evaluate_into
from factedit.work.inputs import ModelSource, moments_from, opened
from factedit.work.progress import Progress, silent
from factedit.work.recipe import Recipe
from factedit.work.team import Team


@dataclass(frozen=True)
class LayerSweep:
    """Scores by place.

    Attributes:
        model: its name.
        benchmark: whose scores.
        points: per token and layer the scores there.
        unedited: those of the unedited model.
        notes: what one must know to read them.
    """

    model: str
    benchmark: Benchmark
    points: Points
    unedited: Mapping[str, Estimate]
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> dict[str, Mapping[str, Estimate]]:
        """The scores by name of the place, the unedited model's first."""
        named = {f"layer {layer}, {token}": row for (token, layer), row in self.points.items()}
        return {UNEDITED: self.unedited, **named}

    def as_json(self) -> dict[str, Any]:
        """Return the points for machines."""
        return {"model": self.model, "points": points_as_json(self.points)}


def sweep_layers(
    model: ModelSource,
    dataset: str,
    folder: Path,
    *,
    records: int = 25,
    layers: Sequence[int] | None = None,
    tokens: Sequence[str] = TOKENS,
    seed: int = 0,
    batch: int = 8,
    corpus: str | None = None,
    team: Team | None = None,
    progress: Progress = silent,
) -> LayerSweep:
    """Edit every record with ROME at each layer and token, and score it; goes on where it stopped.

    Args:
        model: the model, unchanged, or what gives it.
        dataset: its name, or a file of facts, with paraphrases and neighbours.
        folder: of the results.
        records: how many, drawn with `seed`.
        layers: which; None is all.
        tokens: where to edit, of `TOKENS`.
        seed: of the draw.
        batch: records edited and scored together.
        corpus: text for the second moments, if they must be computed.
        team: workers that compute parts of it; None computes all here.
        progress: told the records done.

    Raises:
        UsageError: no such tokens, layers or records, or a set without paraphrases or neighbours.
        EditError, ResourceError: see `evaluate_methods`.
    """
    for token in tokens:
        if token not in TOKENS:
            raise UnknownName("token", token, TOKENS)
    data = load_facts(dataset)
    benchmark = find_benchmark(data.benchmark)
    chosen = select_of(data, limit=records, seed=seed)
    if not any(r.paraphrases for r in chosen) or not any(r.neighborhood for r in chosen):
        raise UsageError(
            f"{data.name} has no paraphrases or no neighbours, which the figure shows. Choose another set."
        )
    measures = Measures(metrics=(), seed=seed, chunk=batch)
    model = opened(model)
    wanted = list(range(model.n_layer)) if layers is None else [model.check_layer(layer) for layer in layers]
    source = moments_from(corpus=corpus, progress=progress, team=team)
    moments = source.compute(model, wanted)  # one pass over the text
    made: dict[tuple[str, int], Any] = {
        (token, layer): RomeAt(rome(model, lambda _m, n: moments[n], layer=layer), token)
        for token in tokens
        for layer in wanted
    }
    recipe = Recipe(dataset, (), corpus=corpus, places=tuple(made), team=team)
    evaluation = evaluate_into(
        folder, model, data, chosen, list(made.values()), benchmark, measures, recipe=recipe, progress=progress
    )
    points = {place: evaluation.summary[method.name] for place, method in made.items()}
    return LayerSweep(model.name, benchmark, points, evaluation.summary[UNEDITED], notes_of(data, evaluation))
