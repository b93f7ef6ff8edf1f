"""`factedit reproduce`: a table of the ROME paper, with every method in it, on any model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import (
    Cluster,
    Device,
    Dtype,
    Json,
    MomentFile,
    MomentText,
    NamedModel,
    OptionalModel,
    Threads,
    TrainedFolder,
    Workers,
    err,
    examples,
    note,
    out,
    progress_bars,
    seed_option,
    team_and_opener,
    which_model,
    without_nan,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell
from factedit.cli.many import AtOnce, BatchSize, Checkpoints, InSequence, numbers_in

TEXTS = "Sampled texts"


@examples(
    "factedit reproduce counterfact --records 100 --method ft,ft-l,rome",
    "factedit reproduce zsre gemma3-270m --out runs/zsre",
    "factedit reproduce counterfact --method memit --sequence 200 --out runs/many",
)
def command(
    which: Annotated[str, typer.Argument(help="zsre (Table 1) or counterfact (Table 4)", show_default=False)],
    model: OptionalModel = None,
    named_model: NamedModel = None,
    records: Annotated[
        int | None, typer.Option(min=1, help="how many records, drawn with --seed; default: all")
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            "--method", "--methods", help="methods with commas; all: every row of the table whose network is trained"
        ),
    ] = "all",
    trained: TrainedFolder = None,
    seed: Annotated[int, seed_option("of the draw and of sampled texts")] = 0,
    fluency: Annotated[
        bool,
        typer.Option(
            "--fluency/--no-fluency", rich_help_panel=TEXTS, help="their scores, where the table has some (slow)"
        ),
    ] = True,
    fluency_records: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=TEXTS, help="over the first so many of the records only; default: all"),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=TEXTS,
            help="texts about objects that they are compared with, JSON; default: the data set's own facts",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(show_default=False, help="other facts than the table's, see 'factedit datasets', or a file"),
    ] = None,
    at_once: AtOnce = None,
    sequence: InSequence = None,
    checkpoints: Checkpoints = "",
    batch: BatchSize = None,
    second_moment: MomentFile = None,
    corpus: MomentText = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="folder of table and results; goes on there, and keeps its other rows")
    ] = Path("runs/table"),
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    workers: Workers = None,
    cluster: Cluster = None,
    dry_run: Dry = False,
) -> None:
    """Run the unedited model and all methods over a data set, and write the paper's table with ours beside it."""
    source = which_model(model, named_model)
    from factedit.report.figures_many import write_many_figure
    from factedit.report.paper import write_table
    from factedit.report.tables import summary_table
    from factedit.report.verdict import verdicts_in_words
    from factedit.work.reproduce import reproduce_table

    if dry_run:
        from factedit.work.dry_evaluations import dry_table

        model_outline = outlined(source, threads=threads, dtype=dtype, device=device)
        planned = dry_table(
            which, model_outline, methods=methods, records=records, seed=seed, fluency=fluency, dataset=dataset,
            batch=batch, at_once=at_once, sequence=sequence, checkpoints=numbers_in(checkpoints),
            ready=second_moment is not None, own_text=corpus is None,
        )  # fmt: skip
        tell(planned, json)
        return
    team, opener = team_and_opener(workers, cluster, source, threads=threads, dtype=dtype, device=device)
    with progress_bars() as progress:
        made = reproduce_table(
            which, opener, out_dir, source=source,
            methods=methods, trained=trained, records=records, seed=seed, fluency=fluency,
            fluency_records=fluency_records, references=references, dataset=dataset, batch=batch, at_once=at_once,
            sequence=sequence, checkpoints=numbers_in(checkpoints), second_moment=second_moment, corpus=corpus,
            team=team, progress=progress,
        )  # fmt: skip
    for text in made.told:
        err.print(text, style="yellow")
    summary, comparison, rows = made.evaluation.summary, made.evaluation.comparison(), without_nan(made.as_json())
    write_table(
        made.benchmark, summary, comparison, out_dir, model=made.model, memory=made.memory, notes=made.notes,
        as_json=rows, protocol=made.protocol,
    )  # fmt: skip
    figure = write_many_figure(made.evaluation, out_dir)
    if figure is not None:
        note(f"figure: {figure}")
    out.print(summary_table(summary, title=f"{made.benchmark.title} on {made.model}"))
    out.print(verdicts_in_words(summary, comparison, made.benchmark))
    note(f"table: {out_dir / 'table.md'}")
    write_json(json, rows)
