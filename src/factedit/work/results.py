"""What folders of finished or running evaluations hold."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factedit.errors import DataError, shown
from factedit.evaluate.column import MEMORY
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.store import ResultStore, name_and_content
from factedit.evaluate.summary import as_numbers, summary_of
from factedit.evaluate.told import not_edited, tests_of
from factedit.evaluate.whole import MARK, mean_columns
from factedit.report.tables import notes_on_rows

logger = logging.getLogger("factedit")
STORE = "results.sqlite"
Cases = Mapping[str, Mapping[str, Any]]
_RowFound = tuple[Cases, int, dict[str, Estimate], dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """The scores of one folder, a row per selection of records and run.

    Attributes:
        summary: per row its scores.
        not_edited: per row the cases that could not be edited, and why.
        counts: per row how many cases it is of.
        tests: per row and score how many tests were executed and how many were not.
        notes: what was not edited, measured or executed, in sentences.
        about: what the rows are of, by name: weights, data, versions.
        settings: per row everything that decides its numbers.
        cases: per row the stored result of every case.
    """

    summary: dict[str, dict[str, Estimate]]
    not_edited: dict[str, dict[str, str]]
    counts: dict[str, int]
    tests: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    about: dict[str, str] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    cases: dict[str, Cases] = field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return per row its numbers; see `as_numbers`."""
        rows = self.summary.items()
        return {name: as_numbers(row, self.not_edited[name], self.tests.get(name)) for name, row in rows}


def read_results(folders: Sequence[Path]) -> dict[Path, Results]:
    """Return the scores that folders of evaluations hold.

    Args:
        folders: which `factedit evaluate` wrote.

    Raises:
        DataError: a folder without results.
    """
    results: dict[Path, Results] = {}
    for folder in folders:
        path = folder / STORE
        if not path.is_file():
            raise DataError(f"{folder} has no {STORE}; give a folder that 'factedit evaluate' wrote.")
        with ResultStore(path, read_only=True) as store:
            rows, about = _rows(store), _about(store)
        if not rows:
            raise DataError(f"{folder} holds no finished case yet; run 'factedit evaluate' with --out {folder}.")
        results[folder] = Results(
            {
                name: summary_of(list(cases.values()), seed=seed) | whole
                for name, (cases, seed, whole, _) in rows.items()
            },
            {name: not_edited(cases) for name, (cases, *_) in rows.items()},
            {name: len(cases) for name, (cases, *_) in rows.items()},
            {name: tests_of(list(cases.values())) for name, (cases, *_) in rows.items()},
            tuple(notes_on_rows({name: cases for name, (cases, *_) in rows.items()})),
            about,
            {name: settings for name, (*_, settings) in rows.items()},
            {name: cases for name, (cases, *_) in rows.items()},
        )
    return results


def _rows(store: ResultStore) -> dict[str, _RowFound]:
    """Per selection of records and run the finished cases, the seed of its bootstrap, what is of models as wholes, and
    the run's settings.

    A selection may name runs that were taken out of the store since; a warning says so.
    """
    runs = store.runs()
    rows: dict[str, _RowFound] = {}
    for selection, ids, keys in store.selections():
        gone = [key for key in keys if key not in runs]
        if gone:
            logger.warning(
                "%s: %d runs were taken out of the store (%s) and are left out.", selection, len(gone), gone[0]
            )
        for key in (key for key in keys if key in runs):
            method, settings = runs[key]
            dataset, seed = checked_run(store, settings)
            every = store.results(key)
            results = cases_of(store, every)
            cases = {case: results[case] for case in ids if case in results}
            if cases:
                missing = "" if len(cases) == len(ids) else f", {len(ids) - len(cases)} missing"
                rows[f"{method} [{name_and_content(dataset)[0]}, {selection}{missing}, {key[:6]}]"] = (
                    cases,
                    seed,
                    wholes_of(store, every),
                    {"method": method, **settings},
                )
    return rows


def checked_run(store: ResultStore, settings: Mapping[str, Any]) -> tuple[str, int]:
    """Return the data set and the seed of a run.

    Raises:
        DataError: the settings are not those of an evaluation.
    """
    dataset, seed = settings.get("dataset"), settings.get("seed")
    if not isinstance(dataset, str) or not dataset.split() or type(seed) is not int or not 0 <= seed < 1 << 63:
        raise DataError(f"{store.path} holds a run of data {shown(dataset)} and seed {shown(seed)}: it is damaged.")
    return dataset, seed


def cases_of(store: ResultStore, results: Cases) -> Cases:
    """Return the results of records among those of a run.

    Raises:
        DataError: some have no scores.
    """
    cases = {case: row for case, row in results.items() if not case.startswith(MARK)}
    if not all({"scores", MEMORY} <= row.keys() for row in cases.values()):
        raise DataError(f"{store.path} holds results without scores: it is damaged, or of another kind.")
    return cases


def wholes_of(store: ResultStore, results: Cases) -> dict[str, Estimate]:
    """Return what was measured of models that hold many facts; nothing where the run did so for several sets of
    records.
    """
    rounds = {case: row for case, row in results.items() if case.startswith(MARK)}
    if len({case.rpartition(" ")[0] for case in rounds}) > 1:
        return {}
    try:
        return mean_columns(list(rounds.values()))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"{store.path} holds rounds without their measures: it is damaged, or of another kind."
        ) from error


def _about(store: ResultStore) -> dict[str, str]:
    """What the runs of a store have been made of, each value once."""
    made_of: dict[str, dict[str, None]] = {"weights": {}, "data": {}, "versions": {}}
    for _, settings in store.runs().values():
        name, sha256 = name_and_content(str(settings.get("dataset", "unknown")))
        versions = (("factedit", "version"), ("torch", "torch"), ("transformers", "transformers"))
        made_of["weights"][str(settings.get("weights", "unknown"))[:16]] = None
        made_of["data"][f"{name}, sha256 {sha256[:16]}"] = None
        made_of["versions"][", ".join(f"{name} {settings.get(key, 'unknown')}" for name, key in versions)] = None
    return {name: "; ".join(values) for name, values in made_of.items()}
