"""`factedit report`: tables of finished or running evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factedit.cli.common import Json, err, out, without_nan, write_json
from factedit.errors import DataError

if TYPE_CHECKING:
    from factedit.evaluate.metrics import Estimate
    from factedit.evaluate.store import ResultStore


def command(
    folders: Annotated[list[Path], typer.Argument(help="folders that 'factedit evaluate' wrote", show_default=False)],
    json: Json = None,
) -> None:
    """Print and write the tables (Markdown, CSV) of results folders."""
    from factedit.evaluate.run import as_numbers
    from factedit.evaluate.store import ResultStore
    from factedit.report.tables import write_summary

    found = {}
    for folder in folders:
        path = folder / "results.sqlite"
        if not path.is_file():
            raise DataError(f"{folder} has no results.sqlite; give a folder that 'factedit evaluate' wrote.")
        with ResultStore(path) as store:
            summary = summaries(store)
        if not summary:
            raise DataError(f"{folder} holds no finished case yet; run 'factedit evaluate' with --out {folder}.")
        out.print(write_summary(summary, folder, title=str(folder), as_json=None))
        err.print(f"tables: {folder / 'table.md'}, {folder / 'table.csv'}")
        found[str(folder)] = {name: as_numbers(row) for name, row in summary.items()}
    write_json(json, without_nan(found))


def summaries(store: ResultStore) -> dict[str, dict[str, Estimate]]:
    """A row per selection of records and run, from the cases that are finished."""
    from factedit.evaluate.run import summary_of

    runs, found = store.runs(), {}
    for selection, ids, keys in store.selections():
        for key in keys:
            method, settings = runs[key]
            results = store.results(key)
            rows = [results[case] for case in ids if case in results]
            if rows:
                missing = "" if len(rows) == len(ids) else f", {len(ids) - len(rows)} missing"
                failed = sum("failed" in row for row in rows)
                missing += f", {failed} could not be edited" if failed else ""
                name = f"{method} [{settings['dataset'].split()[0]}, {selection}{missing}, {key[:6]}]"
                found[name] = summary_of(rows, seed=settings["seed"])
    return found
