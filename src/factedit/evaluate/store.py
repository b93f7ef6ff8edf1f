"""Results in SQLite: survives kill -9 and resumes without losing or repeating a case.

A run is named by the hash of everything that decides its numbers; a case is one row. The cases of a chunk are
written in one transaction, so a chunk is there whole or not at all. Runs of earlier versions were also named by how
many records were computed at a time, which decides no more than rounding: their cases count for every run that differs
in nothing else (docs/decisions/0013-benchmarks-and-metrics.md).
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from factedit.errors import DataError, ResourceError, shown
from factedit.evaluate.column import MEMORY, SECONDS

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, method TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cases (
    run TEXT NOT NULL REFERENCES runs(run), case_id TEXT NOT NULL, result TEXT NOT NULL, PRIMARY KEY (run, case_id));
CREATE TABLE IF NOT EXISTS selections (name TEXT NOT NULL, ids TEXT NOT NULL, runs TEXT NOT NULL,
    PRIMARY KEY (name, ids, runs));
COMMIT;
"""
TABLES = {
    "runs": ("run", "method", "settings"),
    "cases": ("run", "case_id", "result"),
    "selections": ("name", "ids", "runs"),
}


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


FIELDS: dict[str, Callable[[Any], bool]] = {  # of a result, where it has them
    "scores": _of(_number),
    "tests": _of(lambda value: isinstance(value, list) and [type(n) for n in value] == [int, int]),
    "left_out": _of(lambda value: isinstance(value, str)),
    "failed": lambda value: isinstance(value, str),
    MEMORY: _number,
    SECONDS: _number,
}
MEMORY_ONLY = ("chunk",)  # settings in old names of runs that are a matter of memory only
MADE_WITH = ("version", "torch", "transformers", "setup", "protocol")  # by which program and rules, not what was asked
logger = logging.getLogger("factedit")


def name_and_content(dataset: str) -> tuple[str, str]:
    """Return a run's data set, `NAME SHA256` in its settings, as its name, which may have spaces, and the hash."""
    name, _, content = dataset.strip().rpartition(" ")
    return (name, content) if name else (content, "")


def run_key(settings: Mapping[str, Any]) -> str:
    """Return the name of a run: sha256 of its settings, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class ResultStore:
    """Results of evaluations in one SQLite file (WAL mode).

    A file that is something else is told before a byte of it is touched.

    Args:
        path: the file; made if it is not there.
        read_only: nothing is made or written.

    Raises:
        DataError: the file is not a results store, or damaged.
        ResourceError: the file cannot be written.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        there = self.path.exists()
        if there:
            _refuse_others(self.path)
        try:
            if read_only and there:
                self._db = _read_only(self.path)
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(SCHEMA)
        except (OSError, sqlite3.OperationalError) as error:
            raise ResourceError(f"The results {self.path} cannot be written: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise _no_store(self.path, str(error)) from error

    def begin(self, method: str, settings: Mapping[str, Any]) -> str:
        """Open a run and return its key; the same settings give the same run.

        Where the store holds what was asked as another program or other rules computed it, a warning says so.
        """
        key = run_key(settings)
        if key not in self.runs():
            self._say_made_otherwise(method, settings)
        self._write("INSERT OR IGNORE INTO runs VALUES (?, ?, ?)", [(key, method, json.dumps(settings))])
        return key

    def _say_made_otherwise(self, method: str, settings: Mapping[str, Any]) -> None:
        """Say which cases are not used, since another program or other rules computed them."""

        def asked(settings: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in settings.items() if name not in (*MADE_WITH, *MEMORY_ONLY)}

        for key, (name, other) in self.runs().items():
            if name == method and asked(other) == asked(settings):
                differ = [part for part in MADE_WITH if other.get(part) != settings.get(part)]
                if differ and (cases := self.done(key)):
                    logger.warning(
                        "%s holds %d cases of %s that were computed with another %s; they are kept and not used.",
                        self.path, len(cases), method, ", ".join(differ),
                    )  # fmt: skip

    def select(self, name: str, ids: Sequence[str], runs: Sequence[str]) -> None:
        """Note which cases were asked of which runs, so that a report does not pool what does not belong together."""
        row = (name, json.dumps(list(ids)), json.dumps(list(runs)))
        self._write("INSERT OR IGNORE INTO selections VALUES (?, ?, ?)", [row])

    def selections(self) -> list[tuple[str, list[str], list[str]]]:
        """Return (name, case ids, runs) of everything that was asked, oldest first."""
        rows = self._rows("SELECT name, ids, runs FROM selections ORDER BY rowid")
        return [(name, self._names(ids), self._names(runs)) for name, ids, runs in rows]

    def done(self, run: str) -> set[str]:
        """Return the cases of a run that are there."""
        rows = (self._rows("SELECT case_id FROM cases WHERE run = ?", alike) for alike in self._same(run))
        return {case for group in rows for (case,) in group}

    def _same(self, run: str) -> list[str]:
        """The runs that differ from this one in memory only, oldest first, and last the run itself."""

        def numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in settings.items() if name not in MEMORY_ONLY}

        known = self.runs()
        wanted = numbers(known[run][1]) if run in known else None
        return [*(other for other, (_, s) in known.items() if other != run and numbers(s) == wanted), run]

    def add(self, rows: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Add (run, case_id, result) rows, all or none.

        Raises:
            DataError: a result that could not be read again; a stranger's plug-in gave it.
            ResourceError: the disk is full, or another process holds the file.
        """
        packed = [(run, case, _packed(case, result)) for run, case, result in rows]
        self._write("INSERT OR REPLACE INTO cases VALUES (?, ?, ?)", packed)

    def _write(self, statement: str, rows: Sequence[Sequence[str]]) -> None:
        try:
            with self._db:
                self._db.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            raise ResourceError(
                f"{self.path} cannot take more results: {error}. What was written before is safe; free space and go on."
            ) from error

    def results(self, run: str) -> dict[str, dict[str, Any]]:
        """Return the results of a run by case."""
        results: dict[str, dict[str, Any]] = {}
        for alike in self._same(run):
            rows = self._rows("SELECT case_id, result FROM cases WHERE run = ?", alike)
            results |= {case: self._result(case, result) for case, result in rows}
        return results

    def runs(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return key to (method, settings) of every run, oldest first."""
        rows = self._rows("SELECT run, method, settings FROM runs ORDER BY rowid")
        return {run: (method, self._object(settings)) for run, method, settings in rows}

    def _rows(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        """Rows of text.

        Raises:
            DataError: the file is damaged.
        """
        try:
            rows = self._db.execute(statement, values).fetchall()
        except (sqlite3.Error, ValueError) as error:
            raise _no_store(self.path, str(error)) from error
        if any(not isinstance(value, str) for row in rows for value in row):
            raise _no_store(self.path, "a value in it is no text")
        return rows

    def _object(self, text: str) -> dict[str, Any]:
        parsed: dict[str, Any] = _typed(self.path, text, dict)
        return parsed

    def _result(self, case: str, text: str) -> dict[str, Any]:
        row = self._object(text)
        odd = _odd_field(row)
        if odd:
            raise _no_store(self.path, f"of case {shown(case)} the field {odd!r} is {shown(row[odd])}")
        return row

    def _names(self, text: str) -> list[str]:
        names: list[str] = _typed(self.path, text, list)
        if not all(isinstance(name, str) for name in names):
            raise _no_store(self.path, "a list of names in it holds something else")
        return names

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _odd_field(row: Mapping[str, Any]) -> str:
    """The first field of a result that is none of its kind; nothing where all are."""
    return next((name for name, fits in FIELDS.items() if name in row and not fits(row[name])), "")


def _packed(case: str, result: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(result)
        odd = _odd_field(json.loads(text))
    except (TypeError, ValueError) as error:
        raise DataError(f"The result of case {case} is not stored, since JSON cannot hold it: {error}.") from error
    if odd:
        raise DataError(f"The result of case {case} is not stored: its field {odd!r} is {shown(result[odd])}.")
    return text


def _read_only(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing; beside a store that another process writes, or in a folder that takes none."""
    for how in ("mode=ro", "immutable=1"):  # the second where no file can be made beside it
        db = sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True)
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            db.close()
            if how == "immutable=1":
                raise
            continue
        return db
    raise AssertionError("unreachable")


def _refuse_others(path: Path) -> None:
    """Refuse a file that is no results store, or damaged, and leave it as it is.

    Raises:
        DataError: saying what was found.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; name another folder.")
    if not path.stat().st_size:
        return  # made and not yet written
    try:
        with closing(_read_only(path)) as db:
            [(sound,), *_] = db.execute("PRAGMA quick_check(1)").fetchall()
            named = dict.fromkeys(name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))
            columns = {
                name: [row[1] for row in db.execute(f"PRAGMA table_info({name})")] for name in TABLES if name in named
            }
    except (sqlite3.Error, ValueError) as error:
        raise _no_store(path, str(error)) from error
    strange = bool(named) and not {"runs", "cases"} <= named.keys()
    if sound != "ok" or strange or any(list(TABLES[name]) != stored for name, stored in columns.items()):
        what = f"it is a database of {', '.join(sorted(map(str, named))[:3])}"
        what = what if strange else "its tables have other columns, as another version of factedit may have made them"
        what = what if sound == "ok" else shown(sound)
        raise _no_store(path, what)


def _typed(path: Path, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_store(path, "a value in it is not JSON") from error
    if not isinstance(value, kind):
        raise _no_store(path, f"a value in it is {shown(value)}")
    return value


def _no_store(path: Path, why: str) -> DataError:
    return DataError(f"{path} is not a results store: {' '.join(why.split())[:200]}. Name another folder.")
