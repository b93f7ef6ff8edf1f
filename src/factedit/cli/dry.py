"""`--dry-run`: what a command would take, said before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from factedit.cli.common import COMPUTING, note, out, write_json
from factedit.cli.console import duration

if TYPE_CHECKING:
    from factedit.models.outline import Outline
    from factedit.work.dry_run import DryRun

Dry = Annotated[
    bool,
    typer.Option(
        "--dry-run", rich_help_panel=COMPUTING, help="run nothing: say what it would take, here and on named machines"
    ),
]


def outlined(source: str, *, threads: int | None, dtype: str, device: str, stream: bool = False) -> Outline:
    """Return the outline of a model, with the process set up as for the command itself."""
    from factedit.work.inputs import outline_model

    return outline_model(source, threads=threads, dtype=dtype, device=device, stream=stream)


def tell(dry_run: DryRun, json: Path | None) -> None:
    """Print what a command would take."""
    table = Table("part", "TFLOP", "weights read, GB", title=f"{dry_run.command} on {dry_run.model}: nothing was run")
    for part in (*dry_run.parts, None):
        work = dry_run.work if part is None else part.work
        what = "in all" if part is None else part.what
        table.add_row(what, f"{work.flops / 1e12:.4g}", f"{work.read / 1e9:.4g}")
    out.print(table)
    disk = f", written {_bytes(dry_run.disk)}" if dry_run.disk else ""
    out.print(f"weights {_bytes(dry_run.weights)}, memory at the peak about {_bytes(dry_run.memory)}{disk}")
    if dry_run.streamed is not None:
        passes, size, seconds = dry_run.streamed
        out.print(
            f"read from disk {_bytes(size)}, in {passes:.3g} passes through the layers: about {duration(seconds)} at "
            f"the {size / seconds / 1e9:.2g} GB/s of what was tried"
        )
    times = Table("machine", "time at least", "memory")
    for time in dry_run.times:
        fits = {True: "fits", False: "too little: --stream reads layers from disk", None: "not known"}[time.fits]
        times.add_row(time.machine, duration(time.seconds), fits)
    out.print(times)
    for text in dry_run.notes:
        note(text)
    write_json(json, dry_run.as_json())


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
