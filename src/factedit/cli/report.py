"""`factedit report`: tables of finished or running evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import Json, err, examples, note, out, write_json


@examples("factedit report runs", "factedit report runs/rome runs/ft --json -")
def command(
    folders: Annotated[list[Path], typer.Argument(help="folders that 'factedit evaluate' wrote", show_default=False)],
    json: Json = None,
) -> None:
    """Print and write the tables (Markdown, CSV) of results folders."""
    from factedit.outputs import check_tables
    from factedit.report.tables import summary_table, write_summary
    from factedit.work.results import read_results

    results = read_results(folders)
    for folder in results:
        check_tables(folder, ("table.md", "table.csv"))
    for folder, one in results.items():
        for text in one.notes:
            err.print(text, style="yellow")
        if (folder / "table.json").exists():
            out.print(summary_table(one.summary, title=str(folder)))
            note(f"{folder / 'table.md'} is the table of 'factedit reproduce', and is kept")
            continue
        out.print(write_summary(one.summary, folder, title=str(folder), as_json=None, notes=one.notes, about=one.about))
        note(f"tables: {folder / 'table.md'}, {folder / 'table.csv'}")
    write_json(json, {str(folder): one.as_json() for folder, one in results.items()})
