"""What evaluations of data sets would take: the same records, methods and questions as the commands themselves ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from factedit.data.registry import load_facts, select_of
from factedit.engine import budget
from factedit.engine.cost import ModelShape, held
from factedit.errors import UsageError
from factedit.evaluate.asks import Ask
from factedit.evaluate.benchmark import Benchmark
from factedit.evaluate.benchmarks.table import benchmark_for, find_benchmark
from factedit.evaluate.layer_sweep import TOKENS
from factedit.evaluate.measures import Measures
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.new_object import NewObject
from factedit.evaluate.metrics.table import DEFAULT
from factedit.evaluate.promised import is_of_the_metric
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.work.dry_asks import answers_take, counted_asks
from factedit.work.dry_methods import EditsTake, edits_take
from factedit.work.dry_run import DryRun, Part, told_costs, with_moments
from factedit.work.evaluate import CHUNK, chosen_records, metrics_for
from factedit.work.machines import Machine
from factedit.work.methods import named_methods
from factedit.work.reproduce import ALL, metrics_of_texts
from factedit.work.settings import read_settings


def dry_dataset(
    model: EditableModel,
    dataset: str,
    *,
    methods: str = "rome",
    records: int | None = None,
    ids: Sequence[str] | None = None,
    split: str = "report",
    seed: int = 0,
    benchmark: str | None = None,
    metrics: Sequence[str] = DEFAULT,
    batch: int | None = None,
    at_once: int | None = None,
    sequence: int | None = None,
    checkpoints: Sequence[int] = (),
    settings: Sequence[str] = (),
    preset: str = "tuned",
    ready: bool = False,
    own_text: bool = True,
) -> DryRun:
    """Return what `evaluate_dataset` would take.

    Args:
        model: its outline.
        dataset, methods, records, ids, split, seed, benchmark, metrics, batch, at_once, sequence, checkpoints,
            settings, preset: see `evaluate_dataset`.
        ready, own_text: see `dry_edit`.

    Raises:
        UsageError, DataError: as `evaluate_dataset` does before it loads the model.
    """
    named = named_methods(methods)
    given = read_settings(settings, named)
    chosen = chosen_records(
        dataset, records=records, ids=ids, split=split, seed=seed, batch=batch, at_once=at_once, sequence=sequence,
        checkpoints=checkpoints,
    )  # fmt: skip
    asked, lacking = benchmark_for(benchmark, chosen.data, chosen.records)
    measured, _ = metrics_for((*metrics, NewObject.name) if lacking else metrics, chosen.data)
    return dry_evaluate(
        "evaluate", model, chosen.records, named, _all(asked, measured), given, chunk=batch or CHUNK, preset=preset,
        ready=ready, own_text=own_text,
    )  # fmt: skip


def dry_table(
    which: str,
    model: EditableModel,
    *,
    methods: str = ALL,
    records: int | None = None,
    seed: int = 0,
    fluency: bool = True,
    dataset: str | None = None,
    batch: int | None = None,
    at_once: int | None = None,
    sequence: int | None = None,
    checkpoints: Sequence[int] = (),
    ready: bool = False,
    own_text: bool = True,
) -> DryRun:
    """Return what `reproduce_table` would take; see there and `dry_edit`."""
    benchmark = find_benchmark(which)
    if at_once or sequence:
        names = ",".join(benchmark.methods_of_many) if methods == ALL else methods
        plan = dry_dataset(
            model, dataset or benchmark.dataset, methods=names, records=records, seed=seed, benchmark=which,
            batch=batch, at_once=at_once, sequence=sequence, checkpoints=checkpoints, ready=ready, own_text=own_text,
        )  # fmt: skip
        return replace(plan, command="reproduce")
    named = list(benchmark.methods) if methods == ALL else named_methods(methods)
    chosen = chosen_records(
        dataset or benchmark.dataset, records=records, seed=seed, batch=batch, at_once=None, sequence=None,
        checkpoints=checkpoints,
    )  # fmt: skip
    texts, _ = metrics_of_texts(benchmark, chosen.data) if fluency else ((), {})
    others, _ = metrics_for(DEFAULT, chosen.data)
    return dry_evaluate(
        "reproduce", model, chosen.records, named, _all(benchmark, (*others, *texts)), chunk=batch or CHUNK,
        ready=ready, own_text=own_text,
    )  # fmt: skip


def dry_sweep(
    model: EditableModel,
    dataset: str,
    *,
    records: int = 25,
    layers: Sequence[int] | None = None,
    tokens: Sequence[str] = TOKENS,
    seed: int = 0,
    batch: int = 8,
    own_text: bool = True,
) -> DryRun:
    """Return what `sweep_layers` would take: ROME at every layer and token; see there and `dry_edit`."""
    data = load_facts(dataset)
    benchmark = find_benchmark(data.benchmark)
    chosen = select_of(data, limit=records, seed=seed)
    wanted = list(range(model.n_layer)) if layers is None else [model.check_layer(layer) for layer in layers]
    places = {f"rome-at-{layer}-{token}": {"layer": layer} for layer in wanted for token in tokens}
    return dry_evaluate(
        "sweep-layers", model, chosen, list(places), _all(benchmark, ()), dict(places), chunk=batch, own_text=own_text
    )


def _all(benchmark: Benchmark, metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    return Measures(metrics=tuple(metrics)).with_benchmark(benchmark)


def dry_evaluate(
    command: str,
    model: EditableModel,
    records: Sequence[FactRecord],
    methods: Sequence[str],
    metrics: Sequence[Metric],
    settings: dict[str, dict[str, Any]] | None = None,
    *,
    chunk: int = 32,
    preset: str = "tuned",
    ready: bool = False,
    own_text: bool = True,
    here: Machine | None = None,
) -> DryRun:
    """Return what an evaluation would take: every record edited by every method, asked before and after.

    Args:
        command: its name.
        model: its outline.
        records: the cases.
        methods: by name.
        metrics: what is asked, the benchmark's own scores among them.
        settings: per method departures from its preset.
        chunk: records together.
        preset, ready, own_text: see `dry_edit`.
    """
    if not records:
        raise UsageError("There are no records to evaluate.")
    shape = ModelShape.of(model)
    requests = [record.request for record in records]
    taken = {name: edits_take(name, model, requests, (settings or {}).get(name), preset=preset) for name in methods}
    layers = [layer for take in taken.values() for layer in take.layers]
    memory, parts = with_moments(model, layers, ready, own_text)
    asks = counted_asks(model, [[ask for metric in metrics for ask in _asks(metric, record)] for record in records])
    parts.append(Part(f"{len(records)} records asked, unedited", answers_take(shape, asks, shape.n_layer, chunk)))
    for name, take in taken.items():
        parts.append(Part(f"{name}: {len(records)} edits", take.work))
        above = shape.n_layer - min(take.layers, default=0)
        parts.append(Part(f"{name}: {len(records)} records asked", answers_take(shape, asks, above, chunk)))
    peak = max([memory, *(_editing(model, shape, take) for take in taken.values())])
    disk = 4000.0 * len(records) * (1 + len(methods))
    return told_costs(command, model, parts, peak, disk=disk, notes=[take.note for take in taken.values()], here=here)


def _asks(metric: Metric, record: FactRecord) -> Sequence[Ask]:
    """Return what a metric asks of a record; nothing of one that fails, which the evaluation will name."""
    try:
        return () if metric.lacks(record) else tuple(metric.asks(record))
    except Exception as error:  # of a stranger's metric anything may come
        if not is_of_the_metric(error):
            raise
        return ()


def _editing(model: EditableModel, shape: ModelShape, taken: EditsTake) -> float:
    return taken.memory + held(shape, budget.columns_scored(model), budget.READS_SCORED)
