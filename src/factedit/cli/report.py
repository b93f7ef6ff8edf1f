"""`factedit report`: tables of finished or running evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import Json, err, out, without_nan, write_json
from factedit.errors import DataError


def command(
    folders: Annotated[list[Path], typer.Argument(help="folders that 'factedit evaluate' wrote", show_default=False)],
    json: Json = None,
) -> None:
    """Print and write the tables (Markdown, CSV) of results folders."""
    from factedit.evaluate.metrics import summarise
    from factedit.evaluate.store import ResultStore
    from factedit.report.tables import write_summary

    found = {}
    for folder in folders:
        path = folder / "results.sqlite"
        if not path.is_file():
            raise DataError(f"{folder} has no results.sqlite; give a folder that 'factedit evaluate' wrote.")
        with ResultStore(path) as store:
            summary, as_json = {}, {}
            for run, (method, settings) in store.runs().items():
                rows = [row["scores"] for row in store.results(run).values()]
                if rows:
                    name = f"{method} [{settings['dataset'].split()[0]}, {run[:6]}]"
                    summary[name] = summarise(rows)
                    as_json[name] = {"n": len(rows), **{k: e.value for k, e in summary[name].items()}}
        out.print(write_summary(summary, folder, title=str(folder), as_json=None))
        err.print(f"tables: {folder / 'table.md'}, {folder / 'table.csv'}", highlight=False)
        found[str(folder)] = as_json
    write_json(json, without_nan(found))
