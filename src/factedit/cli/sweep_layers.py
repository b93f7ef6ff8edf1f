"""`factedit sweep-layers`: ROME's scores by edited layer and token (figure 5 of the paper)."""

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
    MomentText,
    Threads,
    Workers,
    err,
    examples,
    note,
    out,
    parse_layers,
    progress_bars,
    seed_option,
    team_and_opener,
    without_nan,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell


@examples("factedit sweep-layers gemma3-270m --layers 0-8 --records 20")
def command(
    model: Model,
    dataset: Annotated[str, typer.Option(help="see 'factedit datasets', or a file")] = "counterfact",
    records: Annotated[int, typer.Option(min=1, help="how many records, drawn with --seed")] = 25,
    layers: Annotated[str, typer.Option(help="which layers, e.g. 0-5,8; all")] = "all",
    tokens: Annotated[str, typer.Option(help="where to edit, with commas")] = "subject_first,subject_last,last",
    seed: Annotated[int, seed_option("of the draw")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="cases edited and scored together; a matter of memory only")] = 8,
    corpus: MomentText = None,
    out_dir: Annotated[
        Path, typer.Option("--out", help="folder of figure and results; the same command goes on there")
    ] = Path("runs/layers"),
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    workers: Workers = None,
    cluster: Cluster = None,
    dry_run: Dry = False,
) -> None:
    """Edit every record with ROME at each layer and token, score it, and draw the curves."""
    from factedit.report.figures import write_figure
    from factedit.report.figures_layers import layers_figure
    from factedit.report.tables import summary_table
    from factedit.work.sweep_layers import sweep_layers

    wanted = None if layers == "all" else parse_layers(layers)
    places = [token.strip() for token in tokens.split(",")]
    if dry_run:
        from factedit.work.dry_evaluations import dry_sweep

        model_outline = outlined(model, threads=threads, dtype=dtype, device=device)
        planned = dry_sweep(
            model_outline, dataset, records=records, layers=wanted, tokens=places, seed=seed, batch=batch,
            own_text=corpus is None,
        )  # fmt: skip
        tell(planned, json)
        return
    team, opener = team_and_opener(workers, cluster, model, threads=threads, dtype=dtype, device=device)
    with progress_bars() as progress:
        sweep = sweep_layers(
            opener, dataset, out_dir, records=records,
            layers=wanted, tokens=places, seed=seed, batch=batch, corpus=corpus, team=team, progress=progress,
        )  # fmt: skip
    for text in sweep.notes:
        err.print(text, style="yellow")
    figure = layers_figure(sweep.points, unedited=sweep.unedited, model=sweep.model, legs=sweep.benchmark.legs)
    write_figure(figure, out_dir / "layers.png")
    out.print(summary_table(sweep.summary, title=f"ROME by layer and token on {sweep.model}"))
    note(f"figure: {out_dir / 'layers.png'}")
    rows = without_nan(sweep.as_json())
    write_json(out_dir / "layers.json", rows)
    write_json(json, rows)
