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
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from factedit.errors import DataError, ResourceError

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, method TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cases (
    run TEXT NOT NULL REFERENCES runs(run), case_id TEXT NOT NULL, result TEXT NOT NULL, PRIMARY KEY (run, case_id));
CREATE TABLE IF NOT EXISTS selections (name TEXT NOT NULL, ids TEXT NOT NULL, runs TEXT NOT NULL,
    PRIMARY KEY (name, ids, runs));
COMMIT;
"""
MEMORY_ONLY = ("chunk",)  # settings in old names of runs that are a matter of memory only
MADE_WITH = ("version", "torch", "transformers", "setup", "protocol")  # by which program and rules, not what was asked
log = logging.getLogger("factedit")


def run_key(settings: Mapping[str, Any]) -> str:
    """The name of a run: sha256 of its settings, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class ResultStore:
    """Results of evaluations in one SQLite file (WAL mode).

    Args:
        path: the file; made if it is not there.

    Raises:
        DataError: the file is not a results store.
        ResourceError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign()
            self._db = sqlite3.connect(self.path)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(SCHEMA)
            self._db.execute("SELECT runs.run, method, settings, cases.run, case_id, result FROM runs, cases LIMIT 1")
        except (OSError, sqlite3.OperationalError) as error:
            if "no such column" in str(error):
                raise DataError(f"{self.path} is not a results store ({error}); name another folder.") from error
            raise ResourceError(f"The results {self.path} cannot be written: {error}.") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.path} is not a results store ({error}); name another folder.") from error

    def _refuse_foreign(self) -> None:
        """Refuse somebody's database or other file before it is written to.

        Raises:
            DataError: naming what it is.
        """
        if self.path.exists() and not self.path.is_file():
            raise DataError(f"{self.path} is not a file; name another folder.")
        if not self.path.is_file() or not self.path.stat().st_size:
            return
        with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as there:
            tables = {name for (name,) in there.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and not {"runs", "cases"} <= tables:
            raise DataError(
                f"{self.path} is not a results store: it is a database of {', '.join(sorted(tables)[:3])}. "
                "Name another folder."
            )

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
                    log.warning(
                        "%s holds %d cases of %s that were computed with another %s; they are kept and not used.",
                        self.path, len(cases), method, ", ".join(differ),
                    )  # fmt: skip

    def select(self, name: str, ids: Sequence[str], runs: Sequence[str]) -> None:
        """Note which cases were asked of which runs, so that a report does not pool what does not belong together."""
        row = (name, json.dumps(list(ids)), json.dumps(list(runs)))
        self._write("INSERT OR IGNORE INTO selections VALUES (?, ?, ?)", [row])

    def selections(self) -> list[tuple[str, list[str], list[str]]]:
        """(name, case ids, runs) of everything that was asked, oldest first."""
        found = self._db.execute("SELECT name, ids, runs FROM selections ORDER BY rowid")
        return [(name, json.loads(ids), json.loads(runs)) for name, ids, runs in found]

    def done(self, run: str) -> set[str]:
        """The cases of a run that are there."""
        rows = (self._db.execute("SELECT case_id FROM cases WHERE run = ?", (own,)) for own in self._same(run))
        return {case for own in rows for (case,) in own}

    def _same(self, run: str) -> list[str]:
        """The runs that differ from this one in memory only, oldest first, and last the run itself."""

        def numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in settings.items() if name not in MEMORY_ONLY}

        known = self.runs()
        own = numbers(known[run][1]) if run in known else None
        return [*(other for other, (_, s) in known.items() if other != run and numbers(s) == own), run]

    def add(self, rows: Iterable[tuple[str, str, Mapping[str, Any]]]) -> None:
        """Add (run, case_id, result) rows, all or none.

        Raises:
            ResourceError: the disk is full, or another process holds the file.
        """
        packed = [(run, case, json.dumps(result)) for run, case, result in rows]
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
        """The results of a run by case."""
        found: dict[str, dict[str, Any]] = {}
        for own in self._same(run):
            rows = self._db.execute("SELECT case_id, result FROM cases WHERE run = ?", (own,))
            found |= {case: json.loads(result) for case, result in rows}
        return found

    def runs(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Key to (method, settings) of every run, oldest first."""
        found = self._db.execute("SELECT run, method, settings FROM runs ORDER BY rowid")
        return {run: (method, json.loads(settings)) for run, method, settings in found}

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> ResultStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
