"""Edit the records of a data set with methods and score them before and after; nothing stored is computed again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from factedit.cache import locked
from factedit.data.records import RecordSet
from factedit.data.registry import load_facts, select_of
from factedit.edit.kept_values import forget_values, keeping_values
from factedit.edit.method import Method
from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.benchmarks.table import benchmark_for
from factedit.evaluate.measures import Measures
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.new_object import NewObject
from factedit.evaluate.metrics.table import DEFAULT, METRICS, find_metric, named_metrics
from factedit.evaluate.promised import check_told, fault, is_of_the_metric
from factedit.evaluate.regime import Regime
from factedit.evaluate.run import Evaluation, evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.work.asked import about_table, command_line, notes_of, place_of
from factedit.work.inputs import ModelSource, moments_from, opened
from factedit.work.methods import make_methods, named_methods
from factedit.work.progress import Progress, advancing, keeping, silent
from factedit.work.recipe import Recipe
from factedit.work.regimes import Agreeing, asked_regime, that_agree
from factedit.work.results import STORE
from factedit.work.settings import read_settings
from factedit.work.team import Team

VALUES = "values"  # of facts edited together, until all of them are scored
CHUNK = 32  # records edited and scored together, where nothing is said
logger = logging.getLogger("factedit")


@dataclass(frozen=True)
class Evaluated:
    """What methods did to the records of a data set.

    Attributes:
        dataset: its name.
        evaluation: scores, rows and settings.
        notes: what one must know to read them.
        store: the file that holds every row.
        about: what was asked: model, its fingerprint, data, records, command, versions.
    """

    dataset: str
    evaluation: Evaluation
    notes: tuple[str, ...]
    store: Path
    about: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return per method its numbers (see `Evaluation.as_json`), and under `about` what was asked, with notes."""
        return {"about": {**self.about, "notes": list(self.notes)}, **self.evaluation.as_json()}


def evaluate_dataset(
    model: ModelSource,
    dataset: str,
    folder: Path,
    *,
    methods: str = "rome",
    trained: Path | None = None,
    records: int | None = None,
    ids: Sequence[str] | None = None,
    split: str = "report",
    seed: int = 0,
    benchmark: str | None = None,
    metrics: Sequence[str] = DEFAULT,
    references: Path | None = None,
    inputs: Mapping[str, Any] = {},
    batch: int | None = None,
    at_once: int | None = None,
    sequence: int | None = None,
    checkpoints: Sequence[int] = (),
    settings: Sequence[str] = (),
    preset: str = "tuned",
    second_moment: Path | None = None,
    corpus: str | None = None,
    team: Team | None = None,
    progress: Progress = silent,
) -> Evaluated:
    """Edit records and score them before and after, each on its own or many together; goes on where it stopped.

    Args:
        model: the model, unchanged, or what gives it.
        dataset: its name, or a file of facts.
        folder: of the results.
        methods: names with commas.
        trained: folder with the networks of KE and MEND.
        records: how many, drawn with `seed`; None is all.
        ids: instead: these case ids, of the whole set.
        split: see `select`.
        seed: of the draw and of sampled texts.
        benchmark: whose questions are asked; None is the set's own.
        metrics: what else is measured, by name.
        references: texts about objects, for metrics that compare with some; None is the set's own facts.
        inputs: what else metrics are made from (`Metric.takes`), by name, e.g. `{"panel": file}`.
        batch: facts of a step of a sequence; else records edited and scored together, a matter of memory only.
        at_once, sequence, checkpoints: see `asked_regime`; facts that contradict one before are then left out.
        settings: of the methods, as `name=value`.
        preset: see `make_method`.
        second_moment, corpus: see `moments_from`.
        team: workers that compute parts of it; None computes all here.
        progress: told the records done.

    Raises:
        UsageError: no such records, methods, settings, benchmark or metrics; refused before the model is loaded.
        DataError: the facts cannot be read, or a method's network was trained on some of them.
        EditError, ResourceError: see `evaluate_methods`.
    """
    named = named_methods(methods)
    given = read_settings(settings, named)
    regime, data, chosen, selection, left_out = chosen_records(
        dataset, records=records, ids=ids, split=split, seed=seed, batch=batch, at_once=at_once, sequence=sequence,
        checkpoints=checkpoints,
    )  # fmt: skip
    asked, told = benchmark_for(benchmark, data, chosen)
    wanted = (*metrics, NewObject.name) if told else metrics
    measured, missing = metrics_for(wanted, data, references, **inputs)
    measures = Measures(metrics=measured, seed=seed, chunk=CHUNK if sequence or batch is None else batch)
    model = opened(model)
    moments = moments_from(second_moment, corpus, progress=progress, team=team)
    made, _ = make_methods(model, named, trained, moments, settings=given, preset=preset)
    recipe = Recipe(
        dataset, tuple(named), trained, tuple(settings), preset, second_moment, corpus, references, inputs, team=team
    )
    evaluation = evaluate_into(
        folder, model, data, chosen, made, asked, measures, regime=regime, selection=selection, recipe=recipe,
        progress=progress,
    )  # fmt: skip
    line = command_line(
        "evaluate", model.name, dataset=dataset, method=methods, trained=trained, records=records,
        ids=None if ids is None else ",".join(ids), split=None if split == "report" or ids is not None else split,
        seed=seed, benchmark=benchmark, no_free=Free.name not in metrics,
        metrics=",".join(name for name in metrics if name not in DEFAULT) or None, references=references, **inputs,
        batch=batch, at_once=at_once, sequence=sequence, checkpoints=",".join(map(str, checkpoints)) or None,
        set=tuple(settings), preset=None if preset == "tuned" else preset,
        second_moment=second_moment, corpus=corpus, **place_of(model),
    )  # fmt: skip
    about = about_table(model, data, line, records=f"{len(chosen)} of {len(data.records)} ({selection})")
    read_as = [f"{name}: {text}" for metric in measured for name, text in metric.notes().items()]
    notes = [*([told] if told else ()), *missing.values(), *notes_of(data, evaluation), *read_as, *left_out]
    return Evaluated(data.name, evaluation, tuple(notes), folder / STORE, about)


class Chosen(NamedTuple):
    """The records of an evaluation.

    Attributes:
        regime: how they are put on a model; None puts each on alone.
        data: the set that they are of.
        records: the records.
        selection: which these are, in words.
        left_out: how many records of the set, and why, in words; see `that_agree`.
    """

    regime: Regime | None
    data: RecordSet[FactRecord]
    records: Sequence[FactRecord]
    selection: str
    left_out: tuple[str, ...]


def chosen_records(
    dataset: str,
    *,
    records: int | None,
    ids: Sequence[str] | None = None,
    split: str = "report",
    seed: int,
    batch: int | None,
    at_once: int | None,
    sequence: int | None,
    checkpoints: Sequence[int],
) -> Chosen:
    """Return the records that are asked for; see `evaluate_dataset`."""
    regime, count = asked_regime(at_once, sequence, batch, checkpoints, records)
    data = load_facts(dataset)
    split = split if ids is None else "all"
    agreeing = that_agree(data.records) if regime else Agreeing(list(data.records), 0, 0)
    chosen = select_of(replace(data, records=tuple(agreeing.records)), limit=count, ids=ids, seed=seed, split=split)
    drawn_from = "all of the file" if data.own and split == "report" else f"{split} split"
    selection = f"{drawn_from}, seed {seed}" if ids is None else "ids"
    return Chosen(regime, data, chosen, selection, tuple(agreeing.told()))


def metrics_for(
    names: Sequence[str], data: RecordSet[FactRecord], references: Path | None = None, **given: Any
) -> tuple[tuple[Metric, ...], dict[str, str]]:
    """Return the metrics of these names for a data set, and by name why some are left out.

    Args:
        names: of the table of metrics or of entry points, or words for several; one that comes twice is taken once.
        data: the set.
        references: texts about objects, for metrics that compare with some.
        given: what else the user gave, by name, for metrics that take it.

    Raises:
        UnknownName: no such metric.
        DataError: the references cannot be read.
    """
    made: list[Metric] = []
    missing = {}
    for name in named_metrics(names):
        kind = find_metric(name)
        try:
            taken = {key: given[key] for key in kind.takes if given.get(key) is not None}
            metric = kind.for_records(data.records, references=references, **taken)
            if metric is not None:
                check_told(metric)
        except Exception as error:  # of a stranger's metric anything may come
            if name in METRICS or not is_of_the_metric(error):
                raise
            missing[name] = f"{name} is left out, since it fails: {fault(error).rstrip('.')}."
            continue
        if metric is None:
            missing[name] = f"{name} is left out: {_why_none(kind, data)}."
        else:
            made.append(metric)
    return tuple(made), missing


def _why_none(kind: type[Metric], data: RecordSet[FactRecord]) -> str:
    """Return why a data set holds nothing for a metric: what its records lack, in the metric's own words."""
    if kind.why_none:
        return kind.why_none
    try:
        lacks = kind().lacks(data.records[0])
    except Exception:  # it is not made without settings, or a stranger's fails
        lacks = ""
    needed = f"no record of {data.name} has what it needs: {lacks}"
    return needed if lacks else f"{data.name} holds nothing to measure it with"


def evaluate_into(
    folder: Path,
    model: EditableModel,
    data: RecordSet[FactRecord],
    records: Sequence[FactRecord],
    methods: Sequence[Method],
    benchmark: Benchmark,
    measures: Measures,
    *,
    regime: Regime | None = None,
    selection: str = "",
    earlier: bool = False,
    recipe: Recipe | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Evaluate records of a data set into the store of a folder; goes on where it stopped.

    Args:
        folder: of the store.
        data: the set that the records are of.
        model, records, methods, benchmark, measures, regime, selection, earlier: see `evaluate_methods`.
        recipe: what the methods are made of, and the team that computes, if there is one.
        progress: told the records done.
    """
    if recipe is not None and recipe.team is not None:
        recipe.team.require_room(model)
    runner = None if recipe is None else recipe.runner(records, benchmark, measures, regime)
    what = f"{data.name}, {len(methods)} methods, {len(records)} records"
    shared = regime is not None and regime.shared
    rows = [len(stage.places) for stage in regime.stages([r.case_id for r in records])] if regime and shared else []
    total = len(records) + len(methods) * sum(rows) if shared else len(records)
    values = folder / VALUES if shared else None
    store_is_kept = lambda: f"the finished records are kept in {folder}, and the same command goes on there"  # noqa: E731
    finding = advancing(progress, "finding values (facts)", len(methods) * len(records)) if shared else lambda _n: None
    with locked(folder / STORE), ResultStore(folder / STORE) as store:
        with keeping(store_is_kept), keeping_values(values, finding):
            evaluation = evaluate_methods(
                model, records, methods, store, dataset=f"{data.name} {data.sha256}", benchmark=benchmark,
                regime=regime, selection=selection, measures=measures, earlier=earlier,
                runner=runner,
                progress=advancing(progress, what, total),
            )  # fmt: skip
        if values is not None:
            forget_values(values)
    taken, wanted = evaluation.stored
    if taken:
        logger.info(
            "%d of %d results were taken from %s, made earlier with the same settings", taken, wanted, store.path
        )
    return evaluation
