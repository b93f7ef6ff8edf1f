"""`factedit ability`: what edits cost elsewhere, through lm-evaluation-harness."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from factedit.cli.common import (
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    examples,
    note,
    open_source,
    out,
    progress_bars,
    write_json,
)  # fmt: skip
from factedit.cli.dry import Dry, outlined, tell
from factedit.errors import UsageError


@examples(
    "factedit ability gemma3-270m edits/needle --tasks lambada,arc-easy",
    "factedit ability gemma3-270m --data sets/ --write-tasks tasks/",
)
def command(
    model: Model,
    edits: Annotated[
        list[Path] | None, typer.Argument(help="folders that 'factedit edit' wrote, in order", show_default=False)
    ] = None,
    tasks: Annotated[str, typer.Option(help="which, with commas; default: all that the folder holds")] = "",
    data: Annotated[
        Path | None, typer.Option(help="folder of the sets; default: 'ability' in the folder FACTEDIT_DATA")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="so many items of each, evenly drawn")] = None,
    batch: Annotated[int, typer.Option(min=1, help="texts at a time, a matter of memory only")] = 16,
    write: Annotated[
        Path | None,
        typer.Option("--write-tasks", help="only write the tasks here, for lm_eval --include_path on an export"),
    ] = None,
    json: Json = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    dry_run: Dry = False,
) -> None:
    """Ask sets of other abilities before and after edits: differences over items, and how many answers changed."""
    from factedit.report.ability import ability_table
    from factedit.work.ability import ask_abilities, write_ability_tasks

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if write is not None:
        if json is not None:
            raise UsageError("With --write-tasks tasks are only written, and there is no result: leave --json out.")
        made = write_ability_tasks(write, data, names, limit)
        note(f"lm_eval --model hf --model_args pretrained=FOLDER --include_path {write} --tasks {','.join(made)}")
        return
    if dry_run:
        from factedit.work.dry_studies import dry_ability

        planned = dry_ability(
            outlined(model, threads=threads, dtype=dtype, device=device), source=model, edits=edits or (), data=data,
            names=names, limit=limit, batch=batch,
        )  # fmt: skip
        tell(planned, json)
        return
    opener = partial(open_source, model, threads=threads, dtype=dtype, device=device)
    with progress_bars() as progress:
        abilities = ask_abilities(
            opener, edits or [], data=data, names=names, limit=limit, batch=batch, progress=progress
        )
    for text in abilities.notes:
        note(text)
    out.print(ability_table(abilities.as_json()))
    write_json(json, abilities.as_json())
