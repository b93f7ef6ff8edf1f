"""`factedit train`: the networks of KE and MEND."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    examples,
    model_opener,
    note,
    out,
    progress_bars,
    seed_option,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell

if TYPE_CHECKING:
    from factedit.work.train import Training

LOSS = "Loss and optimiser"


@examples(
    "factedit train mend gemma3-270m --data zsre",
    "factedit train ke gemma3-270m --data mine.jsonl --out networks/mine",
)
def command(
    kind: Annotated[str, typer.Argument(help="ke or mend", show_default=False)],
    model: Model,
    data: Annotated[str, typer.Option(help="general, zsre, counterfact, or a file of facts")] = "general",
    out_dir: Annotated[
        Path | None, typer.Option("--out", help="folder of the network; the same command goes on there")
    ] = None,
    steps: Annotated[int | None, typer.Option("--updates", min=1, help="updates at most", show_default="2000")] = None,
    batch: Annotated[int | None, typer.Option(help="examples per update", show_default="8")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(rich_help_panel=LOSS, help="Adam's, of the network", show_default="0.001")
    ] = None,
    rate_learning_rate: Annotated[
        float | None, typer.Option(rich_help_panel=LOSS, help="Adam's, of MEND's learned rates", show_default="0.0001")
    ] = None,
    c_edit: Annotated[
        float | None, typer.Option(rich_help_panel=LOSS, help="weight of taking up the edit", show_default="0.1")
    ] = None,
    c_loc: Annotated[
        float | None, typer.Option(rich_help_panel=LOSS, help="weight of leaving other texts alone", show_default="1.0")
    ] = None,
    validate_every: Annotated[
        int | None, typer.Option(help="updates between validations and checkpoints", show_default="100")
    ] = None,
    validation: Annotated[int | None, typer.Option(help="examples held out for validation", show_default="32")] = None,
    rank: Annotated[int | None, typer.Option(help="MEND: of the low-rank maps", show_default="256")] = None,
    blocks: Annotated[int | None, typer.Option(help="how many last blocks are edited", show_default="3")] = None,
    seed: Annotated[int | None, seed_option("of the initial weights, the split and the draws", default="0")] = None,
    corpus: Annotated[str | None, typer.Option(help="general text; default: text the model writes itself")] = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    dry_run: Dry = False,
) -> None:
    """Train the network that an editing method needs; resumes, and keeps the best on held-out examples."""
    if dry_run:
        from factedit.work.dry_run import dry_train

        model_outline = outlined(model, threads=threads, dtype=dtype, device=device)
        tell(dry_train(model_outline, kind, steps=steps, batch=batch), json)
        return
    from factedit.work.train import train_network

    with progress_bars() as progress:
        training = train_network(
            model_opener(model, threads=threads, dtype=dtype, device=device), kind, data=data, folder=out_dir,
            corpus=corpus, rank=rank, progress=progress, steps=steps, batch=batch, learning_rate=learning_rate,
            rate_learning_rate=rate_learning_rate, c_edit=c_edit, c_loc=c_loc, validate_every=validate_every,
            validation=validation, blocks=blocks, seed=seed,
        )  # fmt: skip
    out.print(_table(training))
    note(f"network: {training.folder} ({training.megabytes:.1f} MB), {training.record.seconds:.0f} s in all")
    write_json(json, training.as_json())


def _table(training: Training) -> Table:
    record = training.record
    table = Table("step", "validation loss", "−log P of the edit", "drift", title=f"{record.name}: {record.why}")
    for step, total, edit, drift in record.validation:
        mark = " ← kept" if step == record.best_step else ""
        table.add_row(f"{step:.0f}{mark}", f"{total:.4f}", f"{edit:.3f}", f"{drift:.4f}")
    return table
