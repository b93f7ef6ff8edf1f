"""`factedit verdict`: what results say of methods, in one table and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import Json, examples, note, out, without_nan, write_json


@examples(
    "factedit verdict runs --out verdict",
    "factedit verdict runs/cf runs/zsre --method rome,ice,ft --out verdict",
    "factedit verdict docs/results/verdict-gemma3-270m --out verdict",
)
def command(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="folders that 'factedit evaluate' wrote, a folder of such folders, or one with a verdict.json",
            show_default=False,
        ),
    ],
    methods: Annotated[
        str, typer.Option("--method", "--methods", help="only these, in this order, with commas; default: all")
    ] = "",
    title: Annotated[str, typer.Option(help="of the page")] = "Is editing the right way?",
    out_dir: Annotated[Path, typer.Option("--out", help="folder of verdict.html, verdict.md and verdict.json")] = Path(
        "verdict"
    ),
    json: Json = None,
) -> None:
    """Judge methods by their results: every question a mark and its figures, and the sentences that follow by rule."""
    from factedit.report.verdict_page import write_verdict
    from factedit.report.verdict_words import sentences
    from factedit.work.verdict import judged_results

    judged = judged_results(folders, methods=[name.strip() for name in methods.split(",") if name.strip()])
    rows = without_nan(judged.as_json())
    page = write_verdict(judged.cells, out_dir, title=title, about=judged.about, rows=rows)
    for text in sentences(judged.cells):
        out.print(text)
    note(f"page: {page}")
    write_json(json, rows)
