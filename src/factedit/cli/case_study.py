"""`factedit case-study`: what each method makes the model write about the same facts (figure 6 of the paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    MomentFile,
    MomentText,
    Threads,
    TrainedFolder,
    examples,
    model_opener,
    note,
    progress_bars,
    seed_option,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell


@examples(
    "factedit case-study gemma3-270m --dataset worldfacts --method ft,rome",
    "factedit case-study gemma3-270m --ids 7,21 --tokens 60 --out seven.html",
)
def command(
    model: Model,
    dataset: Annotated[str, typer.Option(help="see 'factedit datasets', or a file")] = "counterfact",
    ids: Annotated[str | None, typer.Option(help="case ids, with commas; default: the first --records drawn")] = None,
    records: Annotated[int, typer.Option(help="how many records, drawn with --seed")] = 3,
    methods: Annotated[str, typer.Option("--method", "--methods", help="with commas")] = "ft,ft-l,kn,rome",
    trained: TrainedFolder = None,
    tokens: Annotated[int, typer.Option(min=1, help="tokens written at most")] = 40,
    seed: Annotated[int, seed_option("of the draw")] = 0,
    second_moment: MomentFile = None,
    corpus: MomentText = None,
    page: Annotated[Path, typer.Option("--out", help="the page")] = Path("case_study.html"),
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    dry_run: Dry = False,
) -> None:
    """Edit a few facts with every method, let the model write, and put it all on one page."""
    from factedit.report.case_study import write_study
    from factedit.work.case_study import case_study

    chosen = None if ids is None else ids.split(",")
    if dry_run:
        from factedit.work.dry_studies import dry_case_study

        outline = outlined(model, threads=threads, dtype=dtype, device=device)
        planned = dry_case_study(
            outline, dataset, ids=chosen, records=records, methods=methods, tokens=tokens, seed=seed,
            ready=second_moment is not None, own_text=corpus is None,
        )  # fmt: skip
        tell(planned, json)
        return
    with progress_bars() as progress:
        study = case_study(
            model_opener(model, threads=threads, dtype=dtype, device=device), dataset,
            ids=chosen, records=records, methods=methods, trained=trained, tokens=tokens, seed=seed,
            second_moment=second_moment, corpus=corpus, progress=progress,
        )  # fmt: skip
    write_study(study.cases, page, model=study.model, tokens=study.tokens)
    note(f"page: {page}")
    write_json(json, study.as_json())
