"""The published table of a benchmark, with every method in it, on any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factedit.data.records import RecordSet
from factedit.data.registry import load_facts, select_of
from factedit.edit.method import Method
from factedit.errors import UsageError
from factedit.evaluate.benchmark import UNEDITED, Benchmark
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.measures import Measures
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.table import DEFAULT, FLUENCY, METRICS
from factedit.evaluate.run import Evaluation
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.work.asked import command, data_in_words, notes_of, place_of, versions_in_words
from factedit.work.evaluate import evaluate_into, metrics_for
from factedit.work.inputs import ModelSource, moments_from, opened
from factedit.work.methods import make_methods, named_methods
from factedit.work.progress import Progress, silent

ALL = "all"


@dataclass(frozen=True)
class Reproduced:
    """Our rows of a published table.

    Attributes:
        benchmark: whose table.
        model, fingerprint: whose rows.
        found: the rows, in the table's order; those of methods that it has not come last.
        notes: what one must know to read them, by name.
        told: of these what is not in the scores, in sentences.
    """

    benchmark: Benchmark
    model: str
    fingerprint: str
    found: Evaluation
    notes: Mapping[str, str]
    told: tuple[str, ...] = ()

    @property
    def memory(self) -> dict[str, float]:
        """Per method the peak memory in MB."""
        return {method: row["peak_memory_mb"].value for method, row in self.found.summary.items()}

    def as_json(self) -> dict[str, Any]:
        """Table, model, notes, rows and the settings of every row."""
        rows = self.found.as_json()
        about = {"table": self.benchmark.name, "model": self.model, "fingerprint": self.fingerprint}
        settings = {method: self.found.settings[method] for method in rows}
        return {**about, "notes": dict(self.notes), "rows": rows, "settings": settings}


def reproduce_table(
    which: str,
    model: ModelSource,
    folder: Path,
    *,
    source: str,
    methods: str = ALL,
    trained: Path | None = None,
    records: int | None = None,
    seed: int = 0,
    fluency: bool = True,
    fluency_records: int | None = None,
    references: Path | None = None,
    batch: int = 8,
    second_moment: Path | None = None,
    corpus: str | None = None,
    progress: Progress = silent,
) -> Reproduced:
    """Run the unedited model and methods over a benchmark's data set; goes on where it stopped.

    The methods that the folder already holds of the same records stand beside those asked for.

    Args:
        which: the benchmark.
        model: the model, unchanged, or what gives it.
        folder: of the results.
        source: how the user named the model, for the command that gives the table again.
        methods: names with commas; `all`: every row of the table whose network is trained.
        trained: folder with the networks of KE and MEND.
        records: how many, drawn with `seed`; None is all that are not for tuning.
        seed: of the draw and of sampled texts.
        fluency: the scores of sampled texts too, where the table has some.
        fluency_records: these over the first so many of the records only; None is all.
        references: texts about objects, for scores that compare with some; None is the set's own facts.
        batch: records edited and scored together.
        second_moment, corpus: see `moments_from`.
        progress: told the records done.

    Raises:
        UsageError: no such table, methods or records; refused before the model is loaded.
        DataError: the facts cannot be read, or a method's network was trained on some of them.
        EditError, ResourceError: see `evaluate_methods`.
    """
    benchmark = find_benchmark(which)
    if fluency_records is not None and fluency_records < 1:
        raise UsageError(f"{fluency_records} records with sampled texts were asked for: give at least 1.")
    named = list(benchmark.methods) if methods == ALL else named_methods(methods)
    data = load_facts(benchmark.dataset)
    chosen = select_of(data, limit=records, seed=seed)
    texts, missing = metrics_of_texts(benchmark, data, references) if fluency else ((), {})
    if (references or fluency_records) and not texts:
        raise UsageError(f"Reference texts and records for sampled texts were given, but {which} is asked without any.")
    model = opened(model)
    moments = moments_from(second_moment, corpus, progress=progress)
    made, left_out = make_methods(model, named, trained, moments, explicit=methods != ALL)
    written = min(fluency_records or len(chosen), len(chosen)) if texts else 0
    found = _evaluate(folder, model, data, chosen, made, benchmark, texts, written, seed, batch, progress)
    found = replace(found, summary=_in_order(found, benchmark))
    asked = command(
        "reproduce", which, model=source, records=records,
        methods=ALL if methods == ALL else ",".join(list(found.summary)[1:]), seed=seed, batch=batch,
        no_fluency=not fluency and bool(_texts_of(benchmark)), fluency_records=fluency_records,
        references=references, trained=trained, second_moment=second_moment, corpus=corpus, **place_of(model),
    )  # fmt: skip
    told = notes_of(data, found)
    notes = {"command": f"`{asked}`", "data": data_in_words(data), **_of_rows(found, texts)}
    notes |= {"counted": ". ".join(told)} if told else {}
    notes |= {f"{name} left out": why for name, why in left_out.items() if name not in found.summary} | missing
    notes |= {name: text for metric in texts for name, text in metric.notes().items()}
    notes["versions"] = versions_in_words()
    return Reproduced(benchmark, model.name, model.fingerprint(), found, notes, told)


def _texts_of(benchmark: Benchmark) -> list[str]:
    """The metrics of sampled texts that the published table has columns of."""
    return [name for name in FLUENCY if {column.name for column in METRICS[name].columns} & set(benchmark.columns)]


def metrics_of_texts(
    benchmark: Benchmark, data: RecordSet[FactRecord], references: Path | None = None
) -> tuple[tuple[Metric, ...], dict[str, str]]:
    """The metrics of sampled texts that a published table has, and by name why some are left out."""
    return metrics_for(_texts_of(benchmark), data, references)


def _evaluate(
    folder: Path,
    model: EditableModel,
    data: RecordSet[FactRecord],
    chosen: Sequence[FactRecord],
    methods: Sequence[Method],
    benchmark: Benchmark,
    texts: Sequence[Metric],
    written: int,
    seed: int,
    batch: int,
    progress: Progress,
) -> Evaluation:
    """The scores of all chosen records; with those of sampled texts over the first `written` of them."""
    others, _ = metrics_for(DEFAULT, data)
    scores = Measures(metrics=others, seed=seed, chunk=batch)
    with_texts = replace(scores, metrics=(*others, *texts))

    def run(records: Sequence[FactRecord], measures: Measures) -> Evaluation:
        return evaluate_into(
            folder, model, data, records, methods, benchmark, measures, earlier=True, progress=progress
        )

    if written == len(chosen):
        return run(chosen, with_texts)
    found = run(chosen, scores)
    if not written:
        return found
    part = run(chosen[:written], with_texts).summary
    columns = [column.name for metric in texts for column in metric.columns]
    of_texts = {method: {name: row[name] for name in columns if name in row} for method, row in part.items()}
    return replace(found, summary={method: row | of_texts.get(method, {}) for method, row in found.summary.items()})


def _in_order(found: Evaluation, benchmark: Benchmark) -> dict[str, Any]:
    """The rows as the published table orders them, methods that it does not have last."""
    order = {method: n for n, method in enumerate((UNEDITED, *benchmark.methods))}
    return dict(sorted(found.summary.items(), key=lambda row: order.get(row[0], len(order))))


def _of_rows(found: Evaluation, texts: Sequence[Metric]) -> dict[str, str]:
    """What one must know of the rows: where they were computed, the networks, and n where it is another."""
    common = next(iter(found.settings.values()))
    notes = {"computed": f"{common['dtype'].removeprefix('torch.')} on {common['device']}"}
    own = {method: settings.get("settings", {}) for method, settings in found.settings.items()}
    notes |= {f"network of {method}": _network(each) for method, each in own.items() if "training" in each}
    for score in (column.name for metric in texts for column in metric.columns):
        counts = {row[score].n for row in found.summary.values() if score in row}
        notes |= {f"n of {score}": ", ".join(map(str, sorted(counts)))} if counts else {}
    return notes | {"settings of every row": "in table.json; where our presets are from: `factedit models`"}


def _network(settings: Mapping[str, Any]) -> str:
    """How a network was trained, in words."""
    training, size = settings["training"], ", ".join(f"{k} {v}" for k, v in settings["network"].items())
    return (
        f"{size}; step {settings['best_step']} of at most {training['steps']} of {training['batch']} examples, "
        f"{settings['records']} records of {settings['data']['name']}"
    )
