"""`factedit evaluate`: what methods do to many facts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import (
    Cluster,
    Device,
    Dtype,
    Json,
    Model,
    MomentFile,
    MomentText,
    PresetName,
    Set,
    Stream,
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
    without_nan,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell
from factedit.cli.many import AtOnce, BatchSize, Checkpoints, InSequence, numbers_in

RECORDS, MEASURED = "Records", "What is measured"


@examples(
    "factedit evaluate gemma3-270m --method ft,rome --records 50",
    "factedit evaluate gemma3-270m --dataset counterfact --fluency --out runs/cf",
    "factedit evaluate gpt2 --method rome-joint,memit --at-once 100 --out runs/100",
    "factedit evaluate gpt2 --method memit --sequence 300 --batch 100 --out runs",
)
def command(
    model: Model,
    dataset: Annotated[str, typer.Option(help="see 'factedit datasets', or a file")] = "worldfacts",
    method: Annotated[str, typer.Option(help="one or more of 'factedit methods', with commas")] = "rome",
    stop: Annotated[
        bool, typer.Option("--stop", help="each method also in the form that trains the end of the answer (+stop)")
    ] = False,
    trained: TrainedFolder = None,
    records: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=RECORDS, help="how many records, drawn with --seed; default: all"),
    ] = None,
    ids: Annotated[
        str | None, typer.Option(rich_help_panel=RECORDS, help="instead: these case ids, with commas")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            rich_help_panel=RECORDS, help="report: records no preset was tuned on, of your own file all; tune; all"
        ),
    ] = "report",
    seed: Annotated[int, seed_option("of the draw and of sampled texts")] = 0,
    benchmark: Annotated[
        str | None,
        typer.Option(rich_help_panel=MEASURED, help="one of 'factedit benchmarks'; default: the data set's own"),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            rich_help_panel=MEASURED, help="also these of 'factedit metrics', with commas; paper or all for several"
        ),
    ] = "",
    free: Annotated[
        bool, typer.Option("--free/--no-free", rich_help_panel=MEASURED, help="what the model writes by itself")
    ] = True,
    fluency: Annotated[
        bool, typer.Option("--fluency", rich_help_panel=MEASURED, help="scores of sampled texts too (slow)")
    ] = False,
    references: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=MEASURED,
            help="texts about objects that sampled texts are compared with, JSON; default: the data set's own facts",
        ),
    ] = None,
    panel: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=MEASURED,
            help="true facts for the metrics panel and same-subject; default: the embedded ones",
        ),
    ] = None,
    abilities: Annotated[
        Path | None,
        typer.Option(rich_help_panel=MEASURED, help="folder of sets for the metric ability; default: in FACTEDIT_DATA"),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MEASURED,
            help="for the metric judge: base of an OpenAI-compatible endpoint; its key from FACTEDIT_JUDGE_KEY",
        ),
    ] = None,
    at_once: AtOnce = None,
    sequence: InSequence = None,
    checkpoints: Checkpoints = "",
    batch: BatchSize = None,
    settings: Set = None,
    preset: PresetName = "tuned",
    second_moment: MomentFile = None,
    corpus: MomentText = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="folder of the results; the same command goes on there")
    ] = Path("runs"),
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    workers: Workers = None,
    cluster: Cluster = None,
    stream: Stream = False,
    dry_run: Dry = False,
) -> None:
    """Edit records, each on its own or many together, and score them before and after; resumes where it stopped."""
    from factedit.evaluate.metrics.table import DEFAULT, FLUENCY
    from factedit.report.figures_many import write_many_figure
    from factedit.report.tables import write_summary
    from factedit.work.evaluate import evaluate_dataset

    if stop:
        from factedit.work.methods import with_stopping

        method = with_stopping(method)
    further = [name.strip() for name in metrics.split(",") if name.strip()]
    asked = (*(DEFAULT if free else ()), *(FLUENCY if fluency else ()), *further)
    if dry_run:
        from factedit.work.dry_evaluations import dry_dataset

        model_outline = outlined(model, threads=threads, dtype=dtype, device=device, stream=stream)
        planned = dry_dataset(
            model_outline, dataset, methods=method, records=records, ids=None if ids is None else ids.split(","),
            split=split, seed=seed, benchmark=benchmark, metrics=asked, batch=batch, at_once=at_once,
            sequence=sequence, checkpoints=numbers_in(checkpoints), settings=settings or (), preset=preset,
            ready=second_moment is not None, own_text=corpus is None,
        )  # fmt: skip
        tell(planned, json)
        return
    team, opener = team_and_opener(workers, cluster, model, threads=threads, dtype=dtype, device=device, stream=stream)
    with progress_bars() as progress:
        evaluated = evaluate_dataset(
            opener, dataset, out_dir, methods=method,
            trained=trained, records=records, ids=None if ids is None else ids.split(","), split=split, seed=seed,
            benchmark=benchmark, metrics=asked,
            references=references, inputs={"panel": panel, "abilities": abilities, "judge": judge},
            batch=batch, at_once=at_once,
            sequence=sequence,
            checkpoints=numbers_in(checkpoints), settings=settings or (), preset=preset,
            second_moment=second_moment, corpus=corpus, team=team, progress=progress,
        )  # fmt: skip
    for text in evaluated.notes:
        err.print(text, style="yellow")
    rows = without_nan(evaluated.as_json())
    title = f"{evaluated.dataset} on {evaluated.about['model']}"
    out.print(
        write_summary(
            evaluated.evaluation.summary,
            out_dir,
            title=title,
            as_json=rows,
            notes=evaluated.notes,
            about=evaluated.about,
        )
    )
    figure = write_many_figure(evaluated.evaluation, out_dir, model=evaluated.about["model"])
    if figure is not None:
        note(f"figure: {figure}")
    note(f"results: {evaluated.store}, summary: {out_dir / 'summary.json'}")
    write_json(json, rows)
