"""`factedit stats`: second moments of the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from factedit.cli.common import (
    Cluster,
    Device,
    Dtype,
    Json,
    Model,
    Stream,
    Threads,
    Workers,
    examples,
    note,
    out,
    parse_layers,
    progress_bars,
    team_and_opener,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell


@examples(
    "factedit stats gemma3-270m --layers 3-8 --corpus texts/",
    "factedit stats gpt2-xl --layers 17 --corpus hf:wikimedia/wikipedia:20231101.en",
)
def command(
    model: Model,
    layers: Annotated[str, typer.Option(help="which layers, e.g. 3-8; 'preset' takes the preset's")] = "preset",
    corpus: Annotated[
        str | None,
        typer.Option(help="file or folder of text, or hf:DATASET:CONFIG; default: text the model writes itself"),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="how many tokens to read; default: 10 per entry of a key")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="also write the (single) layer's moment here, packed")] = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    workers: Workers = None,
    cluster: Cluster = None,
    stream: Stream = False,
    dry_run: Dry = False,
) -> None:
    """Compute E[k kᵀ] for layers, in one pass over the text; resumes, and keeps the result in the cache."""
    wanted = None if layers == "preset" else parse_layers(layers)
    if dry_run:
        from factedit.work.dry_run import dry_stats

        model_outline = outlined(model, threads=threads, dtype=dtype, device=device, stream=stream)
        tell(dry_stats(model_outline, layers=wanted, corpus=corpus, tokens=tokens), json)
        return
    from factedit.work.stats import compute_moments, reached_text

    team, source = team_and_opener(workers, cluster, model, threads=threads, dtype=dtype, device=device, stream=stream)
    with progress_bars() as progress:
        moments = compute_moments(
            source, layers=wanted, corpus=corpus, tokens=tokens, save=save, team=team, progress=progress
        )
    table = Table("layer", "tokens", "condition number", "ridge needed", "text")
    rows = moments.as_json()["layers"]
    for row in rows:
        whole = "condition" in row
        inverted = (f"{row['condition']:.2e}", f"{row['ridge']:g}") if whole else ("by expert", "by expert")
        table.add_row(str(row["layer"]), str(row["tokens"]), *inverted, row["corpus"])
    out.print(table)
    for row in rows:
        if "experts" in row:
            note(f"layer {row['layer']}: {reached_text(row['experts'])}")
    if save is not None:
        note(f"moment: {save}")
    write_json(json, moments.as_json())
