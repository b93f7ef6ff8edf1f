"""`factedit report`: tables of finished or running evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factedit.cli.common import Json, err, out, without_nan, write_json
from factedit.errors import DataError

if TYPE_CHECKING:
    from factedit.evaluate.store import ResultStore


def command(
    folders: Annotated[list[Path], typer.Argument(help="folders that 'factedit evaluate' wrote", show_default=False)],
    json: Json = None,
) -> None:
    """Print and write the tables (Markdown, CSV) of results folders."""
    from factedit.evaluate.run import as_numbers, not_edited, summary_of
    from factedit.evaluate.store import ResultStore
    from factedit.report.tables import not_edited_text, write_summary

    found = {}
    for folder in folders:
        path = folder / "results.sqlite"
        if not path.is_file():
            raise DataError(f"{folder} has no results.sqlite; give a folder that 'factedit evaluate' wrote.")
        with ResultStore(path) as store:
            results = results_by_row(store)
        if not results:
            raise DataError(f"{folder} holds no finished case yet; run 'factedit evaluate' with --out {folder}.")
        summary = {name: summary_of(list(rows.values()), seed=seed) for name, (rows, seed) in results.items()}
        failed = {name: not_edited(rows) for name, (rows, _) in results.items()}
        notes = [not_edited_text(name, cases, len(results[name][0])) for name, cases in failed.items() if cases]
        for note in notes:
            err.print(note, style="yellow")
        out.print(write_summary(summary, folder, title=str(folder), as_json=None, notes=notes))
        err.print(f"tables: {folder / 'table.md'}, {folder / 'table.csv'}")
        found[str(folder)] = {name: as_numbers(row, failed[name]) for name, row in summary.items()}
    write_json(json, without_nan(found))


def results_by_row(store: ResultStore) -> dict[str, tuple[dict[str, dict[str, Any]], int]]:
    """Per selection of records and run the finished cases, and the seed of its bootstrap."""
    runs, found = store.runs(), {}
    for selection, ids, keys in store.selections():
        for key in keys:
            method, settings = runs[key]
            results = store.results(key)
            rows = {case: results[case] for case in ids if case in results}
            if rows:
                missing = "" if len(rows) == len(ids) else f", {len(ids) - len(rows)} missing"
                name = f"{method} [{settings['dataset'].split()[0]}, {selection}{missing}, {key[:6]}]"
                found[name] = rows, settings["seed"]
    return found
