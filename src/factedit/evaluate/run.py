"""Evaluate methods over many records: before and after, in chunks, resumable.

Which edits a record is scored under is the regime's matter (`regime.py`), what is asked the benchmark's and the
metrics' (`measuring.py`), where it is computed the runner's (`runner.py`). Here results are stored as they come, a
chunk whole or not at all, and put together. Chunks are cut from the whole list of records, so that an evaluation that
was interrupted and goes on has the very same batches as one that was not.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from factedit.edit.method import Method
from factedit.errors import DataError, EditError, RequestError, UsageError
from factedit.evaluate.benchmark import UNEDITED, Benchmark
from factedit.evaluate.benchmarks.table import benchmark_of
from factedit.evaluate.column import MEMORY
from factedit.evaluate.compare import Comparison, compare
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.keys import Key, apart, prepared
from factedit.evaluate.leak import Kept, refuse_trained_on
from factedit.evaluate.measurable import not_measurable, without
from factedit.evaluate.measures import Measures
from factedit.evaluate.plan import Plan
from factedit.evaluate.regime import Each, Regime
from factedit.evaluate.runner import Local, Runner, Todo
from factedit.evaluate.store import MEMORY_ONLY, ResultStore
from factedit.evaluate.summary import as_numbers, summary_of
from factedit.evaluate.told import not_edited, tests_of
from factedit.evaluate.whole import Wholes, mean_columns, wholes_in
from factedit.facts import FactRecord
from factedit.markup import table
from factedit.markup.frozen import Drawing, in_notebook
from factedit.models.adapter import EditableModel

FRAME, LINE = 230, 52  # pixels of a table in a notebook: beside its rows, of a row
LEAST_TRIED = 8  # records before a method that edits none of them is stopped


@dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes:
        summary: per method its scores with intervals; the unedited model first.
        results: per method and case the stored row.
        settings: per method everything that decides its numbers.
        benchmark: whose questions were asked.
        stored: results that were in the store before, of how many in all.
        kept: the prompts about names that a method was told to leave alone, which are not asked.
        unmeasured: the scores that say nothing on this model and are not given, with the reason.
    """

    summary: dict[str, dict[str, Estimate]]
    results: dict[str, dict[str, dict[str, Any]]]
    settings: dict[str, dict[str, Any]]
    benchmark: Benchmark
    stored: tuple[int, int] = (0, 0)
    kept: Kept = field(default_factory=Kept)
    unmeasured: Mapping[str, str] = field(default_factory=dict)

    def comparison(self) -> Comparison:
        """Return the methods against the unedited model and the best of them, record by record."""
        scores = {m: {case: row["scores"] for case, row in rows.items()} for m, rows in self.results.items()}
        return compare(scores, self.benchmark.headline)

    def not_edited(self) -> dict[str, dict[str, str]]:
        """Return per method that failed somewhere the cases that it could not edit, and why; they count as unedited."""
        told = {method: not_edited(rows) for method, rows in self.results.items()}
        return {method: cases for method, cases in told.items() if cases}

    def as_json(self) -> dict[str, Any]:
        """Return `{method: {n, score: value, …, seconds_per_edit, peak_memory_mb, ci: {score: half-width}, tests}}`.

        `tests`: per score how many tests were executed and how many were not. Of a method that could not edit some
        cases, `not_edited: {case: why}` too.
        """
        failed = self.not_edited()
        return {
            method: as_numbers(row, failed.get(method), tests_of(list(self.results[method].values())))
            for method, row in self.summary.items()
        }

    def _repr_html_(self) -> str:
        """Return the scores for a notebook, a row per method: as the page draws them, or as a table."""
        names = list(dict.fromkeys(name for row in self.summary.values() for name in row))
        rows = [
            [method, str(max((e.n for e in row.values()), default=0)),
             *(str(row[name]) if name in row else "–" for name in names)]
            for method, row in self.summary.items()
        ]  # fmt: skip
        title = "mean ± half of the 95 % interval"
        plain = table(title, ["method", "n", *names], rows)
        drawing = Drawing("scores", {"name": title, "rows": self.as_json()}, plain)
        return in_notebook("Scores of methods", drawing, height=FRAME + LINE * len(rows))


def evaluate_methods(
    model: EditableModel,
    records: Sequence[FactRecord],
    methods: Sequence[Method],
    store: ResultStore,
    *,
    dataset: str,
    benchmark: Benchmark | None = None,
    selection: str = "",
    measures: Measures | None = None,
    regime: Regime | None = None,
    earlier: bool = False,
    runner: Runner | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Edit records with every method and score them before and after (ROME, arXiv 2202.05262, section 3).

    The model is not changed. Edited each on its own, a case that a method cannot edit counts as unedited and is told
    with the reason (`Evaluation.not_edited`); a record that cannot be asked, and numbers that are not finite, are
    passed over and counted (`told.py`).

    Args:
        model: the model.
        records: the cases.
        methods: what to compare, each made for the model.
        store: where results are kept; cases that it holds are not computed again.
        dataset: name and content hash of the data set, part of a run's key.
        benchmark: whose questions are asked; None: that of the table which the records can be asked by.
        selection: which of the set's records these are, in words, for reports.
        measures: what else is measured, and how.
        regime: under which edits records are scored; None: each fact on its own.
        earlier: let the methods that the store holds of all these records stand beside those asked for.
        runner: where to compute; None: in this process.
        progress: called with the number of cases of a finished chunk.

    Raises:
        UsageError: no records, two of one id, two methods of one name, records that do not fit the regime, or metrics
            that contradict each other.
        RequestError: records that lack what the benchmark asks, or none that can be asked.
        DataError: a method's network was trained on some of the records.
        EditError: a method has edited none of the records so far, eight or more.
        ResourceError: memory or disk ran out; what was stored is safe.
    """
    if not records:
        raise UsageError("There are no records to evaluate.")
    repeated = [case for case, count in Counter(record.case_id for record in records).items() if count > 1]
    if repeated:
        raise UsageError(f"{len(repeated)} ids are those of several records ({repeated[0]}): give each its own.")
    names = [method.name for method in methods]
    if len({UNEDITED, *names}) <= len(names):
        raise UsageError(f"Two methods have one name ({', '.join(names)}, {UNEDITED}); a table has one row of each.")
    refuse_trained_on(methods, records)
    benchmark = benchmark or benchmark_of(records)
    benchmark.check(records)
    plan = Plan(benchmark, (measures or Measures()).for_model(model), regime or Each())
    records, kept, common, keys = prepared(model, records, methods, dataset, plan)
    rows = {name: _Row(store.begin(name, key.settings), key.cases) for name, key in keys.items()}
    ids = [record.case_id for record in records]
    store.select(selection or f"{len(ids)} records", ids, [row.run for row in rows.values()])
    subjects = [record.request.subject for record in records]
    runner = runner or Local(model, methods, plan, Wholes(model, subjects))
    stored = sum(len(store.done(row.run) & set(row.cases)) for row in rows.values())
    _compute(records, store, rows, keys, plan, runner, progress or (lambda _count: None))
    wanted = sum(len(row.cases) for row in rows.values())
    if earlier:
        rows = _earlier_rows(common, records, store, plan) | rows
    return replace(_evaluation(store, rows, plan, subjects), stored=(stored, wanted), kept=kept)


@dataclass(frozen=True)
class _Row:
    """A row of a table: its run in the store, and its cases."""

    run: str
    cases: Sequence[str]


def _compute(
    records: Sequence[FactRecord],
    store: ResultStore,
    rows: Mapping[str, _Row],
    keys: Mapping[str, Key],
    plan: Plan,
    runner: Runner,
    progress: Callable[[int], None],
) -> None:
    """Compute and store what is missing."""
    missing = {name: set(row.cases) - store.done(row.run) for name, row in rows.items()}
    todo = []
    for part in plan.regime.parts(records, plan.measures.chunk):
        ids = {record.case_id for record in part}
        lacking = {name: frozenset(cases & ids) for name, cases in missing.items()}
        if any(lacking.values()):
            groups = apart(lacking, keys) if plan.regime.shared else [lacking]
            todo += [Todo(part, group) for group in groups if any(group.values())]
        else:
            progress(len(part))
    for computed, finished in runner.map(todo, {name: key.settings for name, key in keys.items()}):
        store.add((rows[name].run, case, row) for name, by_case in computed.items() for case, row in by_case.items())
        for name, by_case in computed.items():
            if all("failed" in row for row in by_case.values()):
                _stop_if_nothing_is_edited(name, store.results(rows[name].run))
        progress(finished)


def _stop_if_nothing_is_edited(method: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Stop where a method has not edited a single record of several: that is no property of the records."""
    cases = not_edited(results)
    if len(cases) == len(results) >= LEAST_TRIED:
        case, why = next(iter(cases.items()))
        raise EditError(f"{method} could not edit one of the {len(cases)} records so far. Case {case}: {why}")


def _earlier_rows(
    common: Mapping[str, Any], records: Sequence[FactRecord], store: ResultStore, plan: Plan
) -> dict[str, _Row]:
    """Return the rows of one table that hold all their cases; of a method with other settings the newest."""
    ids, earlier = [record.case_id for record in records], {}
    stages = plan.regime.stages(ids)
    for run, (name, settings) in store.runs().items():
        stored_key = {
            key: value for key, value in settings.items() if key not in ("method", "settings", "code", *MEMORY_ONLY)
        }
        for stage in stages:
            wanted = json.loads(json.dumps({**common, **({} if name == UNEDITED else stage.key)}))
            cases = ids if name == UNEDITED else [ids[n] for n in stage.places]
            if stored_key == wanted and set(cases) <= store.done(run):
                earlier[name] = _Row(run, cases)
    return earlier


def _evaluation(store: ResultStore, rows: Mapping[str, _Row], plan: Plan, subjects: Sequence[str]) -> Evaluation:
    results: dict[str, dict[str, dict[str, Any]]] = {}
    wholes: dict[str, dict[str, Estimate]] = {}
    for name, row in rows.items():
        stored = store.results(row.run)
        results[name] = {case: stored[case] for case in row.cases}
        if not all({"scores", MEMORY} <= of_case.keys() for of_case in results[name].values()):
            raise DataError(f"{store.path} holds results without scores: it is damaged. Name another folder.")
        rounds = wholes_in(stored, subjects)
        if rounds:
            wholes[name] = mean_columns(rounds)
    _refuse_nothing(results[UNEDITED], plan)
    seed = plan.measures.seed
    scores = {name: summary_of(list(by_case.values()), plan.benchmark, seed=seed) for name, by_case in results.items()}
    summary = {name: row | wholes.get(name, {}) for name, row in scores.items()}
    known = store.runs()
    settings = {name: known[row.run][1] for name, row in rows.items()}
    columns = [column for metric in plan.metrics for column in metric.columns]
    silent = not_measurable(summary, columns)
    return Evaluation(without(summary, silent), results, settings, plan.benchmark, unmeasured=silent)


def _refuse_nothing(rows: Mapping[str, Mapping[str, Any]], plan: Plan) -> None:
    """Refuse to make a table of records of which none could be asked."""
    names = [column.name for column in plan.benchmark.scores]
    if all(math.isnan(row["scores"].get(name, math.nan)) for row in rows.values() for name in names):
        whys = [why for row in rows.values() for why in row.get("left_out", {}).values()]
        why = whys[0] if whys else "the model gives numbers that are not finite."
        raise RequestError(f"None of the {len(rows)} records could be asked; the first: {why}")
