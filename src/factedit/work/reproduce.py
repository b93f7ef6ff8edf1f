"""The published table of a benchmark, with every method in it, on any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factedit.data.records import RecordSet
from factedit.errors import UsageError
from factedit.evaluate.benchmark import UNEDITED, Benchmark
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.column import MEMORY
from factedit.evaluate.measures import Measures
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.table import DEFAULT, FLUENCY, METRICS
from factedit.evaluate.run import Evaluation
from factedit.facts import FactRecord
from factedit.work.asked import command_line, data_in_words, notes_of, place_of, versions_in_words
from factedit.work.evaluate import CHUNK, chosen_records, evaluate_into, metrics_for
from factedit.work.inputs import ModelSource, moments_from, opened
from factedit.work.methods import make_methods, named_methods
from factedit.work.progress import Progress, silent
from factedit.work.recipe import Recipe
from factedit.work.regimes import protocol_of
from factedit.work.team import Team

ALL = "all"


@dataclass(frozen=True)
class Reproduced:
    """Our rows of a published table.

    Attributes:
        benchmark: whose table.
        model, fingerprint: whose rows.
        evaluation: the rows, in the table's order; those of methods that it has not come last.
        notes: what one must know to read them, by name.
        told: of these what is not in the scores, in sentences.
        protocol: of many facts on one model; none: single edits.
    """

    benchmark: Benchmark
    model: str
    fingerprint: str
    evaluation: Evaluation
    notes: Mapping[str, str]
    told: tuple[str, ...] = ()
    protocol: str = ""

    @property
    def memory(self) -> dict[str, float]:
        """Per method the peak memory in MB."""
        return {method: row[MEMORY].value for method, row in self.evaluation.summary.items()}

    def as_json(self) -> dict[str, Any]:
        """Return table, model, notes, rows and the settings of every row."""
        rows = self.evaluation.as_json()
        about = {"table": self.benchmark.name, "model": self.model, "fingerprint": self.fingerprint}
        settings = {method: self.evaluation.settings[method] for method in rows}
        return {**about, "notes": dict(self.notes), "rows": rows, "settings": settings}


def reproduce_table(
    which: str,
    model: ModelSource,
    folder: Path,
    *,
    source: str,
    methods: str = ALL,
    dataset: str | None = None,
    trained: Path | None = None,
    records: int | None = None,
    seed: int = 0,
    fluency: bool = True,
    fluency_records: int | None = None,
    references: Path | None = None,
    batch: int | None = None,
    at_once: int | None = None,
    sequence: int | None = None,
    checkpoints: Sequence[int] = (),
    second_moment: Path | None = None,
    corpus: str | None = None,
    team: Team | None = None,
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
        dataset: facts, by the name of a set or a file; None is the table's own set.
        trained: folder with the networks of KE and MEND.
        records: how many, drawn with `seed`; None is all that are not for tuning.
        seed: of the draw and of sampled texts.
        fluency: the scores of sampled texts too, where the table has some.
        fluency_records: these over the first so many of the records only; None is all.
        references: texts about objects, for scores that compare with some; None is the set's own facts.
        batch: facts of a step of a sequence; else records edited and scored together, a matter of memory only.
        at_once, sequence, checkpoints: see `asked_regime`; the published rows beside ours are then of many facts.
        second_moment, corpus: see `moments_from`.
        team: workers that compute parts of it; None computes all here.
        progress: told the records done.

    Raises:
        UsageError: no such table, methods or records; refused before the model is loaded.
        DataError: the facts cannot be read, or a method's network was trained on some of them.
        EditError, ResourceError: see `evaluate_methods`.
    """
    benchmark = find_benchmark(which)
    if fluency_records is not None and fluency_records < 1:
        raise UsageError(f"{fluency_records} records with sampled texts were asked for: give at least 1.")
    given = () if methods == ALL else named_methods(methods)
    regime, data, chosen, _, not_drawn = chosen_records(
        dataset or benchmark.dataset, records=records, seed=seed, batch=batch, at_once=at_once, sequence=sequence,
        checkpoints=checkpoints,
    )  # fmt: skip
    rows = benchmark.methods_of_many if regime else benchmark.methods
    named = list(given or rows)
    benchmark.check(chosen)
    texts, missing = metrics_of_texts(benchmark, data, references) if fluency and not regime else ((), {})
    if (references or fluency_records) and not texts:
        asked = f"{which} of many facts" if regime else which
        raise UsageError(f"Reference texts or records for sampled texts were given, but {asked} is asked without any.")
    model = opened(model)
    moments = moments_from(second_moment, corpus, progress=progress, team=team)
    made, left_out = make_methods(model, named, trained, moments, explicit=methods != ALL)
    written = min(fluency_records or len(chosen), len(chosen)) if texts else 0
    known = tuple(name for name in named if name not in left_out)
    recipe = Recipe(
        dataset or benchmark.dataset, known, trained, (), "tuned", second_moment, corpus, references, team=team
    )
    chunk = CHUNK if regime or batch is None else batch
    measures = Measures(metrics=metrics_for(DEFAULT, data)[0], seed=seed, chunk=chunk)

    def run(records: Sequence[FactRecord], measures: Measures) -> Evaluation:
        return evaluate_into(
            folder, model, data, records, made, benchmark, measures, regime=regime, earlier=True, recipe=recipe,
            progress=progress,
        )  # fmt: skip

    evaluation = _with_texts(run, chosen, measures, texts, written)
    evaluation = replace(evaluation, summary=_in_order(evaluation, rows))
    asked = command_line(
        "reproduce", which, model=source, records=records,
        methods=ALL if methods == ALL else _methods_of(evaluation), dataset=dataset, seed=seed, batch=batch,
        at_once=at_once, sequence=sequence, checkpoints=",".join(map(str, checkpoints)) or None,
        no_fluency=not fluency and bool(_texts_of(benchmark)), fluency_records=fluency_records,
        references=references, trained=trained, second_moment=second_moment, corpus=corpus, **place_of(model),
    )  # fmt: skip
    told = notes_of(data, evaluation)
    notes = {"command": f"`{asked}`", "data": data_in_words(data), **_of_rows(evaluation, texts)}
    notes |= {"records": " ".join((f"{len(chosen)} drawn.", *not_drawn))} if regime else {}
    notes |= _of_what_is_missing(evaluation, told, left_out) | missing
    notes |= {name: text for metric in texts for name, text in metric.notes().items()}
    notes["versions"] = versions_in_words()
    return Reproduced(benchmark, model.name, model.fingerprint(), evaluation, notes, told, protocol_of(regime))


def _of_what_is_missing(evaluation: Evaluation, told: Sequence[str], left_out: Mapping[str, str]) -> dict[str, str]:
    """What is not in the scores, and which rows are not in the table."""
    counted = {"counted": ". ".join(told)} if told else {}
    return counted | {f"{name} left out": why for name, why in left_out.items() if name not in evaluation.summary}


def _methods_of(evaluation: Evaluation) -> str:
    """The methods of the rows, with commas, as the command line takes them."""
    names = [evaluation.settings[row].get("method", row) for row in evaluation.summary if row != UNEDITED]
    return ",".join(dict.fromkeys(names))


def _texts_of(benchmark: Benchmark) -> list[str]:
    """The metrics of sampled texts that the published table has columns of."""
    return [name for name in FLUENCY if {column.name for column in METRICS[name].columns} & set(benchmark.columns)]


def metrics_of_texts(
    benchmark: Benchmark, data: RecordSet[FactRecord], references: Path | None = None
) -> tuple[tuple[Metric, ...], dict[str, str]]:
    """Return the metrics of sampled texts that a published table has, and by name why some are left out."""
    return metrics_for(_texts_of(benchmark), data, references)


def _with_texts(
    run: Callable[[Sequence[FactRecord], Measures], Evaluation],
    chosen: Sequence[FactRecord],
    scores: Measures,
    texts: Sequence[Metric],
    written: int,
) -> Evaluation:
    """The scores of all chosen records; with those of sampled texts over the first `written` of them."""
    with_texts = replace(scores, metrics=(*scores.metrics, *texts))
    if written == len(chosen):
        return run(chosen, with_texts)
    evaluation = run(chosen, scores)
    if not written:
        return evaluation
    part = run(chosen[:written], with_texts).summary
    columns = [column.name for metric in texts for column in metric.columns]
    of_texts = {method: {name: row[name] for name in columns if name in row} for method, row in part.items()}
    return replace(
        evaluation, summary={method: row | of_texts.get(method, {}) for method, row in evaluation.summary.items()}
    )


def _in_order(evaluation: Evaluation, methods: Sequence[str]) -> dict[str, Any]:
    """The rows in the order of these methods, the unedited model first and others last."""
    order = {method: n for n, method in enumerate((UNEDITED, *methods))}
    of_row = {row: settings.get("method", row) for row, settings in evaluation.settings.items()}
    return dict(sorted(evaluation.summary.items(), key=lambda row: order.get(of_row.get(row[0], row[0]), len(order))))


def _of_rows(evaluation: Evaluation, texts: Sequence[Metric]) -> dict[str, str]:
    """What one must know of the rows: where they were computed, the networks, and n where it is another."""
    common = next(iter(evaluation.settings.values()))
    notes = {"computed": f"{common['dtype'].removeprefix('torch.')} on {common['device']}"}
    per_method = {method: settings.get("settings", {}) for method, settings in evaluation.settings.items()}
    notes |= {f"network of {method}": _network(each) for method, each in per_method.items() if "training" in each}
    for score in (column.name for metric in texts for column in metric.columns):
        counts = {row[score].n for row in evaluation.summary.values() if score in row}
        notes |= {f"n of {score}": ", ".join(map(str, sorted(counts)))} if counts else {}
    return notes | {"settings of every row": "in table.json; where our presets are from: `factedit models`"}


def _network(settings: Mapping[str, Any]) -> str:
    """How a network was trained, in words."""
    training, size = settings["training"], ", ".join(f"{k} {v}" for k, v in settings["network"].items())
    return (
        f"{size}; step {settings['best_step']} of at most {training['steps']} of {training['batch']} examples, "
        f"{settings['records']} records of {settings['data']['name']}"
    )
