"""A verdict on methods from the results of evaluations: read from their stores, judged by the rules of the report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from factedit.data.lines import read_text
from factedit.errors import DataError, UsageError
from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.compare import compare
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.measurable import not_measurable
from factedit.evaluate.metrics.table import all_metrics
from factedit.evaluate.store import ResultStore, name_and_content
from factedit.evaluate.summary import summary_of
from factedit.report.verdict_page import verdict_as_json
from factedit.report.verdict_read import verdict_from
from factedit.report.verdict_rules import MethodScores, judge
from factedit.report.verdict_rules import VerdictTable as Cells
from factedit.safe import parse_json
from factedit.work.results import STORE, cases_of, checked_run, wholes_of

KEPT = "verdict.json"  # of which a page is made again
SIGN = 4  # digits of a hash that tell two of one name apart


@dataclass(frozen=True)
class JudgedRun:
    """A verdict, and what it is of.

    Attributes:
        cells: per method and question.
        model: the weights' fingerprint, shortened.
        about: what the figures are of, in sentences.
    """

    cells: Cells
    model: str
    about: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {"weights": self.model, **verdict_as_json(self.cells, about=self.about)}


class _Read(dict[tuple[str, str, int], MethodScores]):
    """Rows by method, data set and number of facts."""

    def put(self, row: MethodScores) -> None:
        """Add a row; of two that have a score the one of more records counts."""
        key = row.method, row.dataset, row.facts
        self[key] = _joined(self[key], row) if key in self else row


class _Signs:
    """What tells rows apart that have one name: methods with several settings, data sets with several contents.

    Args:
        runs: the settings of every run that is read, of all folders.
    """

    def __init__(self, runs: Iterable[Mapping[str, Any]]) -> None:
        self._methods, self._data = dict[str, dict[str, None]](), dict[str, dict[str, None]]()
        for settings in runs:
            if settings["method"] != UNEDITED:
                self._methods.setdefault(str(settings["method"]), {})[_digest(settings)] = None
            name, content = name_and_content(str(settings["dataset"]))
            self._data.setdefault(name, {})[content] = None

    def method(self, settings: Mapping[str, Any]) -> str:
        """Return the method's name; with a sign of its settings where others are there."""
        name = str(settings["method"])
        return name if len(self._methods[name]) == 1 else f"{name} ({_digest(settings)})"

    def dataset(self, settings: Mapping[str, Any]) -> str:
        """Return the data set's name; with a sign of its content where another is there."""
        name, content = name_and_content(str(settings["dataset"]))
        return name if len(self._data[name]) == 1 else f"{name} ({content[:SIGN]})"

    def told(self) -> list[str]:
        """Return sentences on what was kept apart."""
        said = "stands here with {} {}; they are kept apart, each with the sign in brackets."
        return [
            f"{name} {said.format(len(signs), what)}"
            for names, what in ((self._methods, "settings"), (self._data, "contents"))
            for name, signs in names.items()
            if len(signs) > 1
        ]


def judged_results(folders: Sequence[Path], *, methods: Sequence[str] = ()) -> JudgedRun:
    """Judge methods by the results that folders hold.

    Args:
        folders: which `factedit evaluate` or `reproduce` wrote, all of one model; or folders of such folders; or one
            that holds a verdict.json alone, whose figures are judged and shown again.
        methods: only these, in this order; none: all, as they were evaluated.

    Raises:
        DataError: a folder without results.
        UsageError: results of several models, no unedited model beside them, or a method that is not there.
    """
    again = _kept_verdict(folders)
    if again is not None:
        return replace(again, cells=_only(again.cells, methods))
    kept, read = _Read(), list[str]()
    with ExitStack() as opened:
        stores = [opened.enter_context(ResultStore(path, read_only=True)) for path in _stores(folders)]
        every = [settings for store in stores for settings in _settings(store)]
        weights, signs = dict.fromkeys(str(settings.get("weights")) for settings in every), _Signs(every)
        for store in stores:
            for name, ids, keys in store.selections():
                for row in _rows(store, signs, ids, keys):
                    kept.put(row)
                    read.append(f"{row.method} on {row.dataset}: {name}")
    if len(weights) > 1:
        raise UsageError(
            f"The results are of {len(weights)} models; a verdict is on methods for one. Name its folders."
        )
    if not kept:
        raise UsageError(
            "No method stands beside the unedited model in these results, so nothing can be judged. Evaluate at least "
            "one method (factedit evaluate)."
        )
    model = next(iter(weights))[:12]
    told = (f"Weights {model}… .", *(f"{line}." for line in dict.fromkeys(read)), *signs.told())
    return JudgedRun(_only(judge(kept.values()), methods), model, told)


def _only(cells: Cells, methods: Sequence[str]) -> Cells:
    """Return the cells of some methods, in their order; of all where none is named.

    Raises:
        UsageError: one that is not there.
    """
    missing = [name for name in methods if name not in cells]
    if missing:
        raise UsageError(f"{', '.join(missing)} is not in these results; there are {', '.join(cells)}.")
    return {name: cells[name] for name in methods or cells}


def _kept_verdict(folders: Sequence[Path]) -> JudgedRun | None:
    """Return the verdict that a single folder holds in place of results; None where it is none.

    Raises:
        DataError: its verdict.json is of another form.
    """
    file = folders[0] / KEPT
    if len(folders) > 1 or not file.is_file() or _stores_in(folders[0]):
        return None
    try:
        rows = parse_json(read_text(file))
        return JudgedRun(verdict_from(rows), str(rows["weights"]), tuple(map(str, rows["about"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is no verdict that 'factedit verdict' wrote: {error!r}.") from error


def _settings(store: ResultStore) -> list[Mapping[str, Any]]:
    """Return the settings of a store's runs, each with the method that it is of."""
    runs = list[Mapping[str, Any]]()
    for name, settings in store.runs().values():
        checked_run(store, settings)
        runs.append({"method": name, **settings})
    return runs


def _stores_in(folder: Path) -> list[Path]:
    return [folder / STORE] if (folder / STORE).is_file() else sorted(folder.glob(f"*/{STORE}"))


def _stores(folders: Sequence[Path]) -> list[Path]:
    stores: list[Path] = []
    for folder in folders:
        in_folder = _stores_in(folder)
        if not in_folder:
            raise DataError(f"{folder} has no {STORE}, nor has a folder in it; give what 'factedit evaluate' wrote.")
        stores += in_folder
    return stores


def _rows(store: ResultStore, signs: _Signs, ids: Sequence[str], keys: Sequence[str]) -> list[MethodScores]:
    """Return the rows of one selection, its edited models beside the unedited one."""
    runs = store.runs()
    known = [key for key in keys if key in runs]
    every = {key: store.results(key) for key in known}
    results = {key: cases_of(store, stored) for key, stored in every.items()}
    base = next((key for key in known if runs[key][0] == UNEDITED), None)
    if base is None or not results[base].keys() & set(ids):
        return []
    columns = [column for metric in all_metrics().values() for column in metric.columns]
    base_scores = summary_of([results[base][case] for case in ids if case in results[base]])
    scored = []
    for key in known:
        cases = {case: results[key][case] for case in ids if case in results[key]}
        if key == base or not cases:
            continue
        before, after = (
            {case: rows[case]["scores"] for case in cases if case in rows} for rows in (results[base], cases)
        )
        change = compare({UNEDITED: before, "edited": after}).change["edited"]
        scores = summary_of(list(cases.values())) | wholes_of(store, every[key])
        settings = {"method": runs[key][0], **runs[key][1]}
        silent = not_measurable({UNEDITED: base_scores}, columns)
        scored.append(
            MethodScores(
                signs.method(settings), signs.dataset(settings), _facts(settings), scores, change, frozenset(silent)
            )
        )
    return scored


def _facts(settings: Mapping[str, Any]) -> int:
    """Return how many facts are on the model together in a run."""
    regime = settings.get("regime", {})
    return int(regime.get("count") or regime.get("joint") or 1)


def _digest(settings: Mapping[str, Any]) -> str:
    """Return a sign of a method's settings."""
    text = json.dumps(settings.get("settings"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:SIGN]


def _joined(one: MethodScores, other: MethodScores) -> MethodScores:
    """Return two rows of one name as one: of a score that both have, that of more records; the first where equal."""
    change = _larger(one.change, other.change)
    names = dict.fromkeys((*one.scores, *other.scores))
    of = {
        name: max((row for row in (one, other) if name in row.scores), key=lambda r: r.scores[name].n) for name in names
    }
    silent = frozenset(name for name, row in of.items() if name in row.silent)
    return one._replace(scores={name: row.scores[name] for name, row in of.items()}, change=change, silent=silent)


def _larger(one: Mapping[str, Estimate], other: Mapping[str, Estimate]) -> dict[str, Estimate]:
    names = dict.fromkeys((*one, *other))
    return {name: max((row[name] for row in (one, other) if name in row), key=lambda e: e.n) for name in names}
